"""The trace of the current request or job: at its end it becomes one log line and is counted in the metrics.

Code on the way adds what it knows (`set_subject`, `record_error`); whoever began the trace
(`skylight.backend.web.tracing`, `skylight.backend.worker.tracing`) ends it. Without a trace, as in a thread of its own,
both do nothing.
"""

import logging
import time
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["ok", "faulty", "refused", "failed"]

# Categories of errors, for metrics and alerts, by the name of the class or of a base class: no import is needed.
CATEGORIES = {
    "MemoryError": "memory",
    "OutOfMemoryError": "memory",  # PyTorch's, of a GPU
    "JobTimeoutException": "time",
    "RedisError": "redis",
    "LabelStudioError": "label_studio",
    "MediaError": "image",
    "ImageError": "image",
    "CheckpointError": "checkpoint",
    "SamError": "checkpoint",
    "ConfigError": "configuration",
    "BadRequest": "request",
    "Forbidden": "forbidden",
    "InvalidRegion": "region",
    "SkylightError": "unavailable",  # any other that was foreseen
    "OSError": "system",  # the disk, above all
}
MAX_NAME = 100  # characters of a name that came from outside
OUTCOME_TEXTS = {"faulty": "done, but something in it failed"}

log = logging.getLogger(__name__)


def error_category(error: BaseException) -> str:
    """The category of an error, one of a fixed few."""
    names = [base.__name__ for base in type(error).__mro__]
    return next((CATEGORIES[name] for name in names if name in CATEGORIES), "unforeseen")


@dataclass
class Trace:
    """One request or job."""

    id: str
    what: str = ""  # kind of request or job: "click", "webhook ANNOTATION_CREATED", "train"
    project: str | None = None
    task: str | None = None
    method: str = ""  # of a request
    waited: float | None = None  # s in the queue, of a job
    causes: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.perf_counter)

    def record_error(self, error: BaseException) -> None:
        """Count an error by its category."""
        self.causes[error_category(error)] += 1

    def end(self, outcome: Outcome, status: int | None = None) -> float:
        """Write the log line; return the seconds since the trace began."""
        seconds = time.perf_counter() - self.began
        level = logging.INFO if outcome in ("ok", "refused") else logging.WARNING
        if log.isEnabledFor(level):
            log.log(
                level, "%s", self.sentence(outcome, seconds), extra={"trace": self.fields(outcome, seconds, status)}
            )
        return seconds

    def fields(self, outcome: Outcome, seconds: float, status: int | None) -> dict[str, Any]:
        """The fields of the log line, in reading order."""
        fields: dict[str, Any] = {"id": self.id, "what": self.what, "project": self.project, "task": self.task}
        if self.method:
            fields |= {"method": self.method, "status": status}
        if self.waited is not None:
            fields["waited_ms"] = round(1000 * self.waited, 1)
        fields |= {"ms": round(1000 * seconds, 1), "outcome": outcome}
        if self.causes:
            fields["causes"] = dict(self.causes)
        return fields

    def sentence(self, outcome: Outcome, seconds: float) -> str:
        """The log line as a sentence."""
        of = f"project {self.project} " if self.project else ""
        task = f"task {self.task} " if self.task else ""
        took = f"{1000 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.0f} s"
        waited = f" after {self.waited:.1f} s in the queue" if self.waited is not None and self.waited >= 1 else ""
        why = f" ({', '.join(self.causes)})" if self.causes else ""
        return f"{of}{task}{self.what}: {OUTCOME_TEXTS.get(outcome, outcome)}{why}, {took}{waited}"


CURRENT_TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)


def set_subject(what: str = "", project: object = None, task: object = None) -> None:
    """Set what the current request or job is about; what is left out stays as it was."""
    trace = CURRENT_TRACE.get()
    if trace is None:
        return
    trace.what = what[:MAX_NAME] or trace.what
    trace.project = trace.project if project is None else str(project)[:MAX_NAME]
    trace.task = trace.task if task is None else str(task)[:MAX_NAME]


def record_error(error: BaseException) -> None:
    """Count an error of the current request or job, which goes on."""
    trace = CURRENT_TRACE.get()
    if trace is not None:
        trace.record_error(error)

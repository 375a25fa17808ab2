"""What is noted of the request or the job in hand: at its end it becomes one line of the log and moves the figures.

Code on the way says what it knows (`note`, `fail`); whoever began the trace (`skylight.backend.web.tracing`) says the
line. Where there is none, as in a thread of its own, nothing is noted.
"""

import logging
import time
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["ok", "faulty", "refused", "failed"]

# By the class of an error, or one that it descends from: what an alert can be made of. By name: no import is needed.
CAUSES = {
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
LONGEST = 100  # characters of a name that came from outside
WORDS = {"faulty": "done, but something in it failed"}

log = logging.getLogger(__name__)


def error_category(error: BaseException) -> str:
    """The kind of an error, of a fixed few."""
    return next((CAUSES[each.__name__] for each in type(error).__mro__ if each.__name__ in CAUSES), "unforeseen")


@dataclass
class Trace:
    """One request or job."""

    id: str
    what: str = ""  # "click", "webhook ANNOTATION_CREATED", "train"
    project: str | None = None
    task: str | None = None
    method: str = ""  # of a request
    waited: float | None = None  # s in the queue, of a job
    causes: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.perf_counter)

    def record_error(self, error: BaseException) -> None:
        """Note an error."""
        self.causes[error_category(error)] += 1

    def end(self, outcome: Outcome, status: int | None = None) -> float:
        """Say the line; gives the seconds that it took."""
        seconds = time.perf_counter() - self.began
        level = logging.INFO if outcome in ("ok", "refused") else logging.WARNING
        if log.isEnabledFor(level):
            log.log(
                level, "%s", self.sentence(outcome, seconds), extra={"trace": self.fields(outcome, seconds, status)}
            )
        return seconds

    def fields(self, outcome: Outcome, seconds: float, status: int | None) -> dict[str, Any]:
        """The line's, in the order in which they are read."""
        found: dict[str, Any] = {"id": self.id, "what": self.what, "project": self.project, "task": self.task}
        if self.method:
            found |= {"method": self.method, "status": status}
        if self.waited is not None:
            found["waited_ms"] = round(1000 * self.waited, 1)
        found |= {"ms": round(1000 * seconds, 1), "outcome": outcome}
        if self.causes:
            found["causes"] = dict(self.causes)
        return found

    def sentence(self, outcome: Outcome, seconds: float) -> str:
        """The line for people."""
        of = f"project {self.project} " if self.project else ""
        task = f"task {self.task} " if self.task else ""
        took = f"{1000 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.0f} s"
        waited = f" after {self.waited:.1f} s in the queue" if self.waited is not None and self.waited >= 1 else ""
        why = f" ({', '.join(self.causes)})" if self.causes else ""
        return f"{of}{task}{self.what}: {WORDS.get(outcome, outcome)}{why}, {took}{waited}"


CURRENT_TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)


def set_subject(what: str = "", project: object = None, task: object = None) -> None:
    """Say of the request or job in hand what it is about; what is left out stays as it was."""
    trace = CURRENT_TRACE.get()
    if trace is None:
        return
    trace.what = what[:LONGEST] or trace.what
    trace.project = trace.project if project is None else str(project)[:LONGEST]
    trace.task = trace.task if task is None else str(task)[:LONGEST]


def record_error(error: BaseException) -> None:
    """Say that something in the request or job in hand failed, although it goes on."""
    trace = CURRENT_TRACE.get()
    if trace is not None:
        trace.record_error(error)

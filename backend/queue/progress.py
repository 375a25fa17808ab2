"""What the workers are at, project by project, for people to look at: nothing is decided by it."""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import redis

from skylight.backend.queue.queue import KINDS, Kind, Queue, job_id, key

BELIEVED_SECONDS = 60  # what a job said of its progress counts no longer
REPORT_SECONDS = 1.0  # how often a job says it


@dataclass(frozen=True)
class JobState:
    """One kind of job of one project; `done` of `total` steps, 0 of 0 if the job has not said."""

    kind: Kind
    running: bool  # for `LOCK_SECONDS` also after its worker was killed
    queued: bool
    failed: int  # within `FAILED_JOBS_SECONDS`
    done: int = 0
    total: int = 0
    rate: float = 0.0  # steps per second, 0 if the job has not said


class Report(Protocol):
    """How a job tells that `done` of `total` steps are done, and how many a second where it is worth saying."""

    def __call__(self, done: int, total: int, rate: float = 0.0) -> None:
        """Tell it, unless the last time was less than `REPORT_SECONDS` ago."""


def reporter(queue: Queue, project: str, kind: Kind) -> Report:
    """A function by which a job tells how far it is; while Redis is away nobody hears it."""
    last = -REPORT_SECONDS

    def report(done: int, total: int, rate: float = 0.0) -> None:
        nonlocal last
        if time.monotonic() - last < REPORT_SECONDS:
            return
        last = time.monotonic()
        with suppress(redis.RedisError):
            queue.redis.set(key(project, f"{kind}-progress"), f"{done}/{total}/{rate:.4g}", ex=BELIEVED_SECONDS)

    return report


def job_states(queue: Queue, project: str) -> list[JobState]:
    """Every kind of job, in the order in which they follow from each other. Raises redis.RedisError."""
    return [_state(queue, project, kind) for kind in KINDS]


def _state(queue: Queue, project: str, kind: Kind) -> JobState:
    running = bool(queue.redis.exists(key(project, f"lock-{kind}")))
    said = queue.redis.get(key(project, f"{kind}-progress")) if running else None
    done, total, rate = said.decode().split("/") if isinstance(said, bytes) else ("0", "0", "0")
    if kind == "preannotate" and (found := queue.progress(project)):
        done, total = str(found.done), str(found.total)
    failed = queue.queues[kind].failed_job_registry.get_job_ids(cleanup=False)
    return JobState(
        kind=kind,
        running=running,
        queued=bool(queue.redis.exists(key(project, f"{kind}-queued"))),
        failed=sum(each.startswith(job_id(project, kind)) for each in failed),
        done=int(done),
        total=int(total),
        rate=float(rate),
    )

"""How far the jobs of each project are, for people to look at: nothing is decided by it."""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import redis

from skylight.backend.queue.keys import KINDS, Kind, job_id, key
from skylight.backend.queue.queue import Queue

KEPT_SECONDS = 60  # how long a reported progress counts
REPORT_SECONDS = 1.0  # how often a job reports


@dataclass(frozen=True)
class JobState:
    """One kind of job of one project; `done` of `total` steps, 0 of 0 if the job has not reported."""

    kind: Kind
    running: bool  # for `LOCK_SECONDS` also after its worker was killed
    queued: bool
    failed: int  # within `FAILED_JOBS_SECONDS`
    done: int = 0
    total: int = 0
    rate: float = 0.0  # steps per second, 0 if the job has not reported


class Report(Protocol):
    """A function that reports `done` of `total` steps, and how many a second where the job knows."""

    def __call__(self, done: int, total: int, rate: float = 0.0) -> None:
        """Report, unless the last time was less than `REPORT_SECONDS` ago."""


def reporter(queue: Queue, project: str, kind: Kind) -> Report:
    """The function by which a job reports its progress; nothing while Redis is away."""
    last = -REPORT_SECONDS

    def report(done: int, total: int, rate: float = 0.0) -> None:
        nonlocal last
        if time.monotonic() - last < REPORT_SECONDS:
            return
        last = time.monotonic()
        with suppress(redis.RedisError):
            queue.redis.set(key(project, f"{kind}-progress"), f"{done}/{total}/{rate:.4g}", ex=KEPT_SECONDS)

    return report


def job_states(queue: Queue, project: str) -> list[JobState]:
    """The state of every kind of job, in the order of `KINDS`. Raises redis.RedisError."""
    return [_state(queue, project, kind) for kind in KINDS]


def _state(queue: Queue, project: str, kind: Kind) -> JobState:
    running = bool(queue.redis.exists(key(project, f"lock-{kind}")))
    reported = queue.redis.get(key(project, f"{kind}-progress")) if running else None
    done, total, rate = reported.decode().split("/") if isinstance(reported, bytes) else ("0", "0", "0")
    if kind == "preannotate" and (progress := queue.progress(project)):
        done, total = str(progress.done), str(progress.total)
    failed = queue.queues[kind].failed_job_registry.get_job_ids(cleanup=False)
    return JobState(
        kind=kind,
        running=running,
        queued=bool(queue.redis.exists(key(project, f"{kind}-queued"))),
        failed=sum(id.startswith(job_id(project, kind)) for id in failed),
        done=int(done),
        total=int(total),
        rate=float(rate),
    )

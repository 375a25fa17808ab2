"""Counters that all processes share, in Redis: what the workers count, and how much waits for how long.

A worker is another process than the web server, perhaps on another machine, so what it counts goes to hashes that the
web server reads for /metrics.
"""

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from skylight.backend.limits import PROJECT
from skylight.backend.queue.allowlist import AllowedJob
from skylight.backend.queue.keys import KINDS, PROJECTS, Kind, key
from skylight.backend.queue.queue import Queue

JOBS, FAILURES, LOOKUPS = (key("*", f"counted-{noun}") for noun in ("jobs", "failures", "lookups"))  # of all projects
RECEIVED = re.compile(rb'"received": ?([0-9.]+)')  # the first field of an event
HEAD_BYTES = 64  # of an event, in which it is looked for


@dataclass
class Counters:
    """All counters at one moment."""

    inbox: dict[str, int] = field(default_factory=dict)  # events that wait, by project
    age: dict[str, float] = field(default_factory=dict)  # s since the oldest of them was accepted
    depth: dict[str, int] = field(default_factory=dict)  # jobs that wait, by kind
    waited: dict[str, float] = field(default_factory=dict)  # s since the first of those was queued, by kind
    failed: dict[str, int] = field(default_factory=dict)  # jobs that failed within a week, by kind
    jobs: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)  # kind, outcome: how many, s
    failures: dict[tuple[str, str], int] = field(default_factory=dict)  # kind, cause: how many
    lookups: dict[str, int] = field(default_factory=dict)  # of embeddings, by the workers, by where they were


def count_job(
    queue: Queue, kind: str, outcome: str, seconds: float, causes: Mapping[str, int], lookups: Mapping[str, int]
) -> None:
    """Count a job that has ended. Raises redis.RedisError."""
    with queue.redis.pipeline(transaction=False) as pipe:
        pipe.hincrby(JOBS, f"{kind}:{outcome}:count", 1)
        pipe.hincrby(JOBS, f"{kind}:{outcome}:ms", round(1000 * seconds))
        for cause, count in causes.items():
            pipe.hincrby(FAILURES, f"{kind}:{cause}", count)
        for where, count in lookups.items():
            pipe.hincrby(LOOKUPS, where, count)
        pipe.execute()


@dataclass(frozen=True)
class Backlog:
    """The waiting jobs of one kind, for all projects: how many, and for how long the first of them waits, s."""

    kind: Kind
    jobs: int
    seconds: float


def backlog(queue: Queue) -> list[Backlog]:
    """The waiting jobs, kind by kind. Raises redis.RedisError."""
    with queue.redis.pipeline(transaction=False) as pipe:
        for kind in KINDS:
            pipe.llen(queue.queues[kind].key)
            pipe.lindex(queue.queues[kind].key, 0)
        answers = pipe.execute()
        for first in answers[1::2]:
            pipe.hget(AllowedJob.key_for((first or b"").decode()), "enqueued_at")
        since = pipe.execute()
    return [Backlog(kind, jobs, _since(at)) for kind, jobs, at in zip(KINDS, answers[::2], since, strict=True)]


def read_counters(queue: Queue, stored: Iterable[str]) -> Counters:
    """All counters, in four round trips to Redis. `stored`: the projects on disk. Raises redis.RedisError."""
    backlogs = backlog(queue)
    with queue.redis.pipeline(transaction=False) as pipe:
        pipe.smembers(PROJECTS)
        for name in (JOBS, FAILURES, LOOKUPS):
            pipe.hgetall(name)
        for kind in KINDS:
            pipe.zcard(queue.queues[kind].failed_job_registry.key)
        known, jobs, failures, lookups, *counts = pipe.execute()
    counters = Counters(
        depth={waiting_jobs.kind: waiting_jobs.jobs for waiting_jobs in backlogs},
        waited={waiting_jobs.kind: waiting_jobs.seconds for waiting_jobs in backlogs},
        failed=dict(zip(KINDS, counts, strict=True)),
        jobs=_jobs(_numbers(jobs)),
        failures={_pair(name): count for name, count in _numbers(failures).items()},
        lookups=_numbers(lookups),
    )
    names = {name.decode() for name in known}
    projects = sorted({name for name in names if PROJECT.fullmatch(name)} | set(stored))
    with queue.redis.pipeline(transaction=False) as pipe:
        for project in projects:
            pipe.llen(key(project, "inbox"))
            pipe.lindex(key(project, "inbox"), 0)
        answers = pipe.execute()
    for project, waiting, oldest in zip(projects, answers[::2], answers[1::2], strict=True):
        counters.inbox[project] = waiting
        counters.age[project] = event_age(oldest)
    return counters


def event_age(event: bytes | None, now: float | None = None) -> float:
    """Seconds since an event of an inbox was accepted; 0 if there is none, or it does not say."""
    match = RECEIVED.search((event or b"")[:HEAD_BYTES])
    return max((now or time.time()) - float(match[1]), 0.0) if match else 0.0


def spooled_age(home: Path) -> float:
    """Seconds since the oldest event that waits on disk, for Redis to come back, was accepted; 0 without one."""
    oldest = min((path for path in (home / "spool").glob("*.json")), default=None)
    try:
        return max(time.time() - oldest.stat().st_mtime, 0.0) if oldest else 0.0
    except FileNotFoundError:  # taken just now
        return 0.0


def _since(at: bytes | None) -> float:
    """Seconds since a time as RQ writes it; 0 without one."""
    if not at:
        return 0.0
    return max(time.time() - datetime.fromisoformat(at.decode()).timestamp(), 0.0)


def _numbers(values: Mapping[bytes, bytes]) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in values.items()}


def _pair(name: str) -> tuple[str, str]:
    one, _, other = name.partition(":")
    return one, other


def _jobs(numbers: Mapping[str, int]) -> dict[tuple[str, str], tuple[int, float]]:
    counts: Counter[tuple[str, str]] = Counter()
    seconds: Counter[tuple[str, str]] = Counter()
    for name, number in numbers.items():
        kind, outcome, what = name.split(":")
        (counts if what == "count" else seconds)[kind, outcome] += number
    return {name: (counts[name], seconds[name] / 1000) for name in counts}

"""The queue: each project's inbox, its counters, and the jobs that empty it, in Redis.

RQ's own `unique=True` also refuses while a job runs and long after a failure, so jobs are kept single here: a "queued"
mark per project and kind, set with the job in one transaction and taken away when the job begins (see
`skylight.backend.queue.recovery`). So whatever arrives while a job runs queues exactly one more. Training compares
`dirty`, which every event raises, with `trained`, the value it had when the last finished training began.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import redis
from redis.client import Pipeline
from rq.serializers import JSONSerializer

from skylight.backend.limits import PROJECT
from skylight.backend.queue import locks
from skylight.backend.queue.allowlist import AllowedQueue
from skylight.backend.queue.connection import pop
from skylight.backend.queue.keys import GONE, KINDS, PROJECTS, Kind, job_id, key

JOB_SECONDS = 3600  # a job that runs longer is ended
FAILED_JOBS_SECONDS = 7 * 24 * 3600  # how long RQ keeps a failed job to be looked at

# Events into the inbox in one round trip, if an ingest job is queued already; else nothing happens, and 0 is given.
ADD_EVENTS = """
if redis.call('exists', KEYS[1]) == 0 then return 0 end
for i = 3, #ARGV do redis.call('rpush', KEYS[2], ARGV[i]) end
if tonumber(ARGV[1]) > 0 then redis.call('incrby', KEYS[3], ARGV[1]) end
if tonumber(ARGV[2]) > 0 then redis.call('set', KEYS[4], ARGV[2]) end
return 1
"""

log = logging.getLogger(__name__)


class Progress(NamedTuple):
    """How far the open tasks have been pre-annotated: by which version, how many of how many."""

    version: str
    done: int
    total: int


class Queue:
    """Inboxes, requests, locks and jobs of all projects, over one Redis connection."""

    def __init__(self, connection: redis.Redis) -> None:
        self.redis = connection
        self._add_events = connection.register_script(ADD_EVENTS)
        self.worker_kinds: Sequence[Kind] = KINDS  # that this process's worker takes, in this order
        self.queues = {
            kind: AllowedQueue(f"skylight-{kind}", connection=connection, serializer=JSONSerializer) for kind in KINDS
        }
        self.running: set[tuple[str, Kind, str]] = set()  # project, kind and token of this process's jobs

    def add_event(self, project: str, event: dict[str, Any], dirty: bool = True) -> None:
        """Put an event into the inbox, raise `dirty`, and see to it that an ingest job is queued: all or nothing."""
        self.add_events(project, [event], int(dirty))

    def add_events(self, project: str, events: Sequence[dict[str, Any]], dirty: int, heard: int = 0) -> None:
        """As `add_event` for several events, raising `dirty` by so much; `heard`: when the webhook brought them."""
        # The time first: how long an event has waited is read off its beginning.
        now = round(time.time(), 3)
        texts = [json.dumps({"received": now, **event}, separators=(",", ":")) for event in events]
        nouns = ("ingest-queued", "inbox", "dirty", "heard")
        if not texts or self._add_events(keys=[key(project, noun) for noun in nouns], args=[dirty, heard, *texts]):
            return

        def write(pipe: Pipeline) -> None:
            pipe.rpush(key(project, "inbox"), *texts)
            if dirty:
                pipe.incrby(key(project, "dirty"), dirty)
            if heard:
                pipe.set(key(project, "heard"), heard)

        self.request(project, "ingest", write)

    def request(
        self,
        project: str,
        kind: Kind,
        write: Callable[[Pipeline], object] = lambda pipe: None,
        stale: bytes | None = None,
    ) -> None:
        """Queue a job of a kind for the project unless one is queued; `write` puts what it is for into Redis with it.

        `stale`: a mark that counts for nothing, because its job is lost.
        """
        mark = key(project, f"{kind}-queued")

        def transaction(pipe: Pipeline) -> None:
            value = pipe.get(mark)
            queued = value is not None and value != stale
            generation = pipe.incr(key(project, "generation")) if not queued else 0
            pipe.multi()
            write(pipe)
            pipe.sadd(PROJECTS, project)
            if not queued:
                pipe.set(mark, generation)
                self.queues[kind].enqueue_call(
                    f"skylight.backend.worker.jobs.{kind}",
                    (project,),
                    job_id=job_id(project, kind, generation),
                    timeout=JOB_SECONDS,
                    result_ttl=0,
                    failure_ttl=FAILED_JOBS_SECONDS,
                    pipeline=pipe,
                )

        self.redis.transaction(transaction, mark)

    def has_job(self, kind: Kind, job: str) -> bool:
        """Whether a job waits in the queue of its kind."""
        # Not by LPOS, which came with Redis 6.0.6: a queue holds one job per project at most.
        return job.encode() in self.redis.lrange(self.queues[kind].key, 0, -1)

    def mark_dirty(self, project: str) -> None:
        """Raise `dirty` without an event: what was trained on is no longer what there is."""
        self.redis.incr(key(project, "dirty"))

    def mark_begun(self, project: str, kind: Kind, pipe: Pipeline | None = None) -> None:
        """Note that a job begins: from now on the next event queues another."""
        (self.redis if pipe is None else pipe).delete(key(project, f"{kind}-queued"))

    def has_waiting(self, *kinds: Kind) -> bool:
        """Whether jobs of these kinds are queued, for any project, that this process's worker takes."""
        return any(self.queues[kind].count for kind in kinds if kind in self.worker_kinds)

    def take_events(self, project: str) -> Iterator[dict[str, Any]]:
        """The inbox's events, oldest first; each leaves it when the next one is asked for."""
        inbox = key(project, "inbox")
        while (raw := self.redis.lindex(inbox, 0)) is not None:
            try:
                yield json.loads(raw)
            except ValueError as error:
                log.error("project %s: an event in Redis cannot be read and is left out: %s", project, error)
            # By value: were the lock lost, nobody else's event would be dropped.
            self.redis.lrem(inbox, 1, raw)  # type: ignore[arg-type]  # bytes are fine

    def inbox_length(self, project: str) -> int:
        """How many events wait."""
        return int(self.redis.llen(key(project, "inbox")))

    def dirty(self, project: str) -> int:
        """How often the project's annotations have changed."""
        return int(self.redis.get(key(project, "dirty")) or 0)

    def trained(self, project: str) -> int:
        """The value of `dirty` that the last finished training covers."""
        return int(self.redis.get(key(project, "trained")) or 0)

    def set_trained(self, project: str, dirty: int) -> None:
        """Note that everything up to this value of `dirty` is trained on."""
        self.redis.set(key(project, "trained"), dirty)

    def request_reconciliation(self, project: str, glance: bool = False) -> None:
        """Have the next ingest job compare the project with Label Studio; `glance`: only if it has changed there."""
        self.redis.set(key(project, "reconcile"), "glance" if glance else "all", nx=glance)

    def take_reconciliation(self, project: str) -> str:
        """The comparison that is requested, "all" or "glance", "" for none; the request is removed."""
        return (pop(self.redis, key(project, "reconcile")) or b"").decode()

    def is_reconciliation_requested(self, project: str) -> bool:
        """Whether a whole comparison is requested."""
        return self.redis.get(key(project, "reconcile")) == b"all"

    def request_training(self, project: str) -> None:
        """Have the next train job train on whatever is new, however little."""
        self.redis.incr(key(project, "wanted"))

    def newest_training_request(self, project: str) -> int:
        """The number of the newest request for a training, 0 if all are done."""
        newest, done = (int(self.redis.get(key(project, noun)) or 0) for noun in ("wanted", "granted"))
        return newest if newest > done else 0

    def mark_training_done(self, project: str, number: int) -> None:
        """Note that the requests for a training up to a number are done; 0 changes nothing."""
        if number:
            self.redis.set(key(project, "granted"), number)

    def set_progress(self, project: str, progress: Progress) -> None:
        """Note how far the open tasks have been brought a version's predictions."""
        self.redis.set(key(project, "predicted"), json.dumps(progress))

    def progress(self, project: str) -> Progress | None:
        """How many tasks open at the newest round of pre-annotation have its prediction; None before one."""
        value = self.redis.get(key(project, "predicted"))
        return Progress(*json.loads(value)) if value else None

    def projects(self) -> list[str]:
        """All known projects, sorted; without names that only earlier releases took for a project's."""
        return [name for name in self.names() if PROJECT.fullmatch(name)]

    def names(self) -> list[str]:
        """All names that any release took for a project's, sorted."""
        return sorted(name.decode() for name in self.redis.smembers(PROJECTS) if isinstance(name, bytes))

    def gone(self) -> dict[str, str]:
        """The projects that Label Studio has no more, each with how it is known."""
        reasons: Any = self.redis.hgetall(GONE)
        return {name.decode(): reason.decode() for name, reason in reasons.items()}

    def is_gone(self, project: str) -> bool:
        """Whether Label Studio has a project no more."""
        return bool(self.redis.hexists(GONE, project))

    def mark_gone(self, project: str, reason: str) -> bool:
        """Note that Label Studio has a project no more; gives whether that is new."""
        return bool(self.redis.hset(GONE, project, reason))

    def mark_found(self, project: str) -> None:
        """Note that Label Studio has a project."""
        self.redis.hdel(GONE, project)

    def lock(self, project: str, kind: str) -> AbstractContextManager[bool]:
        """Hold a project's lock, see `locks.hold`."""
        return locks.hold(self.redis, project, kind)

"""The queue: each project's inbox, its counters, and the jobs that empty it, in Redis.

RQ's own `unique=True` also refuses while a job runs and long after a failure, so jobs are kept single here: a
"queued" mark per project and kind, set with the job in one transaction and taken away when the job begins (see
`skylight.backend.queue.recovery`). Whatever arrives while a job runs therefore queues exactly one more. Training
compares `dirty`,
which every event raises, with `trained`, the value it had when the last finished training began.
"""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import LockError
from redis.retry import Retry
from rq.serializers import JSONSerializer

from skylight.backend.limits import PROJECT
from skylight.backend.queue.allowlist import AllowedQueue

Kind = Literal["ingest", "train", "preannotate", "embed"]
KINDS: tuple[Kind, ...] = ("ingest", "train", "preannotate", "embed")  # a worker takes them in this order
JOB_SECONDS = 3600  # a job that runs longer is ended
LOCK_SECONDS = 15.0  # a lock outlives its dead owner by this; a living owner renews it three times as often
REPLY_SECONDS = 0.5  # Redis is away if it takes longer: Label Studio waits one second for the answer to a webhook
FAILED_JOBS_SECONDS = 7 * 24 * 3600  # how long RQ keeps a failed job to be looked at

log = logging.getLogger(__name__)


def key(project: str, noun: str) -> str:
    """The Redis key of one thing of one project. All keys of Skylight are made here."""
    return f"skylight:{project}:{noun}"


def job_id(project: str, kind: Kind, generation: Any = "") -> str:
    """The id of a job; without a generation the beginning of all of that kind."""
    return f"{kind}-{project.replace('.', '-')}-{generation}"


PROJECTS = "skylight:projects"  # set of the projects that ever wrote
GONE = "skylight:gone"  # hash: projects that Label Studio has no more, and how it is known

RECONCILED = "skylight:reconciled"  # there, while it is too early to have all projects compared again

# Events into the inbox in one round trip, if an ingest job is queued already; else nothing happens, and 0 is given.
ACCEPT = """
if redis.call('exists', KEYS[1]) == 0 then return 0 end
for i = 3, #ARGV do redis.call('rpush', KEYS[2], ARGV[i]) end
if tonumber(ARGV[1]) > 0 then redis.call('incrby', KEYS[3], ARGV[1]) end
if tonumber(ARGV[2]) > 0 then redis.call('set', KEYS[4], ARGV[2]) end
return 1
"""


# A connection by TCP that has said nothing for so long is asked whether it is still there, and is given up if no answer
# comes in a while: without that, as by redis-py before 8, a worker may wait for a job for 7 minutes after a cable was
# pulled. What was sent and is not received ends it as well; the kernel alone would try for 15 minutes.
TCP = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 15_000}  # s, s, times, ms


def connect(url: str) -> redis.Redis:
    """A connection to Redis that gives up soon and survives a restart of it; nothing is sent before it is used."""
    options = {getattr(socket, name): value for name, value in TCP.items() if hasattr(socket, name)}  # not on a Mac
    alive = {"socket_keepalive": True, "socket_keepalive_options": options}
    return redis.Redis.from_url(
        url,
        **({} if url.startswith("unix:") else alive),
        socket_connect_timeout=REPLY_SECONDS,
        socket_timeout=REPLY_SECONDS,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),  # a slow one is not asked twice
    )


def take(connection: redis.Redis, name: str) -> bytes | None:
    """The value of a key, which is deleted in the same transaction; None if there is none.

    As GETDEL, which Redis has since 6.2.
    """
    with connection.pipeline() as pipe:
        pipe.get(name)
        pipe.delete(name)
        found: bytes | None = pipe.execute()[0]
    return found


class Progress(NamedTuple):
    """How far the open tasks have been pre-annotated: by which version, how many of how many."""

    version: str
    done: int
    total: int


class Queue:
    """Inbox, counters, locks and jobs of all projects over one Redis connection."""

    def __init__(self, connection: redis.Redis) -> None:
        self.redis = connection
        self._accept = connection.register_script(ACCEPT)
        self.taken: Sequence[Kind] = KINDS  # by this process's worker, in this order
        self.queues = {
            kind: AllowedQueue(f"skylight-{kind}", connection=connection, serializer=JSONSerializer) for kind in KINDS
        }
        self.in_hand: set[tuple[str, Kind, str]] = set()  # project, kind and token of this process's jobs

    def accept(self, project: str, event: dict[str, Any], dirty: bool = True) -> None:
        """Put an event into the inbox, raise `dirty`, and see to it that an ingest job is queued: all or nothing."""
        self.accept_all(project, [event], int(dirty))

    def accept_all(self, project: str, events: Sequence[dict[str, Any]], dirty: int, heard: int = 0) -> None:
        """As `accept` for some events together, raising `dirty` by so much; `heard`: when the webhook brought them."""
        # The time first: how long an event has waited is read off its beginning.
        now = round(time.time(), 3)
        texts = [json.dumps({"received": now, **event}, separators=(",", ":")) for event in events]
        nouns = ("ingest-queued", "inbox", "dirty", "heard")
        if not texts or self._accept(keys=[key(project, noun) for noun in nouns], args=[dirty, heard, *texts]):
            return

        def write(pipe: Pipeline) -> None:
            pipe.rpush(key(project, "inbox"), *texts)
            if dirty:
                pipe.incrby(key(project, "dirty"), dirty)
            if heard:
                pipe.set(key(project, "heard"), heard)

        self._enqueue(project, "ingest", write)

    def request(
        self,
        project: str,
        kind: Kind,
        write: Callable[[Pipeline], object] = lambda pipe: None,
        stale: bytes | None = None,
    ) -> None:
        """See to it that a job of a kind is queued for the project; `write` puts what it is for into Redis with it.

        `stale`: a mark that counts for nothing, because its job is lost.
        """
        self._enqueue(project, kind, write, stale)

    def holds(self, kind: Kind, job: str) -> bool:
        """Whether a job waits in the queue of its kind."""
        # Not by LPOS, which came with Redis 6.0.6: a queue holds one job per project at most.
        return job.encode() in self.redis.lrange(self.queues[kind].key, 0, -1)

    def touch(self, project: str) -> None:
        """Raise `dirty` without an event: what was trained on is no longer what there is."""
        self.redis.incr(key(project, "dirty"))

    def _enqueue(
        self, project: str, kind: Kind, write: Callable[[Pipeline], object], stale: bytes | None = None
    ) -> None:
        mark = key(project, f"{kind}-queued")

        def transaction(pipe: Pipeline) -> None:
            found = pipe.get(mark)
            queued = found is not None and found != stale
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

    def begin(self, project: str, kind: Kind, pipe: Pipeline | None = None) -> None:
        """A job begins: from now on the next event queues another."""
        (self.redis if pipe is None else pipe).delete(key(project, f"{kind}-queued"))

    def waiting(self, *kinds: Kind) -> bool:
        """Whether jobs of these kinds are queued, for any project, that this process's worker takes."""
        return any(self.queues[kind].count for kind in kinds if kind in self.taken)

    def inbox(self, project: str) -> Iterator[dict[str, Any]]:
        """The inbox's events, oldest first; each leaves it when the next one is asked for."""
        where = key(project, "inbox")
        while (raw := self.redis.lindex(where, 0)) is not None:
            try:
                yield json.loads(raw)
            except ValueError as error:
                log.error("project %s: an event in Redis cannot be read and is left out: %s", project, error)
            # By value: were the lock lost, nobody else's event would be dropped.
            self.redis.lrem(where, 1, raw)  # type: ignore[arg-type]  # bytes are fine

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

    def want_reconciliation(self, project: str, glance: bool = False) -> None:
        """Have the next ingest job compare the project with Label Studio; at a glance: if there it has changed."""
        self.redis.set(key(project, "reconcile"), "glance" if glance else "all", nx=glance)

    def take_reconciliation(self, project: str) -> str:
        """Which comparison is wanted, "all" or "glance", "" for none; the request is taken."""
        return (take(self.redis, key(project, "reconcile")) or b"").decode()

    def wants_reconciliation(self, project: str) -> bool:
        """Whether a whole comparison is wanted."""
        return self.redis.get(key(project, "reconcile")) == b"all"

    def want_training(self, project: str) -> None:
        """Have the next train job train on whatever is new, however little."""
        self.redis.incr(key(project, "wanted"))

    def wanted(self, project: str) -> int:
        """The number of the newest wish for a training, 0 if all have been granted."""
        wanted, granted = (int(self.redis.get(key(project, noun)) or 0) for noun in ("wanted", "granted"))
        return wanted if wanted > granted else 0

    def grant(self, project: str, wanted: int) -> None:
        """Note that the wishes up to this number have been granted; 0 changes nothing."""
        if wanted:
            self.redis.set(key(project, "granted"), wanted)

    def set_progress(self, project: str, progress: Progress) -> None:
        """Note how far the open tasks have been brought a version's predictions."""
        self.redis.set(key(project, "predicted"), json.dumps(progress))

    def progress(self, project: str) -> Progress | None:
        """How many tasks open at the newest round of pre-annotation have its prediction; None before one."""
        found = self.redis.get(key(project, "predicted"))
        return Progress(*json.loads(found)) if found else None

    def projects(self) -> list[str]:
        """All known projects, sorted; without what earlier releases took for one, for which nothing can be done."""
        return [name for name in self.members() if PROJECT.fullmatch(name)]

    def members(self) -> list[str]:
        """All that ever was taken for a project, sorted."""
        return sorted(name.decode() for name in self.redis.smembers(PROJECTS) if isinstance(name, bytes))

    def gone(self) -> dict[str, str]:
        """The projects that Label Studio has no more, each with how it is known."""
        found: Any = self.redis.hgetall(GONE)
        return {name.decode(): reason.decode() for name, reason in found.items()}

    def is_gone(self, project: str) -> bool:
        """Whether Label Studio has a project no more."""
        return bool(self.redis.hexists(GONE, project))

    def note_gone(self, project: str, reason: str) -> bool:
        """Note that Label Studio has a project no more; gives whether that is new."""
        return bool(self.redis.hset(GONE, project, reason))

    def note_back(self, project: str) -> None:
        """Note that Label Studio has a project."""
        self.redis.hdel(GONE, project)

    @contextmanager
    def lock(self, project: str, kind: str) -> Iterator[bool]:
        """Hold a project's lock; gives False if somebody alive holds it. A dead owner is waited out.

        A living owner renews its lock, so it is still held after `LOCK_SECONDS`.
        """
        lock = self.redis.lock(key(project, f"lock-{kind}"), timeout=LOCK_SECONDS, thread_local=False)
        if not lock.acquire(blocking_timeout=LOCK_SECONDS + 1):
            yield False
            return
        try:
            with renewed(lock.reacquire, f"lock {kind} of project {project}"):
                yield True
        finally:
            try:
                lock.release()
            except (LockError, redis.RedisError) as error:
                log.warning("lock %s of project %s was lost: %s", kind, project, error)


def lock_milliseconds() -> int:
    """`LOCK_SECONDS` as Redis takes it."""
    return int(1000 * LOCK_SECONDS)


@contextmanager
def renewed(renew: Callable[[], object], what: str) -> Iterator[None]:
    """Call `renew` three times in `LOCK_SECONDS`, in a thread, until the block ends."""
    done = threading.Event()

    def run() -> None:
        while not done.wait(LOCK_SECONDS / 3):
            try:
                renew()
            except (LockError, redis.RedisError) as error:
                log.warning("%s was not renewed: %s", what, error)

    renewer = threading.Thread(target=run, daemon=True)
    renewer.start()
    try:
        yield
    finally:
        done.set()
        renewer.join()

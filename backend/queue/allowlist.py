"""Allowlist of the jobs that a worker does, each about one project.

RQ calls what a message in Redis names, as a job or as one of its callbacks, and sends the HTTP requests that it asks
for. Whoever can write to Redis could then do anything. So of a message only the fields that Skylight's own jobs have
are read, always as JSON, and a job of another name or with other arguments fails, and nothing is imported for it.
"""

import logging
from collections.abc import Callable
from typing import Any

import redis
from rq import Queue, SimpleWorker
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from skylight.backend.errors import Forbidden
from skylight.backend.limits import PROJECT

MODULE = "skylight.backend.worker.jobs"
MODULES = (MODULE, "backend.jobs")  # the second is its name in jobs that release 0.1 has queued
NAMES = ("ingest", "train", "preannotate", "embed")  # functions in it
HANDLERS: dict[str, Callable[[str], None]] = {}  # the functions by name; `skylight.backend.worker.jobs` registers them
# Of a job's fields in Redis those that are read. Not among them: callbacks, webhooks, dependencies, repetitions,
# limits of rate, results, and what else a later RQ may think of.
FIELDS = frozenset(
    b"data created_at origin description enqueued_at started_at ended_at last_heartbeat worker_name timeout "
    b"result_ttl failure_ttl ttl status exc_info number_of_retries retries_left retry_intervals".split()
)
EMPTY = (b"", b"0", b"[]", b"{}")  # values that RQ itself leaves in other fields

log = logging.getLogger(__name__)


def register(job: Callable[[str], None]) -> Callable[[str], None]:
    """Decorator that registers the function for the jobs of its name. Raises ValueError if the name is not allowed."""
    if job.__name__ not in NAMES:
        raise ValueError(f"{job.__name__!r} is not among the allowed jobs {NAMES}")
    HANDLERS[job.__name__] = job
    return job


class AllowedJob(Job):
    """A job on the list; any other is never imported, and fails when a worker takes it."""

    def __init__(self, id: str | None = None, connection: redis.Redis | None = None, serializer: Any = None) -> None:
        """Read and written as JSON, whatever `serializer` is asked for: RQ's usual one, pickle, runs what it reads."""
        super().__init__(id, connection, JSONSerializer)

    @property
    def func(self) -> Callable[[str], None]:
        """The job's function. Raises Forbidden if it is not on the list."""
        name, args = self.func_name, self.args
        allowed = isinstance(name, str) and name in [f"{module}.{job}" for module in MODULES for job in NAMES]
        one_text = isinstance(args, list | tuple) and len(args) == 1 and isinstance(args[0], str)
        if not allowed or not one_text or not PROJECT.fullmatch(args[0]) or self.kwargs or self.instance is not None:
            raise Forbidden(
                f"job {self.id} asks for {str(name)[:80]!r} with {str(args)[:80]}, which no worker does: only "
                f"{', '.join(NAMES)} of {MODULE} for one project; see who can write to Redis"
            )
        return HANDLERS[str(name).rpartition(".")[2]]

    def restore(self, raw_data: dict[Any, bytes]) -> None:
        """Read the job from its hash in Redis. Raises NoSuchJobError if that is no job, after a line in the log."""
        fields = {name.encode() if isinstance(name, str) else name: value for name, value in raw_data.items()}
        if unknown := sorted(name for name, value in fields.items() if name not in FIELDS and value not in EMPTY):
            log.warning("job %s: not read of it: %s", self.id, ", ".join(repr(name)[:80] for name in unknown[:9]))
        try:
            super().restore({name.decode(): value for name, value in fields.items() if name in FIELDS})
        except Exception as error:  # noqa: BLE001 (there is hardly a kind that RQ does not raise here)
            raise self._unreadable(error) from error

    @classmethod
    def fetch(cls, id: str, connection: redis.Redis | None = None, serializer: Any = None) -> "AllowedJob":
        """A job by its id. Raises NoSuchJobError also for an id that is none: a worker then goes on with the next."""
        try:
            job = cls(id.partition(":")[0], connection)
            job.refresh()  # type: ignore[no-untyped-call]
        except (ValueError, redis.ResponseError) as error:  # an id that is none; a key of another type
            log.error("%r in the queue is not a job: %s; it is left out", id[:80], error)
            raise NoSuchJobError(f"{id[:80]!r} is not a job") from error
        return job

    def _unreadable(self, error: Exception) -> NoSuchJobError:
        log.error("job %s cannot be read: %r; it is left out", self.id, error)
        return NoSuchJobError(f"job {self.id} cannot be read")


class AllowedQueue(Queue):
    """A queue of allowed jobs."""

    job_class = AllowedJob

    @classmethod
    def lmove(cls, connection: redis.Redis, queue_key: str, timeout: int | None) -> Any:
        """Take a job of a single queue as of several: RQ's own way asks for a command of Redis 6.2.

        RQ's way also keeps a job whose worker dies before it begins; `skylight.backend.queue.recovery` finds that too.
        """
        return cls.lpop([queue_key], timeout, connection=connection)


class AllowedWorker(SimpleWorker):
    """A worker that does allowed jobs only."""

    job_class = AllowedJob
    queue_class = AllowedQueue

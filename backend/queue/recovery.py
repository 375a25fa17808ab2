"""Running jobs, and how those whose worker died are queued again.

A job that begins takes its "queued" mark away and is noted as running, under a token that stays alive while its worker
renews it. `Sweep` looks for lost jobs: a mark whose job is in no queue (its worker died between taking it and beginning
it), a token that nobody renews (it died later), and an inbox with neither.
"""

import logging
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import redis
from rq import get_current_job
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from skylight.backend.errors import Stopping
from skylight.backend.queue.keys import KINDS, Kind, job_id, key
from skylight.backend.queue.locks import lock_milliseconds, renewed
from skylight.backend.queue.queue import Queue

log = logging.getLogger(__name__)


@contextmanager
def running(queue: Queue, project: str, kind: Kind) -> Iterator[None]:
    """Note a job as running until the block ends; the next event then queues another.

    It is queued again if it ends with Stopping; and by a sweep if its worker dies, or loses Redis.
    """
    token, job = uuid.uuid4().hex, get_current_job()
    alive = _alive_key(project, kind, token)

    def renew() -> None:
        queue.redis.set(alive, 1, px=lock_milliseconds())

    with queue.redis.pipeline() as pipe:
        pipe.hset(_running_key(project, kind), token, job.id if job else "")
        pipe.set(alive, 1, px=lock_milliseconds())
        queue.mark_begun(project, kind, pipe)
        pipe.execute()
    queue.running.add((project, kind, token))
    with renewed(renew, f"{kind} of project {project}"):
        try:
            yield
        except (Stopping, SystemExit) as end:
            log.info("project %s: %s is left to the next worker", project, kind)
            queue.request(project, kind)
            if isinstance(end, SystemExit):
                raise
        except redis.RedisError:
            queue.running.discard((project, kind, token))
            raise  # and stays noted as running, for the sweep
        except BaseException:
            _mark_ended(queue, project, kind, token)
            raise
    _mark_ended(queue, project, kind, token)


def requeue_running(queue: Queue) -> None:
    """Queue the running jobs of this process again, as it ends without waiting: a job repeats nothing that is done."""
    for project, kind, token in list(queue.running):
        _requeue(queue, project, kind, token)


def recover(queue: Queue, stored: Iterable[str] = ()) -> None:
    """At a start, perhaps after a crash: queue lost jobs again, and have every project looked through once.

    `stored` are the projects of the store: one that Redis does not know has lost its counters, and is trained anew.
    Jobs that run in other workers are left to them.
    """
    known = queue.projects()
    lost = sorted(set(stored) - set(known))
    for project in lost:
        queue.mark_dirty(project)
    Sweep(queue).run(patient=False)
    for project in [*known, *lost]:
        queue.request_reconciliation(project)
        queue.request(project, "ingest")


class Sweep:
    """Finds lost jobs; idempotent, and a few look-ups per project where there are none."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._suspects: dict[tuple[str, Kind], bytes] = {}  # marks without a job, when last looked

    def run(self, patient: bool = True) -> int:
        """Look once, and queue lost jobs again; gives how many.

        `patient`: a mark without a job is given time until the next look, for its worker may be about to begin.
        """
        return sum(self._check(project, kind, patient) for project in self.queue.projects() for kind in KINDS)

    def _check(self, project: str, kind: Kind, patient: bool) -> bool:
        value = self.queue.redis.get(key(project, f"{kind}-queued"))
        mark = value if isinstance(value, bytes) else None
        fields = self.queue.redis.hgetall(_running_key(project, kind))
        jobs = {_text(token): _text(job) for token, job in fields.items()}
        dead = [token for token in jobs if not self.queue.redis.exists(_alive_key(project, kind, token))]
        for token in dead:
            log.warning("project %s: %s was dropped by its worker and is queued again", project, kind)
            if kind == "ingest":  # it may have taken the request for a comparison with it
                self.queue.request_reconciliation(project)
            _requeue(self.queue, project, kind, token)
            _discard(self.queue, jobs[token])
        return (
            bool(dead)
            or self._check_mark(project, kind, mark, patient)
            or self._check_inbox(project, kind, idle=not mark and not jobs)
        )

    def _check_mark(self, project: str, kind: Kind, mark: bytes | None, patient: bool) -> bool:
        """Queue a job again whose mark exists and which is in no queue."""
        before = self._suspects.pop((project, kind), None)
        if mark is None:
            return False
        job = job_id(project, kind, mark.decode())
        if self.queue.has_job(kind, job):
            return False
        if patient and before != mark:
            self._suspects[project, kind] = mark
            return False
        log.warning("project %s: %s was taken by a worker that never began, and is queued again", project, kind)
        self.queue.request(project, kind, stale=mark)
        _discard(self.queue, job)
        return True

    def _check_inbox(self, project: str, kind: Kind, idle: bool) -> bool:
        """Queue an ingest job for an inbox with events, if there is none."""
        if kind != "ingest" or not idle or not self.queue.inbox_length(project):
            return False
        self.queue.request(project, kind)
        return True


def _requeue(queue: Queue, project: str, kind: Kind, token: str) -> None:
    queue.request(project, kind, lambda pipe: pipe.hdel(_running_key(project, kind), token))


def _mark_ended(queue: Queue, project: str, kind: Kind, token: str) -> None:
    queue.running.discard((project, kind, token))
    with suppress(redis.RedisError):  # then a sweep does it, and the job is done once more
        queue.redis.hdel(_running_key(project, kind), token)
        queue.redis.delete(_alive_key(project, kind, token))


def _discard(queue: Queue, job: str) -> None:
    """Delete RQ's record of a job whose worker is dead; within the hour it would count as failed."""
    with suppress(NoSuchJobError):
        Job.fetch(job, connection=queue.redis, serializer=JSONSerializer).delete()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _running_key(project: str, kind: Kind) -> str:
    return key(project, f"{kind}-hand")


def _alive_key(project: str, kind: Kind, token: str) -> str:
    return key(project, f"{kind}-alive-{token}")

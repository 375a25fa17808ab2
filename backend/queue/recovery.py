"""Jobs in hand, and how those that their worker dropped are taken up again.

A job that begins takes its "queued" mark away and is noted as in hand, under a token that stays alive while its worker
renews it. `Sweep` looks for what fell on the way: a mark whose job is in no queue (its worker died between taking it
and beginning), a token that nobody renews (it died later), and an inbox with neither.
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
from skylight.backend.queue.queue import KINDS, Kind, Queue, job_id, key, lock_milliseconds, renewed

log = logging.getLogger(__name__)


@contextmanager
def in_hand(queue: Queue, project: str, kind: Kind) -> Iterator[None]:
    """A job: from its beginning on the next event queues another, and until its end it is not forgotten.

    It is queued again if it ends with Stopping; and by a sweep if its worker dies, or loses Redis.
    """
    token, job = uuid.uuid4().hex, get_current_job()
    alive = _alive(project, kind, token)

    def renew() -> None:
        queue.redis.set(alive, 1, px=lock_milliseconds())

    with queue.redis.pipeline() as pipe:
        pipe.hset(_hand(project, kind), token, job.id if job else "")
        pipe.set(alive, 1, px=lock_milliseconds())
        queue.begin(project, kind, pipe)
        pipe.execute()
    queue.in_hand.add((project, kind, token))
    with renewed(renew, f"{kind} of project {project}"):
        try:
            yield
        except (Stopping, SystemExit) as end:
            log.info("project %s: %s is left to the next worker", project, kind)
            queue.request(project, kind)
            if isinstance(end, SystemExit):
                raise
        except redis.RedisError:
            queue.in_hand.discard((project, kind, token))
            raise  # and stays in hand, for the sweep
        except BaseException:
            _put_down(queue, project, kind, token)
            raise
    _put_down(queue, project, kind, token)


def put_down_all(queue: Queue) -> None:
    """Queue again what this process has in hand, as it ends without waiting: a job repeats nothing that is done."""
    for project, kind, token in list(queue.in_hand):
        _queue_again(queue, project, kind, token)


def recover(queue: Queue, stored: Iterable[str] = ()) -> None:
    """At a start, perhaps after a crash: take up what was dropped, have every project looked through once.

    `stored` are the projects of the store: one that Redis does not know has lost its counters, and is trained anew.
    What other workers have in hand is left to them.
    """
    known = queue.projects()
    lost = sorted(set(stored) - set(known))
    for project in lost:
        queue.touch(project)
    Sweep(queue).run(patient=False)
    for project in [*known, *lost]:
        queue.want_reconciliation(project)
        queue.request(project, "ingest")


class Sweep:
    """Finds the jobs that were dropped; idempotent, and a few look-ups per project where there are none."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._suspects: dict[tuple[str, Kind], bytes] = {}  # marks without a job, when last looked

    def run(self, patient: bool = True) -> int:
        """Look once, and queue again what was dropped; gives how many jobs.

        `patient`: a mark without a job is given time until the next look, for its worker may be about to begin.
        """
        return sum(self._swept(project, kind, patient) for project in self.queue.projects() for kind in KINDS)

    def _swept(self, project: str, kind: Kind, patient: bool) -> bool:
        found = self.queue.redis.get(key(project, f"{kind}-queued"))
        mark = found if isinstance(found, bytes) else None
        hand = {_text(token): _text(job) for token, job in self.queue.redis.hgetall(_hand(project, kind)).items()}
        dead = [one for one in hand.items() if not self.queue.redis.exists(_alive(project, kind, one[0]))]
        for token, job in dead:
            log.warning("project %s: %s was dropped by its worker and is queued again", project, kind)
            if kind == "ingest":  # it may have taken the request for a comparison with it
                self.queue.want_reconciliation(project)
            _queue_again(self.queue, project, kind, token)
            _discard(self.queue, job)
        return bool(dead) or self._forgotten(project, kind, mark, patient) or self._unnoticed(project, kind, mark, hand)

    def _forgotten(self, project: str, kind: Kind, mark: bytes | None, patient: bool) -> bool:
        before = self._suspects.pop((project, kind), None)
        if mark is None:
            return False
        job = job_id(project, kind, mark.decode())
        if self.queue.holds(kind, job):
            return False
        if patient and before != mark:
            self._suspects[project, kind] = mark
            return False
        log.warning("project %s: %s was taken by a worker that never began, and is queued again", project, kind)
        self.queue.request(project, kind, stale=mark)
        _discard(self.queue, job)
        return True

    def _unnoticed(self, project: str, kind: Kind, mark: bytes | None, hand: object) -> bool:
        if kind != "ingest" or mark or hand or not self.queue.inbox_length(project):
            return False
        self.queue.request(project, kind)
        return True


def _queue_again(queue: Queue, project: str, kind: Kind, token: str) -> None:
    queue.request(project, kind, lambda pipe: pipe.hdel(_hand(project, kind), token))


def _put_down(queue: Queue, project: str, kind: Kind, token: str) -> None:
    queue.in_hand.discard((project, kind, token))
    with suppress(redis.RedisError):  # then a sweep does it, and the job is done once more
        queue.redis.hdel(_hand(project, kind), token)
        queue.redis.delete(_alive(project, kind, token))


def _discard(queue: Queue, job: str) -> None:
    """Forget what RQ still knows of a job whose worker is dead; within the hour it would call it failed."""
    with suppress(NoSuchJobError):
        Job.fetch(job, connection=queue.redis, serializer=JSONSerializer).delete()


def _text(found: bytes | str) -> str:
    return found.decode() if isinstance(found, bytes) else found


def _hand(project: str, kind: Kind) -> str:
    return key(project, f"{kind}-hand")


def _alive(project: str, kind: Kind, token: str) -> str:
    return key(project, f"{kind}-alive-{token}")

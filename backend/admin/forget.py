"""Forgetting a project: its folder, all that Redis holds of it, and its jobs. Label Studio is left as it is."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from rq.exceptions import NoSuchJobError

from skylight.backend.errors import BadRequest, Unavailable
from skylight.backend.limits import PROJECT
from skylight.backend.queue.allowlist import AllowedJob
from skylight.backend.queue.queue import GONE, KINDS, PROJECTS, Kind, Queue, key
from skylight.backend.queue.retries import AGAIN
from skylight.backend.service import Service

SCANNED = 1000  # keys that Redis looks at in one go


@dataclass(frozen=True)
class Holdings:
    """What there is of a project."""

    project: str
    annotations: int
    versions: int
    events: int  # that wait to be ingested

    def __str__(self) -> str:
        """In words."""
        many = f"{self.annotations} annotations, {self.versions} versions, {self.events} events that wait"
        return f"project {self.project}: {many}"


def holdings(service: Service, given: str) -> Holdings:
    """What there is of the project called `given`: its whole name, or Label Studio's number alone.

    Raises BadRequest if there is none, or more than one, redis.RedisError while Redis is away.
    """
    known = sorted({*service.store.projects(), *service.store.misnamed(), *service.queue.members()})
    found = [given] if given in known else [each for each in known if _number(each) == given]
    if len(found) > 1:
        raise BadRequest(f"project {given} may be {' or '.join(found)}: give the whole name")
    if not found:
        raise BadRequest(f"there is no project {given[:80]!r}, only: {', '.join(known) or 'none'}")
    project = found[0]
    numbers, events = service.versions.numbers(project), service.queue.inbox_length(project)
    return Holdings(project, service.store.count(project), len(numbers), events)


def forget(service: Service, project: str) -> None:
    """Delete everything of a project, but the embeddings of its images, which other projects may share.

    Waits for the jobs that are at it. Raises Unavailable if one goes on for long, OSError, redis.RedisError.
    """
    queue = service.queue
    with ExitStack() as held:
        for kind in KINDS:
            if not held.enter_context(queue.lock(project, kind)):
                raise Unavailable(f"a worker is at project {project} ({kind}); try again when it is done")
        _delete_jobs(queue, project)
        service.store.forget(project, service.versions.newest(project))
        service.spool.forget(project)
        service.secret.forget(project)
    found = list(queue.redis.scan_iter(match=key(project, "*"), count=SCANNED))
    with queue.redis.pipeline() as pipe:
        pipe.srem(PROJECTS, project)
        pipe.hdel(GONE, project)
        pipe.zrem(AGAIN, *(f"{kind} {project}" for kind in KINDS))
        if found:
            pipe.delete(*found)
        pipe.execute()


def _number(project: str) -> str:
    return project.partition(".")[0] if PROJECT.fullmatch(project) else ""


def _delete_jobs(queue: Queue, project: str) -> None:
    """Delete the project's jobs that wait or have failed; one that runs has the project's lock."""
    for kind in KINDS:
        for id in list(_job_ids(queue, kind)):
            try:
                job = AllowedJob.fetch(id, queue.redis)
                if tuple(job.args or ()) == (project,):
                    job.delete()
            except NoSuchJobError:
                continue


def _job_ids(queue: Queue, kind: Kind) -> Iterator[str]:
    yield from queue.queues[kind].job_ids
    yield from queue.queues[kind].failed_job_registry.get_job_ids(cleanup=False)

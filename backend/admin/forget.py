"""`skylight forget`: deletes a project's folder, its data in Redis and its jobs. Label Studio is left as it is."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from rq.exceptions import NoSuchJobError

from skylight.backend.errors import BadRequest, Unavailable
from skylight.backend.limits import PROJECT
from skylight.backend.queue.allowlist import AllowedJob
from skylight.backend.queue.keys import GONE, KINDS, PROJECTS, Kind, key
from skylight.backend.queue.queue import Queue
from skylight.backend.queue.retries import AGAIN
from skylight.backend.service import Service

SCAN_COUNT = 1000  # keys that Redis looks at in one step


@dataclass(frozen=True)
class StoredProject:
    """What is kept of a project."""

    project: str
    annotations: int
    versions: int
    events: int  # that wait in its inbox

    def __str__(self) -> str:
        """In words."""
        counts = f"{self.annotations} annotations, {self.versions} versions, {self.events} events that wait"
        return f"project {self.project}: {counts}"


def stored_project(service: Service, given: str) -> StoredProject:
    """What is kept of the project called `given`: its whole name, or Label Studio's number alone.

    Raises BadRequest if there is none, or more than one, redis.RedisError while Redis is away.
    """
    known = sorted({*service.store.projects(), *service.store.misnamed(), *service.queue.names()})
    matches = [given] if given in known else [name for name in known if _number(name) == given]
    if len(matches) > 1:
        raise BadRequest(f"project {given} may be {' or '.join(matches)}: give the whole name")
    if not matches:
        raise BadRequest(f"there is no project {given[:80]!r}, only: {', '.join(known) or 'none'}")
    project = matches[0]
    numbers, events = service.versions.numbers(project), service.queue.inbox_length(project)
    return StoredProject(project, service.store.count(project), len(numbers), events)


def forget(service: Service, project: str) -> None:
    """Delete everything of a project, except the embeddings of its images, which other projects may share.

    Waits for its running jobs. Raises Unavailable if one goes on for long, OSError, redis.RedisError.
    """
    queue = service.queue
    with ExitStack() as locks:
        for kind in KINDS:
            if not locks.enter_context(queue.lock(project, kind)):
                raise Unavailable(f"a worker is at project {project} ({kind}); try again when it is done")
        _delete_jobs(queue, project)
        service.store.forget(project, service.versions.newest(project))
        service.spool.forget(project)
        service.secret.forget(project)
    keys = list(queue.redis.scan_iter(match=key(project, "*"), count=SCAN_COUNT))
    with queue.redis.pipeline() as pipe:
        pipe.srem(PROJECTS, project)
        pipe.hdel(GONE, project)
        pipe.zrem(AGAIN, *(f"{kind} {project}" for kind in KINDS))
        if keys:
            pipe.delete(*keys)
        pipe.execute()


def _number(project: str) -> str:
    """Label Studio's id of a project, "" if the name is not a project's."""
    return project.partition(".")[0] if PROJECT.fullmatch(project) else ""


def _delete_jobs(queue: Queue, project: str) -> None:
    """Delete the project's waiting and failed jobs; none runs while its locks are held."""
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

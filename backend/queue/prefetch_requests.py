"""What is to be embedded before anybody clicks on it, kept in Redis: whole projects, and what follows an opened task.

A project is asked for by raising a number, and has been looked through up to the number there was when that began; so
what comes meanwhile is looked for again, and what was interrupted goes on.
"""

from collections.abc import Iterable

from redis.client import Pipeline

from skylight.backend.queue.queue import Queue, key
from skylight.backend.service import Service

OPENED = 8  # tasks opened last whose next ones are embedded first; whoever opens more has left the earliest
FAILED_SECONDS = 3600  # how long it is remembered which pictures failed, should their round never end


def want(service: Service, project: str) -> bool:
    """Have all images of a project embedded by a worker; gives whether that is asked for the first time.

    Without Label Studio's address and key, which name the images, nothing is asked for.
    """
    if service.labelstudio is None:
        return False
    first = not service.queue.redis.exists(key(project, "embedding-wanted"))
    service.queue.request(project, "embed", lambda pipe: pipe.incr(key(project, "embedding-wanted")))
    return first


def wanted(queue: Queue, project: str) -> int:
    """The number of the newest wish for a project's embeddings, 0 if all have been granted."""
    found, granted = (int(queue.redis.get(key(project, f"embedding-{noun}")) or 0) for noun in ("wanted", "granted"))
    return found if found > granted else 0


def grant(queue: Queue, project: str, number: int) -> None:
    """Note that the wishes up to a number have been granted; what failed on the way may be tried again by the next."""
    queue.redis.set(key(project, "embedding-granted"), number)
    queue.redis.delete(key(project, "embedding-failed"))


def follow(service: Service, project: str, task: int) -> None:
    """Have what comes after a task that has just been opened embedded before everything else."""
    if service.labelstudio is None:
        return

    def write(pipe: Pipeline) -> None:
        pipe.lpush(key(project, "embed-first"), task)
        pipe.ltrim(key(project, "embed-first"), 0, OPENED - 1)

    service.queue.request(project, "embed", write)


def opened(queue: Queue, project: str) -> int | None:
    """The task opened last whose next ones are still to be embedded."""
    found = queue.redis.lindex(key(project, "embed-first"), 0)
    return None if found is None else int(found)


def followed(queue: Queue, project: str, task: int) -> None:
    """Note that what comes after a task has been embedded."""
    queue.redis.lrem(key(project, "embed-first"), 0, str(task))


def forget(queue: Queue, project: str) -> None:
    """Forget which tasks were opened."""
    queue.redis.delete(key(project, "embed-first"))


def fail(queue: Queue, project: str, url: str) -> None:
    """Note that a picture could not be fetched or read in this round."""
    queue.redis.sadd(key(project, "embedding-failed"), url)
    queue.redis.expire(key(project, "embedding-failed"), FAILED_SECONDS)


def without_failed(queue: Queue, project: str, urls: Iterable[str]) -> list[str]:
    """The addresses whose pictures have not failed in this round."""
    failed = {url.decode() for url in queue.redis.smembers(key(project, "embedding-failed")) if isinstance(url, bytes)}
    return [url for url in urls if url not in failed]

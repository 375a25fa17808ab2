"""Requests to embed images before anybody clicks on them, kept in Redis: whole projects, and the next tasks.

A request for a project raises its number. A worker that has finished notes the number there was when it began, so a
request that came in between is answered by another round, and an interrupted round is begun again.
"""

from collections.abc import Iterable

from redis.client import Pipeline

from skylight.backend.queue.keys import key
from skylight.backend.queue.queue import Queue

OPENED = 8  # the newest opened tasks that are remembered; an annotator who opens more has left the earliest
FAILED_SECONDS = 3600  # how long failed images are remembered if their round never ends


class PrefetchRequests:
    """The requests of all projects. Without `enabled`, as there is no Label Studio to list images, none is made."""

    def __init__(self, queue: Queue, enabled: bool = True) -> None:
        self.queue = queue
        self.enabled = enabled

    def request_all(self, project: str) -> bool:
        """Request the embeddings of all images of a project; gives whether this is the first request for it."""
        if not self.enabled:
            return False
        first = not self.queue.redis.exists(key(project, "embedding-wanted"))
        self.queue.request(project, "embed", lambda pipe: pipe.incr(key(project, "embedding-wanted")))
        return first

    def newest(self, project: str) -> int:
        """The number of the newest request for a project, 0 if all are done."""
        redis = self.queue.redis
        newest, done = (int(redis.get(key(project, f"embedding-{noun}")) or 0) for noun in ("wanted", "granted"))
        return newest if newest > done else 0

    def mark_done(self, project: str, number: int) -> None:
        """Note that the requests up to a number are done; images that failed may be tried again by the next."""
        self.queue.redis.set(key(project, "embedding-granted"), number)
        self.queue.redis.delete(key(project, "embedding-failed"))

    def request_next(self, project: str, task: int) -> None:
        """Request that the tasks after one that has just been opened are embedded before everything else."""
        if not self.enabled:
            return

        def write(pipe: Pipeline) -> None:
            pipe.lpush(key(project, "embed-first"), task)
            pipe.ltrim(key(project, "embed-first"), 0, OPENED - 1)

        self.queue.request(project, "embed", write)

    def last_opened(self, project: str) -> int | None:
        """The task opened last whose next tasks are not embedded yet."""
        task = self.queue.redis.lindex(key(project, "embed-first"), 0)
        return None if task is None else int(task)

    def mark_next_done(self, project: str, task: int) -> None:
        """Note that the tasks after this one are embedded."""
        self.queue.redis.lrem(key(project, "embed-first"), 0, str(task))

    def forget_opened(self, project: str) -> None:
        """Forget which tasks were opened."""
        self.queue.redis.delete(key(project, "embed-first"))

    def note_failure(self, project: str, url: str) -> None:
        """Note that an image could not be fetched or read in this round."""
        self.queue.redis.sadd(key(project, "embedding-failed"), url)
        self.queue.redis.expire(key(project, "embedding-failed"), FAILED_SECONDS)

    def without_failed(self, project: str, urls: Iterable[str]) -> list[str]:
        """The addresses whose images have not failed in this round."""
        members = self.queue.redis.smembers(key(project, "embedding-failed"))
        failed = {url.decode() for url in members if isinstance(url, bytes)}
        return [url for url in urls if url not in failed]

"""Locks of projects in Redis, which a dead owner loses soon."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis
from redis.exceptions import LockError

from skylight.backend.queue.keys import key

LOCK_SECONDS = 15.0  # a lock outlives its dead owner by this; a living owner renews it three times as often

log = logging.getLogger(__name__)


@contextmanager
def hold(connection: redis.Redis, project: str, kind: str) -> Iterator[bool]:
    """Hold a project's lock; gives False if a living owner has it. A dead owner is waited out.

    A living owner renews its lock, so it still has it after `LOCK_SECONDS`.
    """
    lock = connection.lock(key(project, f"lock-{kind}"), timeout=LOCK_SECONDS, thread_local=False)
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

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()

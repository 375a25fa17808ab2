"""Slow lookups, made in threads beside the requests that need their results."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Generic, TypeVar

import redis

from skylight.backend.errors import SkylightError
from skylight.model.sam.checkpoints import CheckpointError
from skylight.model.sam.loading import SamError

T = TypeVar("T")

FIRST_SECONDS = 0.4  # how long the first caller of a `BackgroundCache` waits for a result
REST_FACTOR = 20  # a lookup rests for so many times its own duration, to spare a slow Label Studio
EXPECTED_ERRORS = (SkylightError, CheckpointError, SamError, redis.RedisError, OSError)

log = logging.getLogger(__name__)


class BackgroundCall(Generic[T]):
    """A function that runs in a thread of its own, once at a time, and is waited for no longer than `seconds`.

    Whoever calls while it runs gets the result of the same run.
    """

    def __init__(self, function: Callable[[], T], seconds: float) -> None:
        self.function = function
        self.seconds = seconds
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, "background-call")
        self._future: Future[T] | None = None

    def get(self) -> T | None:
        """The function's result or exception; None if it takes longer than `seconds`."""
        with self._lock:
            if self._future is None or self._future.done():
                self._future = self._pool.submit(self.function)
            future = self._future
        try:
            return future.result(self.seconds)
        except FutureTimeoutError:
            if future.done():  # the function itself raised it
                raise
            return None


class BackgroundCache(Generic[T]):
    """The latest result of a function for each key, refreshed in a thread of its own at most every `seconds`."""

    def __init__(
        self, function: Callable[[str], T], seconds: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.function = function
        self.seconds = seconds
        self.clock = clock
        self._lock = threading.Lock()
        self._results: dict[str, T] = {}
        self._due: dict[str, float] = {}
        self._running: dict[str, threading.Thread] = {}

    def get(self, key: str = "") -> T | None:
        """The latest result, None before the first; one that is due starts a refresh."""
        with self._lock:
            if key not in self._running and self.clock() >= self._due.get(key, -1.0):
                self._running[key] = threading.Thread(target=self._refresh, args=(key,), daemon=True)
                self._running[key].start()
            thread = self._running.get(key)
            is_first = thread is not None and key not in self._due
        if thread is not None and is_first:
            thread.join(FIRST_SECONDS)
        with self._lock:
            return self._results.get(key)

    def _refresh(self, key: str) -> None:
        started = self.clock()
        try:
            result = self.function(key)
            with self._lock:
                self._results[key] = result
        except EXPECTED_ERRORS as error:
            log.warning("%s", error)  # the result before stays
        finally:
            with self._lock:
                now = self.clock()
                self._due[key] = now + max(self.seconds, REST_FACTOR * (now - started))
                del self._running[key]

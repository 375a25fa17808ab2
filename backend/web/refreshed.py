"""What takes long to find out, found out beside the requests that ask for it."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import redis

from skylight.backend.errors import SkylightError
from skylight.model.sam.checkpoints import CheckpointError
from skylight.model.sam.loading import SamError

T = TypeVar("T")

FIRST_SECONDS = 0.4  # how long the first to ask waits for an answer
RESTS = 20  # times as long as finding out took: what a slow Label Studio is spared
EXPECTED = (SkylightError, CheckpointError, SamError, redis.RedisError, OSError)

log = logging.getLogger(__name__)


class Refreshed(Generic[T]):
    """`make(key)`, called at most every `seconds` per key, in a thread of its own; who asks gets the latest."""

    def __init__(
        self, make: Callable[[str], T], seconds: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.make = make
        self.seconds = seconds
        self.clock = clock
        self._lock = threading.Lock()
        self._found: dict[str, T] = {}
        self._due: dict[str, float] = {}
        self._running: dict[str, threading.Thread] = {}

    def get(self, key: str = "") -> T | None:
        """The latest answer; None before there is one. Whoever finds it old sets a new one going."""
        with self._lock:
            if key not in self._running and self.clock() >= self._due.get(key, -1.0):
                self._running[key] = threading.Thread(target=self._run, args=(key,), daemon=True)
                self._running[key].start()
            thread = self._running.get(key)
            waits = thread is not None and key not in self._due
        if thread is not None and waits:
            thread.join(FIRST_SECONDS)
        with self._lock:
            return self._found.get(key)

    def _run(self, key: str) -> None:
        began = self.clock()
        try:
            found = self.make(key)
            with self._lock:
                self._found[key] = found
        except EXPECTED as error:
            log.warning("%s", error)  # the answer before stays
        finally:
            with self._lock:
                now = self.clock()
                self._due[key] = now + max(self.seconds, RESTS * (now - began))
                del self._running[key]

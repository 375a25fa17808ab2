"""An answer that is found beside the request and waited for so long and no longer."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Bounded(Generic[T]):
    """`make()` in a thread of its own, once at a time: who asks while it is under way joins in."""

    def __init__(self, make: Callable[[], T], seconds: float) -> None:
        self.make = make
        self.seconds = seconds
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(1, "bounded")
        self._under_way: Future[T] | None = None

    def get(self) -> T | None:
        """What `make` gives, or raises, now; None if it takes longer than `seconds`."""
        with self._lock:
            if self._under_way is None or self._under_way.done():
                self._under_way = self._pool.submit(self.make)
            asked = self._under_way
        try:
            return asked.result(self.seconds)
        except Late:
            if asked.done():  # its own
                raise
            return None

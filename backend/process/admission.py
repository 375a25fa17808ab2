"""Admission of slow requests: how many are worked on at the same time, how many wait, and which are refused."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from skylight.backend.errors import Unavailable

MAX_WAITING = 64  # requests
TURN_SECONDS = 90.0  # in which a request must be worked on: Label Studio gives up after 100 s


class Admission:
    """The places for slow requests of one process; thread-safe."""

    def __init__(self, working: int, waiting: int = MAX_WAITING) -> None:
        """`working` requests are worked on at the same time, `waiting` more wait; any beyond are refused."""
        self.places = working + waiting
        self._turns = threading.Semaphore(working)
        self._lock = threading.Lock()
        self._admitted = 0
        self._thread = threading.local()  # `has_turn`: whether the thread's request is worked on now

    def enter(self) -> None:
        """Wait until the thread's request may be worked on. Raises Unavailable, at once where too many wait already."""
        with self._lock:
            if self._admitted >= self.places:
                raise Unavailable(
                    f"{self._admitted} requests wait already, most for pictures from elsewhere; try again"
                )
            self._admitted += 1
        if not self._turns.acquire(timeout=TURN_SECONDS):
            self._release_place()
            raise Unavailable(f"no turn within {TURN_SECONDS:.0f} s; is the machine too slow for so many at once?")
        self._thread.has_turn = True

    def leave(self) -> None:
        """End the thread's request."""
        self._thread.has_turn = False
        self._turns.release()
        self._release_place()

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Let other requests be worked on while this thread's, if it has one, waits for something from elsewhere."""
        if not getattr(self._thread, "has_turn", False):
            yield
            return
        self._thread.has_turn = False
        self._turns.release()
        try:
            yield
        finally:
            self._turns.acquire()
            self._thread.has_turn = True

    def _release_place(self) -> None:
        with self._lock:
            self._admitted -= 1

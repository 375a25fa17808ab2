"""TODO."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from skylight.backend.errors import Unavailable

WAITING = 64
TURN_SECONDS = 90.0  # in which a request must have its turn: Label Studio gives up after 100 s


class Admission:
    """The places of one process; thread-safe."""

    def __init__(self, working: int, waiting: int = WAITING) -> None:
        self.places = working + waiting
        self._turns = threading.Semaphore(working)
        self._lock = threading.Lock()
        self._inside = 0
        self._own = threading.local()  # `has_turn`: whether the thread's request is worked on now

    def enter(self) -> None:
        """Wait for a turn. Raises Unavailable, at once where too many wait already."""
        with self._lock:
            if self._inside >= self.places:
                raise Unavailable(f"{self._inside} requests wait already, most for pictures from elsewhere; try again")
            self._inside += 1
        if not self._turns.acquire(timeout=TURN_SECONDS):
            self._go()
            raise Unavailable(f"no turn within {TURN_SECONDS:.0f} s; is the machine too slow for so many at once?")
        self._own.has_turn = True

    def leave(self) -> None:
        """Give the turn and the place back."""
        self._own.has_turn = False
        self._turns.release()
        self._go()

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Let others be worked for while this thread's request, if it has one, waits for something from elsewhere."""
        if not getattr(self._own, "has_turn", False):
            yield
            return
        self._own.has_turn = False
        self._turns.release()
        try:
            yield
        finally:
            self._turns.acquire()
            self._own.has_turn = True

    def _go(self) -> None:
        with self._lock:
            self._inside -= 1

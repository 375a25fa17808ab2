"""Time slices, so that one project cannot monopolise a worker.

A project has at most one job of a kind in the queue, and one that ends with its slice is queued again at the end of it.
So where several projects wait, they alternate, however many images one of them has. And whether any waits or not, a job
ends after `SLICE_SECONDS` and is queued again: long before `JOB_SECONDS` would end it as a failure.
"""

import math
import time
from collections.abc import Callable

from skylight.backend.queue.keys import Kind
from skylight.backend.queue.queue import Queue

SLICE_SECONDS = 600.0  # of one job; the next goes on from there
SHARED_SECONDS = 15.0  # of work, where other projects wait; to list the project's tasks takes at most as long


class TimeSlice:
    """One job's slice. It ends at the earliest a while after `start_work`: finding out what is to be done comes before.

    For a project with 100,000 tasks that takes longer than `SHARED_SECONDS`; the work then lasts as long as it did, so
    that a worker spends at least half of its time on work.
    """

    def __init__(
        self,
        queue: Queue,
        kind: Kind,
        seconds: float = SHARED_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        longest: float | None = None,
    ) -> None:
        self.queue, self.kind, self.seconds, self.clock = queue, kind, seconds, clock
        self._began = clock()
        self._until = math.inf
        self._end = self._began + (SLICE_SECONDS if longest is None else longest)

    def start_work(self) -> None:
        """Note that what is to be done is known, and the work begins."""
        now = self.clock()
        self._until = now + max(self.seconds, now - self._began)
        self._end = max(self._end, self._until)  # or nothing would ever be done where to find out takes a slice

    @property
    def is_over(self) -> bool:
        """Whether it has lasted `SLICE_SECONDS`, or long enough where another project's job of the kind waits."""
        now = self.clock()
        return now > self._end or (now > self._until and self.queue.has_waiting(self.kind))

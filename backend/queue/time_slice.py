"""Whose turn it is: a job gives its worker to the same kind of work for other projects after a while.

A project has at most one job of a kind in the queue, and one that gives way is queued again at the end of it. So where
several projects wait, they take turns, however many images one of them has. And whoever waits, a job ends after a slice
and is queued again: long before `JOB_SECONDS` would end it, as if something had gone wrong.
"""

import math
import time
from collections.abc import Callable

from skylight.backend.queue.queue import Kind, Queue

SLICE_SECONDS = 600.0  # of one job; the next goes on from there
TURN_SECONDS = 15.0  # of work; what a turn costs beside it, to list the project's tasks, is at most as much


class Turn:
    """One job's turn. It may be over only from `work` on: what it takes to find out what is to be done comes before.

    Of a project with 100,000 tasks that takes longer than `TURN_SECONDS`; the work then lasts as long as the finding
    out did, so that a worker spends half of its time on work at least.
    """

    def __init__(
        self,
        queue: Queue,
        kind: Kind,
        seconds: float = TURN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        longest: float | None = None,
    ) -> None:
        self.queue, self.kind, self.seconds, self.clock = queue, kind, seconds, clock
        self._began = clock()
        self._until = math.inf
        self._end = self._began + (SLICE_SECONDS if longest is None else longest)

    def work(self) -> None:
        """What is to be done is known; the work begins."""
        now = self.clock()
        self._until = now + max(self.seconds, now - self._began)
        self._end = max(self._end, self._until)  # or nothing would ever be done where to find out takes a slice

    @property
    def is_over(self) -> bool:
        """Whether it has lasted for a slice, or long enough where another project's job of the kind waits."""
        now = self.clock()
        return now > self._end or (now > self._until and self.queue.waiting(self.kind))

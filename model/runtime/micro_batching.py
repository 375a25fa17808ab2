"""Calls from several threads as one call of many, for a GPU, which one image at a time does not fill."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class Together(Generic[A, B]):
    """`run` of many at once, asked for one by one: what comes while it is busy goes in together afterwards."""

    def __init__(self, run: Callable[[Sequence[A]], Sequence[B]], most: int) -> None:
        """`run` gives a result for each of at most `most`."""
        self.run = run
        self.most = most
        self._waiting: list[tuple[A, Future[B]]] = []
        self._lock = threading.Lock()
        self._busy = threading.Lock()

    def __call__(self, item: A) -> B:
        """The item's result; an error of `run` reaches all that were in that call."""
        mine: Future[B] = Future()
        with self._lock:
            self._waiting.append((item, mine))
        while not mine.done():
            with self._busy:
                if not mine.done():
                    self._next()
        return mine.result()

    def _next(self) -> None:
        with self._lock:
            taken, self._waiting = self._waiting[: self.most], self._waiting[self.most :]
        futures = [future for _, future in taken]
        try:
            for future, result in zip(futures, self.run([item for item, _ in taken]), strict=True):
                future.set_result(result)
        except BaseException as error:  # noqa: BLE001  # it belongs to those who wait, and is raised there
            for future in futures:
                if not future.done():
                    future.set_exception(error)

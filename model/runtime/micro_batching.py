"""Micro-batching: calls from several threads run as one batch, for a GPU that a single image does not fill."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class MicroBatcher(Generic[A, B]):
    """A batch function called item by item: the items that arrive while it is busy form the next batch."""

    def __init__(self, run: Callable[[Sequence[A]], Sequence[B]], max_batch: int) -> None:
        """`run` returns a result for each of at most `max_batch` items."""
        self.run = run
        self.max_batch = max_batch
        self._waiting: list[tuple[A, Future[B]]] = []
        self._lock = threading.Lock()
        self._busy = threading.Lock()

    def __call__(self, item: A) -> B:
        """The item's result; an error of `run` is raised for every item of the batch."""
        future: Future[B] = Future()
        with self._lock:
            self._waiting.append((item, future))
        while not future.done():
            with self._busy:
                if not future.done():
                    self._run_batch()
        return future.result()

    def _run_batch(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting[: self.max_batch], self._waiting[self.max_batch :]
        futures = [future for _, future in batch]
        try:
            for future, result in zip(futures, self.run([item for item, _ in batch]), strict=True):
                future.set_result(result)
        except BaseException as error:  # noqa: BLE001  # raised in the threads that wait
            for future in futures:
                if not future.done():
                    future.set_exception(error)

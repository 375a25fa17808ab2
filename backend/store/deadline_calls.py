"""Calls in threads that are waited for a limited time, and go on when nobody waits any more."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

MOST = 16  # calls under way at a time

T = TypeVar("T")


class DeadlineCalls:
    """Calls of one slow service, each by a name, waited for `seconds` at most."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._calls: dict[str, tuple[Future[Any], float]] = {}  # under way, and since when

    def call(self, name: str, function: Callable[[], T]) -> T | None:
        """What `function` returns or raises; None if it is late, and at once while any other call is.

        A call of this name that is under way is joined; beyond `MOST` of them no other is begun.
        """
        with self._lock:
            late = any(time.monotonic() - since > self.seconds for _, since in self._calls.values())
            known, full = name in self._calls, len(self._calls) >= MOST
            if full and not known:
                return None
            future: Future[T] = self._calls[name][0] if known else Future()
            self._calls.setdefault(name, (future, time.monotonic()))
        if not known:
            threading.Thread(target=self._run, args=(name, function, future), daemon=True).start()
        try:
            return future.result(0 if late else self.seconds)
        except TimeoutError:
            return None

    def _run(self, name: str, function: Callable[[], T], future: "Future[T]") -> None:
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001 (whoever waits for it raises it)
            future.set_exception(error)
        finally:
            with self._lock:
                del self._calls[name]

"""Answers that are not waited for long: a thread goes on with what was asked, and who asked goes on without it."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

ASKS = 16  # at most under way

T = TypeVar("T")


class Meanwhile:
    """Asks of one somebody, each by a name, that are waited for `seconds` at most."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._asks: dict[str, tuple[Future[Any], float]] = {}  # under way, and since when

    def ask(self, what: str, ask: Callable[[], T]) -> T | None:
        """The answer, or what `ask` raises; None if it is late, and at once while any other is.

        One that is under way already is not asked for again; beyond `ASKS` of them nothing is.
        """
        with self._lock:
            late = any(time.monotonic() - since > self.seconds for _, since in self._asks.values())
            known, full = what in self._asks, len(self._asks) >= ASKS
            if full and not known:
                return None
            future: Future[T] = self._asks[what][0] if known else Future()
            self._asks.setdefault(what, (future, time.monotonic()))
        if not known:
            threading.Thread(target=self._run, args=(what, ask, future), daemon=True).start()
        try:
            return future.result(0 if late else self.seconds)
        except TimeoutError:
            return None

    def _run(self, what: str, ask: Callable[[], T], future: "Future[T]") -> None:
        try:
            future.set_result(ask())
        except Exception as error:  # noqa: BLE001 (who waits for it raises it)
            future.set_exception(error)
        finally:
            with self._lock:
                del self._asks[what]

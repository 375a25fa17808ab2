"""The images of tasks that are being opened, embedded in the web process, so that the first click joins in.

A worker could not do it: which computations are under way, only the process knows in which they are.
"""

import logging
import threading
from collections.abc import Callable, Sequence

from skylight.backend.errors import SkylightError
from skylight.model.images.decoding import ImageError

LIMIT = 16  # images that wait; those of the tasks opened longest ago are left to a worker

log = logging.getLogger(__name__)


class PrefetchThread:
    """One thread, while there is something to do, that embeds images by URL, those asked for last first."""

    def __init__(self, embed: Callable[[str, str], object]) -> None:
        """`embed` is given the project and the URL."""
        self._embed = embed
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, str]] = []  # the last is the next
        self._busy = False

    def request(self, project: str, urls: Sequence[str]) -> None:
        """Embed these images, in their order, before those that wait already. Returns at once."""
        first = [(project, url) for url in reversed(urls)]
        with self._lock:
            self._waiting = [*(each for each in self._waiting if each not in first), *first][-LIMIT:]
            if self._busy or not self._waiting:
                return
            self._busy = True
        threading.Thread(target=self._run, name="opened", daemon=True).start()

    @property
    def busy(self) -> bool:
        """Whether an image is being embedded or waits."""
        with self._lock:
            return self._busy

    def _run(self) -> None:
        while (found := self._next()) is not None:
            try:
                self._embed(*found)
            except (SkylightError, ImageError) as error:
                log.warning("an image of an opened task is not embedded: %s", error)
            except Exception:
                log.exception("an image of an opened task: an error that Skylight did not foresee")

    def _next(self) -> tuple[str, str] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.pop()
            self._busy = False
            return None

"""A thread that embeds the images of opened tasks in the web process, so that the first click finds them embedded.

A worker could not do it: a click can wait for a running computation only in the same process.
"""

import logging
import threading
from collections.abc import Callable, Sequence

from skylight.backend.errors import SkylightError
from skylight.model.images.decoding import ImageError

MAX_WAITING = 16  # images; those of the tasks opened longest ago are left to a worker

log = logging.getLogger(__name__)


class PrefetchThread:
    """Embeds images by URL, those requested last first, in a thread that runs while there is something to do."""

    def __init__(self, embed: Callable[[str, str], object]) -> None:
        """`embed` is given the project and the URL."""
        self._embed = embed
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, str]] = []  # the last is the next
        self._busy = False

    def request(self, project: str, urls: Sequence[str]) -> None:
        """Embed these images, in their order, before those that wait already. Returns at once."""
        requested = [(project, url) for url in reversed(urls)]
        with self._lock:
            self._waiting = [*(image for image in self._waiting if image not in requested), *requested][-MAX_WAITING:]
            if self._busy or not self._waiting:
                return
            self._busy = True
        threading.Thread(target=self._run, name="prefetch", daemon=True).start()

    @property
    def busy(self) -> bool:
        """Whether an image is being embedded or waits."""
        with self._lock:
            return self._busy

    def _run(self) -> None:
        while (image := self._next()) is not None:
            try:
                self._embed(*image)
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

"""Which image is behind which address: what tells whether a task's image is embedded without fetching it."""

import hashlib
import logging
import re
from pathlib import Path

from skylight.model.storage.atomic_write import write

log = logging.getLogger(__name__)


class Addresses:
    """Which image was behind an address when it was last fetched: one small file per address under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def note(self, url: str, digest: str) -> None:
        """Remember the sha256 of what an address showed."""
        try:
            if self.digest(url) != digest:
                write(self._path(url), digest.encode(), durable=False)
        except OSError as error:  # a full disk: a click need not fail for that
            log.warning("which image is behind an address is not kept: %s", error)

    def digest(self, url: str) -> str:
        """The sha256 of what an address showed last, "" if it was never fetched, or that is not known any more.

        A damaged one needs no checksum: no embedding has such a name.
        """
        try:
            found = self._path(url).read_bytes()
        except OSError:
            return ""
        return found.decode() if re.fullmatch(rb"[0-9a-f]{64}", found) else ""

    def _path(self, url: str) -> Path:
        name = hashlib.sha256(url.encode()).hexdigest()
        return self.folder / name[:2] / name

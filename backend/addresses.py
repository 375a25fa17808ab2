"""Which image is behind which address: what tells whether a task's image is embedded without fetching it."""

import hashlib
from pathlib import Path

from model.files import write


class Addresses:
    """Which image was behind an address when it was last fetched: one small file per address under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def note(self, url: str, digest: str) -> None:
        """Remember the sha256 of what an address showed."""
        if self.digest(url) != digest:
            write(self._path(url), digest.encode())

    def digest(self, url: str) -> str:
        """The sha256 of what an address showed last, "" if it was never fetched."""
        try:
            return self._path(url).read_text()
        except FileNotFoundError:
            return ""

    def _path(self, url: str) -> Path:
        name = hashlib.sha256(url.encode()).hexdigest()
        return self.folder / name[:2] / name

"""The sha256 of the image behind each URL, by which it is known without fetching it whether it is embedded."""

import hashlib
import logging
import re

from skylight.model.storage.file_store import FileStore

log = logging.getLogger(__name__)


class UrlIndex:
    """The sha256 of what each URL showed when it was last fetched: `addresses/<2 digits>/<sha256 of the URL>`."""

    def __init__(self, files: FileStore) -> None:
        self.files = files

    def note(self, url: str, digest: str) -> None:
        """Store the sha256 of what a URL showed."""
        try:
            if self.digest(url) != digest:
                self.files.write(_name(url), digest.encode(), durable=False)
        except OSError as error:  # a full disk: a click need not fail for that
            log.warning("which image is behind an address is not kept: %s", error)

    def digest(self, url: str) -> str:
        """The sha256 of what a URL showed last, "" if it was never fetched, or that is not known any more.

        A damaged one needs no checksum: no embedding has such a name.
        """
        try:
            digest = self.files.read(_name(url))
        except OSError:
            return ""
        return digest.decode() if re.fullmatch(rb"[0-9a-f]{64}", digest) else ""


def _name(url: str) -> str:
    name = hashlib.sha256(url.encode()).hexdigest()
    return f"addresses/{name[:2]}/{name}"

"""A folder for a Unix socket: its path must be short, and as a URL its odd characters percent-encoded."""

import os
import tempfile
from pathlib import Path
from urllib.parse import quote

from skylight.backend.errors import Unavailable

LONGEST = 103  # bytes of a socket's path: of macOS; Linux has 107
# What is made there is a folder of its own, mode 700.
SHORT_PARENTS = ("/tmp", "/var/tmp")  # nosec B108


def socket_folder(socket: str) -> "tempfile.TemporaryDirectory[str]":
    """A temporary folder in which a socket may have this name: in TMPDIR, where that is not too long, else a short one.

    Raises Unavailable if there is none.
    """
    usual = tempfile.gettempdir()
    for parent in dict.fromkeys((usual, *SHORT_PARENTS)):
        try:
            folder = tempfile.TemporaryDirectory(prefix="skylight-", dir=parent, ignore_cleanup_errors=True)
        except OSError:
            continue
        if len(os.fsencode(Path(folder.name) / socket)) <= LONGEST:
            return folder
        folder.cleanup()
    raise Unavailable(
        f"{usual} is too long for a socket, of whose path a system takes {LONGEST} bytes, and nothing can be written "
        f"to {' or '.join(SHORT_PARENTS)}; set TMPDIR to a shorter folder"
    )


def socket_url(socket: Path) -> str:
    """The URL by which redis-py connects to a socket, which ends a path at # and ? and decodes %."""
    return f"unix://{quote(os.fsencode(socket))}"

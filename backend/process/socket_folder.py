"""A folder for a Unix socket, whose path must be short, and the URL of a socket."""

import os
import tempfile
from pathlib import Path
from urllib.parse import quote

from skylight.backend.errors import Unavailable

MAX_PATH = 103  # bytes of a socket's path on macOS; Linux has 107
# The folder made there has mode 700.
SHORT_PARENTS = ("/tmp", "/var/tmp")  # nosec B108


def socket_folder(socket: str) -> "tempfile.TemporaryDirectory[str]":
    """Make a temporary folder for a socket of this name: in TMPDIR, or in a shorter one if that is too long.

    Raises Unavailable if there is none.
    """
    usual = tempfile.gettempdir()
    for parent in dict.fromkeys((usual, *SHORT_PARENTS)):
        try:
            folder = tempfile.TemporaryDirectory(prefix="skylight-", dir=parent, ignore_cleanup_errors=True)
        except OSError:
            continue
        if len(os.fsencode(Path(folder.name) / socket)) <= MAX_PATH:
            return folder
        folder.cleanup()
    raise Unavailable(
        f"{usual} is too long for a socket, of whose path a system takes {MAX_PATH} bytes, and nothing can be written "
        f"to {' or '.join(SHORT_PARENTS)}; set TMPDIR to a shorter folder"
    )


def socket_url(socket: Path) -> str:
    """The URL by which redis-py connects to a socket: percent-encoded, as redis-py ends a path at # and ?."""
    return f"unix://{quote(os.fsencode(socket))}"

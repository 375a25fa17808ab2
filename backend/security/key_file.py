"""Keys in files that only their owner may read; of several processes that make one, the first wins."""

import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

CLAIM_SECONDS = 2.0  # how long another process may take to write the empty file that it has made


def load_or_create_key(path: Path, make: Callable[[], str]) -> str:
    """The key in a file; if there is none, or it is empty, what `make` returns is written to it. Raises OSError."""
    if key := _read(path):
        return key
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    part.touch(mode=0o600)
    try:
        with part.open("w") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        _publish(part, path)
    finally:
        part.unlink(missing_ok=True)
    return _read(path)


def _read(path: Path) -> str:
    with suppress(FileNotFoundError):
        return path.read_text()
    return ""


def _publish(part: Path, path: Path) -> None:
    """Give the finished file its name, unless another process was first; then wait until that one's is written."""
    try:
        os.link(part, path)  # appears with its content
        return
    except FileExistsError:
        pass
    except OSError:  # the file system has no hard links, as exFAT, SMB and some of FUSE
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            os.replace(part, path)
            return
    deadline = time.monotonic() + CLAIM_SECONDS
    while not _read(path):
        if time.monotonic() > deadline:  # the other process ended before it wrote
            os.replace(part, path)
            return
        time.sleep(0.01)

"""A folder of embeddings with a size limit, from which the least recently used files are evicted.

A file's modification time is that of its last use, as access times are often switched off. An evicted embedding is
computed again when needed.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

SUFFIX = ".safetensors"
EVICTION_TARGET = 0.9  # share of the limit that is left after an eviction
SCAN_EVERY = 0.01  # share of the limit that a process writes before it looks what others have written
TOUCH_SECONDS = 3600.0  # a use is recorded at most so often, which is exact enough for the order of eviction
PROTECTED_SECONDS = 60.0  # files used more recently are not evicted: they may be about to be read
PART_SECONDS = 3600.0  # a partial file that is older was left by a killed process


@dataclass(frozen=True)
class StoredFile:
    """A file: its size in bytes, and when it was last used, as `time.time()` counts."""

    path: Path
    size: int
    used: float


@dataclass(frozen=True)
class Usage:
    """The disk usage of one encoder's embeddings: `size` bytes, `oldest` and `newest` times of last use."""

    encoder_id: str
    files: int
    size: int
    oldest: float
    newest: float


def list_files(folder: Path) -> Iterator[StoredFile]:
    """All embeddings below a folder, without files that are being written. 20,000 take about 0.2 s."""
    for directory, _, names in os.walk(folder):
        for name in names:
            if SUFFIX not in name:
                continue  # not an embedding
            path = Path(directory, name)
            with suppress(FileNotFoundError):  # another process has just evicted it
                status = path.stat()
                if not name.startswith(".") or time.time() - status.st_mtime > PART_SECONDS:
                    yield StoredFile(path, status.st_size, status.st_mtime)


def usage_by_encoder(folder: Path) -> list[Usage]:
    """The usage of each encoder that has embeddings below `folder`, sorted by the encoder's id."""
    rows = []
    for subfolder in sorted(folder.iterdir()) if folder.is_dir() else ():
        files = list(list_files(subfolder))
        times = [file.used for file in files]
        if files:
            rows.append(Usage(subfolder.name, len(files), sum(file.size for file in files), min(times), max(times)))
    return rows


def touch(path: Path) -> None:
    """Record that a file is used now; silent if it is gone or may not be changed."""
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > TOUCH_SECONDS:
            os.utime(path)


def evict(folder: Path, limit: int, protected: float = PROTECTED_SECONDS) -> tuple[int, int, int]:
    """Evict the least recently used files until `limit` bytes are left, but none used within `protected` seconds.

    Returns the number of evicted files, their bytes, and the bytes that are left. Safe in several processes at once: a
    file that is already gone counts as evicted, and a reader that has opened a file reads on.
    """
    files = sorted(list_files(folder), key=attrgetter("used", "path"))
    total = left = sum(file.size for file in files)
    evicted = 0
    for file in files:
        if left <= limit or time.time() - file.used < protected:
            break
        with suppress(PermissionError):  # another user's file, or, on Windows, one being read
            file.path.unlink(missing_ok=True)
            left -= file.size
            evicted += 1
    return evicted, total - left, left


class SizeLimit:
    """Keeps the files under `folder` within `limit` bytes, 0 for no limit; thread-safe.

    A process scans the folder at its first write, and then only when by its own count the limit is reached or it has
    written a hundredth of it. So several processes may exceed the limit by a hundredth each.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._lock = threading.Lock()
        self._budget = 0.0  # bytes that may be written before the next scan

    def added(self, path: Path) -> None:
        """Count a file that was just written, and evict others if the limit is exceeded."""
        if not self.limit:
            return
        with self._lock, suppress(OSError):
            self._budget -= path.stat().st_size
            if self._budget < 0:
                total = sum(file.size for file in list_files(self.folder))
                if total > self.limit:
                    _, _, total = evict(self.folder, int(EVICTION_TARGET * self.limit))
                self._budget = min(self.limit - total, SCAN_EVERY * self.limit)

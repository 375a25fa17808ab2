"""The room that embeddings take on disk, those of all encoders together, and what gives way when it is too much.

A file's modification time says when it was last used: the access time is often switched off. Nothing is lost with a
file but the time to embed its image again, whether the image is annotated or not.
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
FULL = 0.9  # share of the cap down to which is evicted, so that the next time is a tenth of it away
SCAN_EVERY = 0.01  # share of the cap that a process writes before it looks what others have written
STAMP_SECONDS = 3600.0  # a use is noted at most so often; for the order of eviction that is exact enough
SPARED_SECONDS = 60.0  # what was used less long ago is not evicted: somebody may be about to read it
PART_SECONDS = 3600.0  # a file that is still being written after so long was left by a process that was killed


@dataclass(frozen=True)
class Stored:
    """A file: its size in bytes, and when it was last used, as `time.time()` counts."""

    path: Path
    size: int
    used: float


@dataclass(frozen=True)
class Usage:
    """What the embeddings of one encoder take: `size` bytes, used first and last at the times given."""

    encoder_id: str
    files: int
    size: int
    oldest: float
    newest: float


def stored(folder: Path) -> Iterator[Stored]:
    """All embeddings under a folder but those that are being written. 20,000 take about 0.2 s."""
    for place, _, names in os.walk(folder):
        for name in names:
            if SUFFIX not in name:
                continue  # not ours
            path = Path(place, name)
            with suppress(FileNotFoundError):  # another process has just evicted it
                found = path.stat()
                if not name.startswith(".") or time.time() - found.st_mtime > PART_SECONDS:
                    yield Stored(path, found.st_size, found.st_mtime)


def usage(folder: Path) -> list[Usage]:
    """What each encoder's embeddings under `folder` take, by the encoder's id; those without any are left out."""
    rows = []
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        files = list(stored(place))
        times = [each.used for each in files]
        if files:
            rows.append(Usage(place.name, len(files), sum(each.size for each in files), min(times), max(times)))
    return rows


def stamp(path: Path) -> None:
    """Note that a file is used now; cheap, and silent where it is gone or may not be changed."""
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > STAMP_SECONDS:
            os.utime(path)


def trim(folder: Path, limit: int, spared: float = SPARED_SECONDS) -> tuple[int, int, int]:
    """Evict the least recently used files until `limit` bytes are left, but none used within `spared` seconds.

    Several processes may do so at once: they find the same files the oldest, and one that is gone counts as evicted.
    Who reads a file meanwhile reads on, or does not find it and computes it again. Gives how many files were evicted,
    their bytes, and the bytes that are left.
    """
    files = sorted(stored(folder), key=attrgetter("used", "path"))
    held = left = sum(each.size for each in files)
    evicted = 0
    for each in files:
        if left <= limit or time.time() - each.used < spared:
            break
        with suppress(PermissionError):  # another user's, or, on Windows, being read
            each.path.unlink(missing_ok=True)
            left -= each.size
            evicted += 1
    return evicted, held - left, left


class Cap:
    """Keeps the files under `folder` within `limit` bytes, 0 for any number; thread-safe.

    A process looks at the whole folder at its first write, and then only when by its own count the cap is reached or it
    has written a hundredth of it. So several processes together may exceed the cap by a hundredth each.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._lock = threading.Lock()
        self._left = 0.0  # bytes that may be written before the next look

    def wrote(self, path: Path) -> None:
        """Count a file that was just written, and evict others down to nine tenths of the cap if it is exceeded."""
        if not self.limit:
            return
        with self._lock, suppress(OSError):
            self._left -= path.stat().st_size
            if self._left < 0:
                held = sum(each.size for each in stored(self.folder))
                if held > self.limit:
                    _, _, held = trim(self.folder, int(FULL * self.limit))
                self._left = min(self.limit - held, SCAN_EVERY * self.limit)

"""Bits that turn on a disk, and disks of a size."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


def flip(path: Path, rng: np.random.Generator, bits: int = 1) -> None:
    """Turn some bits of a file, different ones."""
    data = bytearray(path.read_bytes())
    for place in rng.choice(8 * len(data), min(bits, 8 * len(data)), replace=False):
        data[place // 8] ^= 1 << (place % 8)
    path.write_bytes(data)


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[bool]:
    """A disk of a size at a place; gives False where none may be mounted."""
    place.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place], capture_output=True)
    try:
        yield made.returncode == 0
    finally:
        if made.returncode == 0:
            subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path) -> Path:
    """Fill a disk to its last byte; gives the file that does it."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            for size in (2**20, 2**12, 1):
                while True:
                    try:
                        file.write(b"\0" * size)
                    except OSError:
                        break
        finally:
            file.close()
    return filler


def writable(place: Path, can: bool) -> None:
    """Make a mounted disk read-only, or not any more."""
    subprocess.run(["mount", "-o", "remount,rw" if can else "remount,ro", place], check=True)

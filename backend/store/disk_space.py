"""Free space on the disk of the store."""

import shutil
from pathlib import Path

GIGABYTE = 1e9
DISK_FAIL = 1 * GIGABYTE  # below it nothing more is embedded


def free_bytes(home: Path) -> int:
    """Free space on the disk of a folder, which need not be there yet."""
    return shutil.disk_usage(_existing(home)).free


def _existing(home: Path) -> Path:
    return next(path for path in (home.absolute(), *home.absolute().parents) if path.is_dir())

"""Writing files whole or not at all."""

import os
import shutil
import uuid
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it into it, so that no reader ever sees half of it.

    A path that writes whole by itself (`model.shared`) does so.
    """
    if getattr(path, "bucket", None) is not None:
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Delete a file, or a folder with all that is in it, if it is there. Raises OSError for what cannot be deleted.

    Of a path in a bucket (`model.shared`) what the bucket holds, and then its copy here.
    """
    if getattr(path, "bucket", None) is not None:
        _remove_shared(path)
        path = Path(path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_shared(path: Path) -> None:
    for each in list(path.iterdir()):
        if each.is_dir():
            _remove_shared(each)
        else:
            each.unlink(missing_ok=True)

"""Writing files whole or not at all."""

import os
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

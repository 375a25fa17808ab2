"""Writing files whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it into it, so that no reader ever sees half of it.

    A path that writes whole by itself (`model.shared`) does so.
    """
    if getattr(path, "bucket", None) is not None:
        path.write_bytes(data)
        return
    with replacing(path) as part:
        part.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` that no other writer has, to be written to; renamed into place unless an error is raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)

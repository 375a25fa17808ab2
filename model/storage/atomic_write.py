"""Writing files whole or not at all, also where the machine loses its power meanwhile."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)  # what file systems say that sync no folder


def write(path: Path, data: bytes, durable: bool = True) -> None:
    """Write a file beside its place and rename it into it, so that no reader ever sees half of it.

    Once it returns, the file outlives a loss of power; not so if `durable` is false, which is for what can be made
    again and is checked when it is read.
    """
    with replacing(path, durable) as part:
        part.write_bytes(data)


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """A path beside `path` that no other writer has, to be written to; renamed into place unless an error is raised.

    `durable` as for `write`.
    """
    make_folder(path.parent, durable)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield part
        if durable:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def move_folder(part: Path, path: Path) -> None:
    """Rename a finished folder of files into its place, such that it outlives a loss of power whole or not at all."""
    for each in part.iterdir():
        with each.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(part)
    os.rename(part, path)
    sync_folder(path.parent)


def make_folder(folder: Path, durable: bool = True) -> None:
    """Make a folder and those above it, if they are not there."""
    if folder.is_dir():
        return
    make_folder(folder.parent, durable)
    folder.mkdir(exist_ok=True)
    if durable:
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder outlive a loss of power, where the file system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one that may be written and not be read
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise
    finally:
        os.close(handle)


def remove_tree(path: Path) -> None:
    """Delete a file, or a folder with all that is in it, if it exists. Raises OSError for what cannot be deleted."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

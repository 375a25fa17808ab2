"""Atomic writes: files and folders that appear whole or not at all, even after a power loss."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)  # of file systems that cannot sync folders


def write(path: Path, data: bytes, durable: bool = True) -> None:
    """Write a temporary file and rename it into place, so that no reader sees a part of it.

    If `durable`, the file survives a power loss once this returns. False is for content that can be made again and is
    checked when it is read.
    """
    with replacing(path, durable) as part:
        part.write_bytes(data)


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """A context with a temporary path beside `path`, renamed into place at its end unless an error is raised.

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
    """Rename a finished folder of files into place; it survives a power loss whole or not at all."""
    for path_of_file in part.iterdir():
        with path_of_file.open("rb") as file:
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
    """Make the names in a folder survive a power loss, where the file system can sync folders."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may be writable and not readable
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

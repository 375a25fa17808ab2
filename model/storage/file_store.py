"""Files by name, such as `projects/1.5/current.json`: in a folder, or elsewhere with copies in a folder.

`FolderStore` is the folder; `skylight.backend.store.bucket.BucketStore` is a bucket.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from skylight.model.storage import atomic_write


@dataclass(frozen=True)
class Listing:
    """The names of the files and the folders in a folder, without those that begin with a dot."""

    files: Set[str]
    folders: Set[str]

    @property
    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self.files, *self.folders})


class FileStore(ABC):
    """Named files, each written and read whole.

    Names are relative and have `/` between their parts; no part begins with a dot. Every method raises OSError where
    the disk, or what else the files are in, fails.
    """

    folder: Path  # where the files are, or their copies on this machine

    def path(self, name: str) -> Path:
        """Where a file, or its copy, is on this machine."""
        return self.folder / name

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A file's content. Raises FileNotFoundError."""

    @abstractmethod
    def write(self, name: str, data: bytes, durable: bool = True) -> None:
        """Write a file whole, in place of an earlier one. `durable`: as of `atomic_write.write`."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""

    @abstractmethod
    def delete_tree(self, folder: str) -> None:
        """Delete a folder with all that is in it, if it exists."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether a file exists."""

    @abstractmethod
    def list_folder(self, folder: str) -> Listing:
        """What is in a folder, "" being the store itself; nothing where it does not exist."""

    @abstractmethod
    def changed_at(self, folder: str) -> int:
        """A time of the past, in ns, which is another one once anything in the folder has changed.

        Raises FileNotFoundError if there is no such folder.
        """

    @abstractmethod
    def publish(self, part: Path, folder: str, last: str) -> None:
        """Move a finished folder of this machine into the store under a new name, whole or not at all.

        Where that takes several steps, its file `last` comes last. Raises FileExistsError, or another OSError, if the
        name is taken.
        """

    @abstractmethod
    def published(self, folder: str, last: str) -> list[str]:
        """The names in a folder whose folders are published, sorted."""

    @abstractmethod
    def prefer_copies(self) -> None:
        """From now on, in this process, do not wait for a slow answer where there is a copy on this machine."""


class FolderStore(FileStore):
    """Files in a folder of this machine, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> bytes:
        """A file's content. Raises FileNotFoundError."""
        return self.path(name).read_bytes()

    def write(self, name: str, data: bytes, durable: bool = True) -> None:
        """Write a file whole, in place of an earlier one."""
        atomic_write.write(self.path(name), data, durable)

    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""
        self.path(name).unlink(missing_ok=True)

    def delete_tree(self, folder: str) -> None:
        """Delete a folder with all that is in it, if it exists."""
        atomic_write.remove_tree(self.path(folder))

    def exists(self, name: str) -> bool:
        """Whether a file exists."""
        return self.path(name).exists()

    def list_folder(self, folder: str) -> Listing:
        """What is in a folder; nothing where it does not exist, or may not be read."""
        try:
            with os.scandir(self.path(folder)) as entries:
                kinds = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return Listing(frozenset(), frozenset())
        folders = {name for name, is_folder in kinds.items() if is_folder}
        return Listing(kinds.keys() - folders, folders)

    def changed_at(self, folder: str) -> int:
        """When a file was last made in the folder, or deleted, in ns."""
        return self.path(folder).stat().st_mtime_ns

    def publish(self, part: Path, folder: str, last: str) -> None:
        """Rename a finished folder into its place."""
        atomic_write.move_folder(part, self.path(folder))

    def published(self, folder: str, last: str) -> list[str]:
        """All names in a folder, as a rename is whole; also of a file that a damaged disk has in a folder's place."""
        return self.list_folder(folder).names

    def prefer_copies(self) -> None:
        """Nothing: there are no copies."""

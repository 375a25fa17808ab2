"""Paths of a store in a bucket, for code that knows paths only: `Path`s of the copy here, whose reading and writing
goes to the bucket where what they name is shared.

What is not (all but `SHARED`: what is in flight, downloaded, or secret) are plain paths under the same folder.
"""

import fnmatch
import os
import zlib
from collections.abc import Generator
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from skylight.backend.store.bucket import Bucket


SHARED = ("projects", "addresses", "signed", "embeddings", "layout.json")
LISTED = ("projects", "signed")  # folders that a webhook is answered by
IMMUTABLE = (".safetensors", ".png", "card.json")  # ends of names whose content never changes
RARE_SECONDS = 10.0  # how old a listing may be by which it is known which images are embedded


class SharedPath(PosixPath):
    """A path in one bucket; `at` makes the class for it. Renaming and linking are for plain paths only."""

    bucket: ClassVar["Bucket"]

    @property
    def _name(self) -> str:
        """The object's name; "" of the store itself."""
        name = os.path.relpath(self, self.bucket.folder)
        return "" if name == "." else name

    @property
    def _is_shared(self) -> bool:
        """A part that begins with a dot is still being written, here."""
        parts = Path(self._name).parts
        return not parts or (parts[0] in SHARED and not any(part.startswith(".") for part in parts))

    @property
    def _rare(self) -> bool:
        return self._name.startswith(("embeddings/", "addresses/"))

    def __truediv__(self, other: Any) -> Path:  # type: ignore[override]
        """A path below; a plain one where that is not shared."""
        made = super().__truediv__(other)
        return made if made._is_shared else Path(made)

    def read_bytes(self) -> bytes:
        """The content. Raises OSError."""
        immutable = self._rare or self.name.endswith(IMMUTABLE)
        return self.bucket.read(self._name, immutable)

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The same as text."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def write_bytes(self, data: Any) -> int:
        """Write it whole. Raises OSError."""
        self.bucket.write(self._name, bytes(data))
        return len(data)

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """Make it, empty, if it is not there."""
        if not self.exists():
            self.write_bytes(b"")

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete it, if it is there."""
        self.bucket.delete(self._name)

    def open(self, mode: str = "r", *args: Any, **options: Any) -> Any:
        """The copy, brought up to date; to be read."""
        if mode.strip("bt") != "r":
            raise OSError(f"{self} is in a bucket and written as a whole: {mode!r}")
        self.read_bytes()
        return Path(self).open(mode, *args, **options)

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        if not self._name or ((self._rare or self.name.endswith(IMMUTABLE)) and Path(self).is_file()):
            return True
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether it is a file."""
        return bool(self._name) and self.name in self._siblings().files

    def is_dir(self) -> bool:
        """Whether anything is below it."""
        return not self._name or self.name in self._siblings().folders

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """A bucket has no folders; the copy does."""
        Path(self).mkdir(mode, parents=True, exist_ok=True)

    def iterdir(self) -> Generator[Self, None, None]:
        """What is in it."""
        found = self.bucket.listing(self._name, RARE_SECONDS if self._rare else 1.0)
        for name in sorted({*found.files, *found.folders}):
            yield self / name  # type: ignore[misc]

    def glob(self, pattern: str) -> Generator[Self, None, None]:
        """What is in it, or some folders below, and has such a name. A version without a card is not there yet."""
        first, _, rest = pattern.partition("/")
        for each in self.iterdir():
            if fnmatch.fnmatchcase(each.name, first) and isinstance(each, SharedPath):
                if rest:
                    yield from each.glob(rest)
                elif self.name != "versions" or (each / "card.json").exists():
                    yield each

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Of a file its copy's; of a folder a time that is another one when anything in it is."""
        if (self._rare or self.name.endswith(IMMUTABLE)) and Path(self).is_file():
            return Path(self).stat()
        if self.is_file():
            self.read_bytes()
            return Path(self).stat()
        if not self.is_dir():
            raise FileNotFoundError(f"{self.bucket.url}/{self._name} does not exist")
        found = self.bucket.listing(self._name)
        mark = zlib.crc32(repr(sorted(found.files.items())).encode()) // 4  # of the past, in seconds
        times = dict.fromkeys(("st_atime_ns", "st_mtime_ns", "st_ctime_ns"), mark * 10**9)
        return os.stat_result((0o40755, 0, 0, 1, 0, 0, 0, mark, mark, mark), times)

    def _siblings(self) -> Any:
        parent = self._name.rpartition("/")[0]
        return self.bucket.listing(parent, RARE_SECONDS if self._rare else 1.0)


def at(url: str, folder: Path, copy_bytes: int = 0) -> SharedPath:
    """The store at `s3://bucket/prefix`, its copy under `folder`, of which embeddings take `copy_bytes`, 0: any.

    Raises ModuleNotFoundError without the package obstore.
    """
    from skylight.backend.store.bucket import Bucket  # needs the extra `s3`

    bucket = Bucket(url, folder.absolute(), copy_bytes)
    bucket.folder.mkdir(parents=True, exist_ok=True)
    made: type[SharedPath] = type("StoredPath", (SharedPath,), {"bucket": bucket})
    return made(bucket.folder)


def hurry(home: Path) -> None:
    """In this process, do not wait for a slow bucket where the copy has something; nothing where it is a folder.

    What there is of `LISTED` is asked for here, as the first time of anything is waited for.
    """
    if isinstance(home, SharedPath):
        home.bucket.hurried = True
        for name in LISTED:
            home.bucket.listing(name)


def publish(folder: Path, last: str) -> None:
    """Make a folder that was written here, and then renamed, known to all: its file `last` comes last.

    Nothing where the store is a folder. Raises FileExistsError if another machine was first.
    """
    if not isinstance(folder, SharedPath):
        return
    here = Path(folder)
    names = sorted((each.name for each in here.iterdir()), key=lambda name: name == last)
    for name in names:
        folder.bucket.write((folder / name)._name, (here / name).read_bytes(), new=name == last)  # type: ignore[attr-defined]

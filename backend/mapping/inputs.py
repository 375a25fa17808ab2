"""Inputs of `skylight map`: image files, folders, and objects in a bucket."""

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from skylight.backend.mapping import bucket_inputs
from skylight.backend.mapping.bucket_inputs import RemoteObject
from skylight.model.images.decoding import ImageError
from skylight.model.images.file_names import is_image, list_files

MAX_NAME_BYTES = 180  # a file's name has 255 at most, and its ending is still to come


@dataclass(frozen=True)
class Input:
    """An image to be mapped: where it is, and what its outputs are called."""

    place: Path | RemoteObject
    name: str

    @property
    def address(self) -> str:
        """Its address in the tables: the file's path, or `s3://bucket/key`."""
        return self.place.address if isinstance(self.place, RemoteObject) else str(self.place)

    @property
    def is_remote(self) -> bool:
        """Whether it is an object in a bucket."""
        return isinstance(self.place, RemoteObject)

    def state(self) -> tuple[int, int | str]:
        """Its size in bytes, and a mark that changes with its content. Raises OSError if it does not exist."""
        if isinstance(self.place, RemoteObject):
            return self.place.size, self.place.mark
        state = self.place.stat()
        return state.st_size, state.st_mtime_ns

    @contextmanager
    def local(self, folder: Path) -> Iterator[Path]:
        """Its file; a copy in `folder` of an object in a bucket, which is deleted at the end.

        Raises OSError if it cannot be copied, ImageError if it is a list of other files. An ImageError of the caller
        that names the copy is raised naming the object.
        """
        if not isinstance(self.place, RemoteObject):
            yield self.place
            return
        # A name of its own: another process may copy the same object.
        path = folder / f"{uuid.uuid4().hex[:8]}{PurePosixPath(self.address).suffix}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if path.suffix.lower() == ".vrt":
                raise ImageError(f"{path} is a list of other files, which are not copied with it; map those")
            bucket_inputs.copy(self.place, path)
            yield path
        except ImageError as error:
            raise ImageError(str(error).replace(str(path), self.address)) from error
        finally:
            path.unlink(missing_ok=True)


def list_images(sources: Sequence[Path | str]) -> list[Input]:
    """The images among files, folders and addresses in buckets, those of a folder with all its folders.

    Hidden files in folders are left out, see `skylight.model.images.file_names`. Each image has a name of its own.
    Raises as `bucket_inputs.list_objects`.
    """
    paths: dict[Path | RemoteObject, PurePath] = {}  # each image's path from its source
    for source in sources:
        if isinstance(source, str):
            root, objects = bucket_inputs.list_objects(source)
            below = {remote: PurePosixPath(remote.address.removeprefix(root)) for remote in objects}
            paths |= {remote: path for remote, path in below.items() if is_image(path)}
        elif source.is_dir():
            below_folder = {path: path.relative_to(source) for path in list_files(source)}
            paths |= {path: relative for path, relative in below_folder.items() if is_image(relative)}
        else:
            paths[source] = PurePath(source.name)
    flat = {place: _shorten("_".join(path.with_suffix("").parts)) for place, path in paths.items()}
    taken = Counter(flat.values())
    names: dict[str, Path | RemoteObject] = {}
    for place, name in flat.items():
        unique = name if taken[name] == 1 else f"{name}-{paths[place].suffix[1:].lower()}"
        if unique in names:
            address = place.address if isinstance(place, RemoteObject) else str(place)
            unique = f"{unique}-{_hash(address)}"
        names[unique] = place
    return [Input(place, name) for name, place in names.items()]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


def _shorten(name: str) -> str:
    data = name.encode(errors="surrogateescape")
    if len(data) <= MAX_NAME_BYTES:
        return name
    return f"{data[:MAX_NAME_BYTES].decode(errors='ignore')}-{_hash(name)}"

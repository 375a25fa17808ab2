"""The pictures that `skylight map` is given: files, folders, and objects in a bucket."""

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from skylight.backend.mapping import bucket_inputs
from skylight.backend.mapping.bucket_inputs import Remote
from skylight.model.images.decoding import ImageError
from skylight.model.images.file_names import files_below, is_picture

LONGEST = 180  # bytes of a name; that of a file has 255 at most, and its ending is still to come


@dataclass(frozen=True)
class Input:
    """A picture to be mapped: where it is, and what its outputs are called."""

    place: Path | Remote
    name: str

    @property
    def address(self) -> str:
        """As in the tables: the file's path, or `s3://bucket/key`."""
        return self.place.address if isinstance(self.place, Remote) else str(self.place)

    @property
    def is_remote(self) -> bool:
        """Whether it is an object in a bucket."""
        return isinstance(self.place, Remote)

    def state(self) -> tuple[int, int | str]:
        """Its bytes, and a mark that is another one once its content is. Raises OSError if it is not there."""
        if isinstance(self.place, Remote):
            return self.place.size, self.place.mark
        state = self.place.stat()
        return state.st_size, state.st_mtime_ns

    @contextmanager
    def local(self, folder: Path) -> Iterator[Path]:
        """Its file; a copy of an object in a bucket, in `folder`, which is gone afterwards.

        Raises OSError if it cannot be copied, ImageError if it is a list of other files; an ImageError that names the
        copy comes out naming the object.
        """
        if not isinstance(self.place, Remote):
            yield self.place
            return
        # Its own: another process may copy the same.
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


def inputs(given: Sequence[Path | str]) -> list[Input]:
    """The pictures among files, folders and addresses in buckets, those of a folder with all its folders.

    What is hidden in a folder is passed over, see `skylight.model.images.file_names`.

    Each has a name of its own. Raises as `remote.listed`.
    """
    found: dict[Path | Remote, PurePath] = {}
    for each in given:
        if isinstance(each, str):
            below, objects = bucket_inputs.listed(each)
            paths = {one: PurePosixPath(one.address.removeprefix(below)) for one in objects}
            found |= {one: path for one, path in paths.items() if is_picture(path)}
        elif each.is_dir():
            paths_below = {path: path.relative_to(each) for path in files_below(each)}
            found |= {path: below for path, below in paths_below.items() if is_picture(below)}
        else:
            found[each] = PurePath(each.name)
    flat = {place: _short("_".join(path.with_suffix("").parts)) for place, path in found.items()}
    taken = Counter(flat.values())
    names: dict[str, Path | Remote] = {}
    for place, name in flat.items():
        whole = name if taken[name] == 1 else f"{name}-{found[place].suffix[1:].lower()}"
        if whole in names:
            address = place.address if isinstance(place, Remote) else str(place)
            whole = f"{whole}-{_hash(address)}"
        names[whole] = place
    return [Input(place, name) for name, place in names.items()]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


def _short(name: str) -> str:
    data = name.encode(errors="surrogateescape")
    return name if len(data) <= LONGEST else f"{data[:LONGEST].decode(errors='ignore')}-{_hash(name)}"

"""Which task, or which file, shows the picture that a label file names: by its name and the folders before it."""

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Generic, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

T = TypeVar("T")
Parts = tuple[str, ...]  # folders, and the file's name as `spelled`

UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")  # as Label Studio names an uploaded file
OTHER_JPEG = (".jfif", ".jpe")
DROPPED = re.compile(r"[^-\w.]")  # characters that Label Studio, by Django, leaves out of such a name


def spelled(name: str) -> str:
    """A file's name as Label Studio keeps an uploaded one."""
    return DROPPED.sub("", unicodedata.normalize("NFC", name).strip().replace(" ", "_"))


def uploaded_name(name: str) -> str:
    """What a picture's file, or a path to it, is called once it is uploaded: Label Studio refuses .jfif and .jpe."""
    return f"{name.rpartition('.')[0]}.jpg" if PurePosixPath(name).suffix.lower() in OTHER_JPEG else name


def path_of(address: str) -> str:
    """The path in the address of a task's picture: of an upload, a local file, cloud storage, or on the web."""
    url = urlsplit(address)
    query = parse_qs(url.query)
    if "d" in query:  # /data/local-files/?d=
        return query["d"][0]
    if "fileuri" in query:  # what Label Studio makes of s3:// and the like
        try:
            return path_of(base64.urlsafe_b64decode(query["fileuri"][0]).decode())
        except (binascii.Error, ValueError):
            return ""
    return unquote(url.path)


def names_of(path: str, stem: bool = False) -> list[Parts]:
    """A path by its parts, the name as it is and, where it may be one that Label Studio gave, without its prefix.

    `stem` leaves out what follows the name's last dot.
    """
    *folders, name = PurePosixPath(path.replace("\\", "/")).parts or ("",)
    found = UPLOADED.fullmatch(name)
    names = (name, found[1]) if found else (name,)
    return [(*folders, spelled(PurePosixPath(each).stem if stem else each)) for each in names]


class Index(Generic[T]):
    """Things by their paths' names; of those with one name the one whose folders agree furthest."""

    def __init__(self, paths: Iterable[tuple[str, T]], stem: bool) -> None:
        self._stem = stem
        self._named: dict[str, list[tuple[Parts, T]]] = {}
        for path, thing in paths:
            for parts in names_of(path, stem):
                self._named.setdefault(parts[-1], []).append((parts, thing))

    def best(self, path: str) -> list[T]:
        """What the path means: one, none, or several between which nothing decides."""
        for parts in names_of(path, self._stem):
            found = [(_common(parts, other), thing) for other, thing in self._named.get(parts[-1], ())]
            if found:
                most = max(common for common, _ in found)
                return [thing for common, thing in found if common == most]
        return []


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts agree, from the last."""
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count

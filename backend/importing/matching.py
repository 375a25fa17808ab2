"""Matching of the images that a label file names to tasks and files, by their names and the folders before."""

import base64
import binascii
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Generic, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from skylight.backend.labelstudio.image_urls import browser_address

T = TypeVar("T")
Parts = tuple[str, ...]  # folders, and the file's name as `spelled`

UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")  # as Label Studio names an uploaded file
# As its converter names a file that it has fetched: after the first digits of the MD5 of the address.
FETCHED = re.compile(r"([0-9a-f]{8})__(.+)")
# What is an address and no file's path: of the web, of cloud storage, or a path at which Label Studio hands out files.
ADDRESS = re.compile(
    r"\s*(?:[a-z][a-z0-9+.-]+://|//|(?:/[^?#]*)?/(?:data/upload/|data/local-files/?\?|storage-data/|tasks/[0-9]+/))",
    re.IGNORECASE,
)
RARE_JPEG_SUFFIXES = (".jfif", ".jpe")
DROPPED_CHARACTERS = re.compile(r"[^-\w.]")  # characters that Label Studio, by Django, leaves out of such a name


def spelled(name: str) -> str:
    """A file's name as Label Studio keeps an uploaded one."""
    return DROPPED_CHARACTERS.sub("", unicodedata.normalize("NFC", name).strip().replace(" ", "_"))


def uploaded_name(name: str) -> str:
    """The name of an image's file, or a path to it, once it is uploaded: Label Studio refuses .jfif and .jpe."""
    return f"{name.rpartition('.')[0]}.jpg" if PurePosixPath(name).suffix.lower() in RARE_JPEG_SUFFIXES else name


def path_of(address: str, host: bool = False) -> str:
    """The path in the address of a task's image: of an upload, a local file, cloud storage, or on the web.

    `host`: after the host or the bucket, if it has one, which may tell two apart.
    """
    try:
        url = urlsplit(browser_address(address))
        query = parse_qs(url.query)
    except ValueError:  # such as http://[
        return address
    folder = url.path.rstrip("/")
    if "d" in query and folder.endswith("/data/local-files"):
        return query["d"][0]
    if "filepath" in query and folder.endswith("/storage-data/uploaded"):
        return query["filepath"][0]
    if "fileuri" in query and folder.endswith(
        ("/resolve", "/presign")
    ):  # what Label Studio makes of s3:// and the like
        try:
            return path_of(base64.urlsafe_b64decode(query["fileuri"][0]).decode(), host)
        except (binascii.Error, ValueError):
            return ""
    return (url.netloc if host else "") + unquote(url.path)


def likely_paths(name: str, is_address: bool = False) -> list[str]:
    """The paths that an image's name in a label file may mean, the likeliest first.

    The name is a path as it is or percent-encoded, or an address; surely one if `is_address`.
    """
    paths = [path_of(name, host=True)] if is_address or ADDRESS.match(name) else []
    return list(dict.fromkeys((*paths, name, unquote(name))))


def split_path(path: str, any_suffix: bool = False) -> list[Parts]:
    """A path by its parts, the name as it is and, where it may be one that Label Studio gave, without its prefixes.

    `any_suffix` leaves out what follows the name's last dot.
    """
    whole = unicodedata.normalize("NFC", path).replace("\\", "/")
    *folders, name = PurePosixPath(whole).parts or ("",)
    names = [name]
    for pattern in (FETCHED, UPLOADED):
        if match := pattern.fullmatch(names[-1]):
            names.append(match[match.re.groups])
    return [(*folders, spelled(PurePosixPath(name).stem if any_suffix else name)) for name in names]


class AddressIndex(Generic[T]):
    """Items by the addresses of their images."""

    def __init__(self, addresses: Iterable[tuple[str, T]]) -> None:
        self._by_address: dict[str, list[T]] = {}
        self._by_digest: dict[str, list[T]] | None = None  # made when it is needed
        for address, item in addresses:
            self._by_address.setdefault(browser_address(address), []).append(item)

    def best(self, name: str) -> list[T]:
        """The items whose image has this very address, or from whose address the converter made the name."""
        if items := self._by_address.get(browser_address(name)):
            return items
        fetched = FETCHED.fullmatch(PurePosixPath(name).name)
        return self._digests().get(fetched[1], []) if fetched else []

    def _digests(self) -> dict[str, list[T]]:
        if self._by_digest is None:
            self._by_digest = {}
            for address, items in self._by_address.items():
                digest = hashlib.md5(address.encode(errors="replace"), usedforsecurity=False).hexdigest()
                self._by_digest.setdefault(digest[:8], []).extend(items)
        return self._by_digest


class PathIndex(Generic[T]):
    """Items by their paths' names; of those with one name the one whose folders agree furthest."""

    def __init__(self, paths: Iterable[tuple[str, T]], any_suffix: bool) -> None:
        self._any_suffix = any_suffix
        self._by_name: dict[str, list[tuple[Parts, T]]] = {}
        for path, item in paths:
            for parts in split_path(path, any_suffix):
                self._by_name.setdefault(parts[-1], []).append((parts, item))

    def best(self, path: str) -> list[T]:
        """The items that a path means: one, none, or several between which nothing decides."""
        for parts in split_path(path, self._any_suffix):
            candidates = [(_common(parts, other), item) for other, item in self._by_name.get(parts[-1], ())]
            if candidates:
                most = max(common for common, _ in candidates)
                return [item for common, item in candidates if common == most]
        return []


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts agree, from the last."""
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count

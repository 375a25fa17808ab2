"""A store in a bucket: `s3://bucket/prefix`, with copies on this machine of the files that were read or written.

Every file is one object, written by one PUT, so that it exists whole or not at all. A file that never changes is read
from its copy; for any other, the bucket is asked whether it has changed (by its ETag), at most once a second. A failed
call is tried again with growing pauses; if it still fails, the copies are served for a few seconds without asking.
"""

import logging
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, NotModifiedError
from obstore.store import S3Store

from skylight.backend.store.deadline_calls import DeadlineCalls
from skylight.model.storage import atomic_write, lru_folder
from skylight.model.storage.file_store import FileStore, Listing
from skylight.model.storage.lru_folder import SizeLimit

IMMUTABLE = (".safetensors", ".png", "card.json")  # ends of names of files that never change
RARELY_LISTED = ("embeddings/", "addresses/")  # folders of files that never change, listed to see which are embedded
FIRST_LISTED = ("projects", "signed")  # folders that a webhook is answered by

FRESH_SECONDS = 1.0  # a file or listing read less long ago is not asked for again
RARE_SECONDS = 10.0  # the same of a listing of `RARELY_LISTED`
AWAY_SECONDS = 5.0  # how long a bucket that did not answer is not asked again for files that have copies
ANSWER_SECONDS = 10.0  # of one try
TRIES = 5  # after the first, where the answer is an error of the server or none comes
PAUSE_SECONDS, LONGEST_SECONDS = 0.1, 2.0  # before the second try, doubled each time up to the longest
COPY_SECONDS = 0.5  # how long `prefer_copies` waits where there is a copy: Label Studio gives a webhook 1 s

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _CachedListing(Listing):
    """The ETags of a folder's files, and when the bucket was asked."""

    etags: dict[str, str]
    at: float


def connect(name: str, prefix: str = "", seconds: float = ANSWER_SECONDS) -> S3Store:
    """A client for the objects of a bucket under a prefix; `seconds`: of one try."""
    # Where and who it is comes from AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, ..., or the machine's role.
    return S3Store(
        name,
        prefix=prefix or None,
        client_options={"timeout": timedelta(seconds=seconds), "connect_timeout": "3s", "allow_http": True},
        retry_config={
            "max_retries": TRIES,
            "retry_timeout": timedelta(seconds=3 * seconds),
            "backoff": {
                "init_backoff": timedelta(seconds=PAUSE_SECONDS),
                "max_backoff": timedelta(seconds=LONGEST_SECONDS),
                "base": 2,
            },
        },
    )


class BucketStore(FileStore):
    """The objects under `url`, and their copies under `folder`, of which embeddings take `copy_bytes`, 0: any."""

    def __init__(
        self, url: str, folder: Path, copy_bytes: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.url, self.folder, self.clock = url, folder.absolute(), clock
        self.folder.mkdir(parents=True, exist_ok=True)
        bucket, _, self.prefix = url.removeprefix("s3://").partition("/")
        self.cap = SizeLimit(self.folder, copy_bytes)
        self._client = connect(bucket, self.prefix)
        self._prefers_copies = False
        self._lock = threading.Lock()
        self._etags: dict[str, tuple[str, float]] = {}  # of each copy, and when it was known to be right
        self._listings: dict[str, _CachedListing] = {}
        self._away_until = 0.0
        self._refreshes = DeadlineCalls(COPY_SECONDS)

    def read(self, name: str) -> bytes:
        """A file's content. Raises FileNotFoundError, or OSError if nobody answers and there is no copy."""
        copy = self.path(name)
        etag, at = self._etags.get(name, ("", -FRESH_SECONDS))
        if copy.is_file() and (_is_immutable(name) or self._is_away or self.clock() - at < FRESH_SECONDS):
            lru_folder.touch(copy)
            return copy.read_bytes()
        if self._is_away:
            raise OSError(f"{self.url} did not answer just now, and there is no copy of {name}")
        if self._prefers_copies and copy.is_file():
            return self._refreshes.call(name, lambda: self._download(name, etag)) or copy.read_bytes()
        return self._download(name, etag)

    def write(self, name: str, data: bytes, durable: bool = True) -> None:
        """Write an object whole, in place of an earlier one. Raises OSError."""
        self._upload(name, data)

    def delete(self, name: str) -> None:
        """Delete an object, if it exists."""
        with self._disk_errors(name):
            obstore.delete(self._client, name)
        self._forget_listings(name)
        self._etags.pop(name, None)
        self.path(name).unlink(missing_ok=True)

    def delete_tree(self, folder: str) -> None:
        """Delete all objects in a folder, and then its copy here."""
        self._delete_objects(folder)
        atomic_write.remove_tree(self.path(folder))

    def exists(self, name: str) -> bool:
        """Whether an object exists."""
        if _is_immutable(name) and self.path(name).is_file():
            return True
        folder, _, last = name.rpartition("/")
        return last in self._listing(folder, RARE_SECONDS if _is_rare(name) else FRESH_SECONDS).files

    def list_folder(self, folder: str) -> Listing:
        """What is in a folder; where nobody answers, what of it has a copy here."""
        return self._listing(folder, RARE_SECONDS if _is_rare(folder) else FRESH_SECONDS)

    def changed_at(self, folder: str) -> int:
        """A time of the past made from the ETags of the objects in a folder, in ns."""
        listing = self._listing(folder, FRESH_SECONDS)
        if folder and not listing.names:
            raise FileNotFoundError(f"{self.url}/{folder} does not exist")
        return zlib.crc32(repr(sorted(listing.etags.items())).encode()) // 4 * 10**9

    def publish(self, part: Path, folder: str, last: str) -> None:
        """Move a finished folder to the copies, then upload it, `last` last.

        Raises FileExistsError if another machine was first.
        """
        copy = self.path(folder)
        atomic_write.move_folder(part, copy)
        names = sorted((path.name for path in copy.iterdir()), key=lambda name: name == last)
        for name in names:
            self._upload(f"{folder}/{name}", (copy / name).read_bytes(), new=name == last)

    def published(self, folder: str, last: str) -> list[str]:
        """The names of the folders in a folder that have their last file."""
        return [name for name in self.list_folder(folder).names if self.exists(f"{folder}/{name}/{last}")]

    def prefer_copies(self) -> None:
        """From now on, in this process, copies are brought up to date behind a slow answer.

        The first listing of a folder is waited for, so those that a webhook is answered by are made here.
        """
        self._prefers_copies = True
        for folder in FIRST_LISTED:
            self.list_folder(folder)

    def _download(self, name: str, etag: str) -> bytes:
        copy = self.path(name)
        try:
            with self._disk_errors(name):
                answer = obstore.get(
                    self._client, name, options={"if_none_match": etag} if etag and copy.is_file() else None
                )
                data = bytes(answer.bytes())
        except NotModifiedError:
            self._note(name, etag)
            return copy.read_bytes()
        except FileNotFoundError:
            copy.unlink(missing_ok=True)
            raise
        except OSError:
            if copy.is_file():
                return copy.read_bytes()
            raise
        self._copy(name, data, str(answer.meta["e_tag"]))
        return data

    def _upload(self, name: str, data: bytes, new: bool = False) -> None:
        """Write an object whole; `new`: raises FileExistsError if it exists."""
        with self._disk_errors(name):
            result = obstore.put(self._client, name, data, mode="create" if new else "overwrite", use_multipart=False)
        self._forget_listings(name)
        self._copy(name, data, str(result["e_tag"]))

    def _delete_objects(self, folder: str) -> None:
        listing = self.list_folder(folder)
        for name in listing.files:
            self.delete(f"{folder}/{name}")
        for name in listing.folders:
            self._delete_objects(f"{folder}/{name}")

    def _listing(self, folder: str, fresh: float) -> _CachedListing:
        """What is in a folder, as it was at most `fresh` seconds ago."""
        cached = self._listings.get(folder)
        if cached and self.clock() - cached.at < fresh:
            return cached
        if self._is_away:
            return self._copies(folder)
        if self._prefers_copies and cached:
            return self._refreshes.call(f"{folder}/", lambda: self._list_objects(folder)) or cached
        return self._list_objects(folder)

    def _list_objects(self, folder: str) -> _CachedListing:
        prefix = _prefix(folder)
        try:
            with self._disk_errors(folder):
                answer = obstore.list_with_delimiter(self._client, prefix or None)
        except OSError:
            return self._copies(folder)
        # A console of S3's makes a folder as an empty object of the folder's own name: it is in no folder.
        objects = {str(meta["path"]): str(meta["e_tag"]) for meta in answer["objects"]}
        etags = {path.removeprefix(prefix): etag for path, etag in objects.items() if path != folder}
        folders = {str(path).rstrip("/").removeprefix(prefix) for path in answer["common_prefixes"]}
        listing = _CachedListing(etags.keys(), folders, etags, self.clock())
        with self._lock:
            self._listings[folder] = listing
            for name, etag in etags.items():  # so that reading a folder after listing it asks for what is new only
                if self._etags.get(prefix + name, ("", 0.0))[0] == etag:
                    self._etags[prefix + name] = etag, self.clock() + 10 * FRESH_SECONDS
        return listing

    def _copies(self, folder: str) -> _CachedListing:
        """What of a folder has a copy here."""
        path, prefix = self.path(folder), _prefix(folder)
        copies = [copy for copy in path.iterdir() if not copy.name.startswith(".")] if path.is_dir() else []
        etags = {copy.name: self._etags.get(prefix + copy.name, ("", 0.0))[0] for copy in copies if copy.is_file()}
        folders = {copy.name for copy in copies if copy.is_dir()}
        return _CachedListing(etags.keys(), folders, etags, self.clock())

    @property
    def _is_away(self) -> bool:
        return self.clock() < self._away_until

    @contextmanager
    def _disk_errors(self, name: str) -> Iterator[None]:
        """Raise errors of the bucket as those of a disk."""
        try:
            yield
        except NotModifiedError:
            raise
        except (NotFoundError, FileNotFoundError):
            raise FileNotFoundError(f"{self.url}/{name} does not exist") from None
        except AlreadyExistsError:
            raise FileExistsError(f"{self.url}/{name} exists") from None
        except (BaseError, OSError) as error:
            self._away_until = self.clock() + AWAY_SECONDS
            reason = str(error).strip().partition("\n")[0][:300]
            log.warning("%s/%s: %s", self.url, name, reason)
            raise OSError(f"{self.url} does not answer, or not so: {reason}") from error

    def _copy(self, name: str, data: bytes, etag: str) -> None:
        try:
            atomic_write.write(self.path(name), data)
        except OSError as error:  # a full disk: the bucket has it
            log.warning("%s is not copied: %s", name, error)
            return
        self._note(name, etag)
        if name.endswith(lru_folder.SUFFIX):
            self.cap.added(self.path(name))

    def _note(self, name: str, etag: str) -> None:
        with self._lock:
            self._etags[name] = etag, self.clock()

    def _forget_listings(self, name: str) -> None:
        """Forget the listings of the folders above a file, the root's too."""
        with self._lock:
            while name:
                name = name.rpartition("/")[0]
                self._listings.pop(name, None)


def _is_rare(name: str) -> bool:
    return name.startswith(RARELY_LISTED)


def _is_immutable(name: str) -> bool:
    return _is_rare(name) or name.endswith(IMMUTABLE)


def _prefix(folder: str) -> str:
    """What the names of all objects in a folder begin with; "" of the root."""
    return f"{folder}/" if folder else ""

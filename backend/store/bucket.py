"""A store in a bucket: `s3://bucket/prefix`, with a copy on this machine of what was read or written.

Every file is one object, written by one PUT, so that it is there whole or not at all. What never changes is read from
the copy; of what may, the bucket is asked whether it has (by its ETag), at most once a second. Each call is tried again
with growing pauses; if it fails all the same, what the copy has is served for a few seconds without asking.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, NotModifiedError
from obstore.store import S3Store

from skylight.backend.store.deadline_calls import Meanwhile
from skylight.model.storage import lru_folder

FRESH_SECONDS = 1.0  # what was read, or listed, less long ago is not asked for again
AWAY_SECONDS = 5.0  # how long a bucket that did not answer is not asked again for what the copy has
ANSWER_SECONDS = 10.0  # of one try
TRIES = 5  # after the first, where the answer is an error of the server or none comes
PAUSE_SECONDS, LONGEST_SECONDS = 0.1, 2.0  # before the second try, doubled each time up to the longest

HURRY_SECONDS = 0.5  # how long who is in a hurry waits where the copy has something: Label Studio gives a webhook 1 s

log = logging.getLogger(__name__)


@dataclass
class Listing:
    """What a folder holds: files with their ETags, and folders."""

    files: dict[str, str]
    folders: set[str]
    at: float = field(default_factory=time.monotonic)


def store(name: str, prefix: str = "", seconds: float = ANSWER_SECONDS) -> S3Store:
    """The objects of a bucket under a prefix; `seconds`: of one try."""
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


class Bucket:
    """The objects under `url`, by names such as `projects/1/current.json`, and their copies under `folder`."""

    def __init__(
        self, url: str, folder: Path, copy_bytes: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.url, self.folder, self.clock = url, folder, clock
        name, _, self.prefix = url.removeprefix("s3://").partition("/")
        self.cap = lru_folder.Cap(folder, copy_bytes)
        self._store = store(name, self.prefix)
        self.hurried = False  # in a process that answers people: the copy is brought up to date behind a slow answer
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, float]] = {}  # ETag of the copy, and when it was known to be right
        self._listed: dict[str, Listing] = {}
        self._away_until = 0.0
        self._behind = Meanwhile(HURRY_SECONDS)

    def read(self, name: str, immutable: bool) -> bytes:
        """An object's content. Raises FileNotFoundError, or OSError if nobody answers and there is no copy."""
        copy = self.folder / name
        tag, at = self._known.get(name, ("", -FRESH_SECONDS))
        if copy.is_file() and (immutable or self._is_away or self.clock() - at < FRESH_SECONDS):
            lru_folder.stamp(copy)
            return copy.read_bytes()
        if self._is_away:
            raise OSError(f"{self.url} did not answer just now, and there is no copy of {name}")
        if self.hurried and copy.is_file():
            return self._behind.ask(name, lambda: self._fetched(name, tag)) or copy.read_bytes()
        return self._fetched(name, tag)

    def _fetched(self, name: str, tag: str) -> bytes:
        copy = self.folder / name
        try:
            with self._asked(name):
                found = obstore.get(
                    self._store, name, options={"if_none_match": tag} if tag and copy.is_file() else None
                )
                data = bytes(found.bytes())
        except NotModifiedError:
            self._note(name, tag)
            return copy.read_bytes()
        except FileNotFoundError:
            copy.unlink(missing_ok=True)
            raise
        except OSError:
            if copy.is_file():
                return copy.read_bytes()
            raise
        self._copy(name, data, str(found.meta["e_tag"]))
        return data

    def write(self, name: str, data: bytes, new: bool = False) -> None:
        """Write an object whole; `new`: raises FileExistsError if it is there. Raises OSError if it cannot be."""
        with self._asked(name):
            made = obstore.put(self._store, name, data, mode="create" if new else "overwrite", use_multipart=False)
        self._forget(name)
        self._copy(name, data, str(made["e_tag"]))

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""
        with self._asked(name):
            obstore.delete(self._store, name)
        self._forget(name)
        self._known.pop(name, None)
        (self.folder / name).unlink(missing_ok=True)

    def listing(self, folder: str, fresh: float = FRESH_SECONDS) -> Listing:
        """What a folder holds, "" being the store's root, as it was at most `fresh` seconds ago.

        Where nobody answers, what the copy holds.
        """
        kept = self._listed.get(folder)
        if kept and self.clock() - kept.at < fresh:
            return kept
        if self._is_away:
            return self._local(folder)
        if self.hurried and kept:
            return self._behind.ask(f"{folder}/", lambda: self._listed_anew(folder)) or kept
        return self._listed_anew(folder)

    def _listed_anew(self, folder: str) -> Listing:
        above = _above(folder)
        try:
            with self._asked(folder):
                found = obstore.list_with_delimiter(self._store, above or None)
        except OSError:
            return self._local(folder)
        # A console of S3's makes a folder as an empty object of the folder's own name: it is in no folder.
        objects = {str(each["path"]): str(each["e_tag"]) for each in found["objects"]}
        files = {path.removeprefix(above): tag for path, tag in objects.items() if path != folder}
        folders = {str(each).rstrip("/").removeprefix(above) for each in found["common_prefixes"]}
        made = Listing(files, folders, self.clock())
        with self._lock:
            self._listed[folder] = made
            for name, tag in files.items():  # so that reading a folder after listing it asks for what is new only
                if self._known.get(above + name, ("", 0.0))[0] == tag:
                    self._known[above + name] = tag, self.clock() + 10 * FRESH_SECONDS
        return made

    @property
    def _is_away(self) -> bool:
        return self.clock() < self._away_until

    @contextmanager
    def _asked(self, name: str) -> Iterator[None]:
        """Errors of the bucket as those of a disk."""
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

    def _local(self, folder: str) -> Listing:
        place = self.folder / folder
        found = [each for each in place.iterdir() if not each.name.startswith(".")] if place.is_dir() else []
        above = _above(folder)
        files = {each.name: self._known.get(above + each.name, ("", 0.0))[0] for each in found if each.is_file()}
        return Listing(files, {each.name for each in found if each.is_dir()}, self.clock())

    def _copy(self, name: str, data: bytes, tag: str) -> None:
        from skylight.model.storage.atomic_write import write

        try:
            write(self.folder / name, data)
        except OSError as error:  # a full disk: the bucket has it
            log.warning("%s is not copied: %s", name, error)
            return
        self._note(name, tag)
        if name.endswith(lru_folder.SUFFIX):
            self.cap.wrote(self.folder / name)

    def _note(self, name: str, tag: str) -> None:
        with self._lock:
            self._known[name] = tag, self.clock()

    def _forget(self, name: str) -> None:
        """Forget the listings of the folders above, the root's too."""
        with self._lock:
            while name:
                name = name.rpartition("/")[0]
                self._listed.pop(name, None)


def _above(folder: str) -> str:
    """What the names of all objects in a folder begin with; "" of the root."""
    return f"{folder}/" if folder else ""

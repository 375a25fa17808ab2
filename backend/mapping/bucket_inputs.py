"""Images in a bucket, `s3://bucket/prefix`: listed, and copied to a file on this machine one at a time.

Neither GDAL's /vsis3 nor anything else reads them, so that address and credentials come from one place, that of a store
in a bucket.
"""

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skylight.model.images.file_names import SUFFIXES

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import S3Store

CHUNK_BYTES = 16 * 2**20  # of an object that are requested at a time
CHUNK_SECONDS = 60.0  # that one try to read them may take
SCHEME = "s3://"
ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]*[a-z0-9])(?:/(?P<key>.*))?", re.DOTALL)
REFUSED = re.compile(r"status code: 40[13]|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch")


@dataclass(frozen=True)
class RemoteObject:
    """An object in a bucket: its address, size in bytes, and a mark (ETag, or time) that changes with its content."""

    address: str
    size: int
    mark: str
    tag: str | None = None


def list_objects(address: str) -> tuple[str, list[RemoteObject]]:
    """List the image at an address, or all objects below it, by name. Returns their folder's address, with "/", too.

    Raises ValueError if it is not an address in a bucket, OSError if there is no such bucket, or it cannot be read,
    ModuleNotFoundError without the package obstore.
    """
    import obstore

    bucket, key = _split(address)
    with _plain_errors(address):
        store = _store(bucket)
        if key.lower().endswith(SUFFIXES):
            with suppress(FileNotFoundError):  # a folder, then
                return f"{address.rpartition('/')[0]}/", [_remote(bucket, obstore.head(store, key))]
        pages = obstore.list(store, key or None)
        objects = [_remote(bucket, meta) for page in pages for meta in page]
    root = f"{SCHEME}{bucket}/{key}/" if key else f"{SCHEME}{bucket}/"
    return root, sorted(objects, key=lambda remote: remote.address)


def copy(remote: RemoteObject, path: Path) -> None:
    """Write an object's content to a file, a chunk at a time. Raises OSError if it cannot be read, or has changed."""
    import obstore

    bucket, key = _split(remote.address)
    with path.open("wb") as file, _plain_errors(remote.address):
        store = _store(bucket)
        for begin in range(0, remote.size, CHUNK_BYTES):
            options: GetOptions = {"range": (begin, min(begin + CHUNK_BYTES, remote.size))}
            if remote.tag:
                options["if_match"] = remote.tag
            file.write(obstore.get(store, key, options=options).bytes())


def _split(address: str) -> tuple[str, str]:
    match = ADDRESS.fullmatch(address)
    if not match:
        raise ValueError("that is no address in a bucket: write s3://bucket/prefix or s3://bucket/picture.tif")
    return match["bucket"], (match["key"] or "").strip("/")


@functools.lru_cache(maxsize=16)
def _store(bucket: str) -> "S3Store":
    """The bucket's client, cached with its connections and the credentials of a role."""
    from skylight.backend.store.bucket import connect  # needs the extra `s3`

    return connect(bucket, seconds=CHUNK_SECONDS)


def _remote(bucket: str, meta: "ObjectMeta") -> RemoteObject:
    tag = meta["e_tag"]
    mark = tag or meta["last_modified"].isoformat()
    return RemoteObject(f"{SCHEME}{bucket}/{meta['path']}", int(meta["size"]), str(mark), tag)


@contextmanager
def _plain_errors(address: str) -> Iterator[None]:
    """Raise errors of the bucket as OSError with a sentence."""
    from obstore.exceptions import BaseError, InvalidPathError, PreconditionError

    bucket = _split(address)[0]
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{address} is not there any more") from None
    except PreconditionError:
        raise OSError(f"{address} has changed since it was listed; the same command maps what it is now") from None
    except (BaseError, InvalidPathError) as error:
        text = str(error)
        if "NoSuchBucket" in text:
            raise OSError(f"there is no bucket {bucket}; AWS_ENDPOINT_URL and AWS_REGION say where it is") from None
        if REFUSED.search(text):
            who = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role"
            raise OSError(f"{address}: access is refused; it is asked for by {who}") from None
        raise OSError(f"{address} cannot be read: {text.strip().partition(chr(10))[0][:300]}") from error

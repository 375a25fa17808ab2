"""A content-addressed cache of embeddings, in memory and in a store of files.

Keyed by the image's sha256 and the encoder's id, so the encoder runs once per image and encoder, whatever project,
task or URL the image came by. Threads that ask for the same image at the same time compute it once. Memory and
disk may be limited; evicted embeddings are computed again from the same bytes when needed.
"""

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from skylight.model.embeddings.file_format import (
    DAMAGE_ERRORS,
    LAYOUT,
    LAYOUT_WITHOUT_CHECKSUM,
    READER,
    EmbeddingLayoutError,
    has_reader,
    nbytes,
    pack,
    parse,
)
from skylight.model.sam.types import Embedding
from skylight.model.storage import checksums, lru_folder
from skylight.model.storage.file_store import FileStore

FOLDER = "embeddings"  # of a store

log = logging.getLogger(__name__)


class EmbeddingCache:
    """Embeddings of one encoder: at most `memory_bytes` of them in memory, and in `embeddings/` those of all encoders.

    Above `disk_bytes`, 0 for no limit, the least recently used files are evicted; a lookup that memory answers does not
    count as a use of the file. One process needs one cache per folder.
    """

    def __init__(
        self,
        files: FileStore,
        encoder_id: str,
        memory_bytes: int,
        disk_bytes: int = 0,
        on_damage: Callable[[Path], None] = lambda path: None,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`waiting`: a context that a thread enters while it waits for an embedding that another thread computes."""
        self.files, self.encoder_id = files, encoder_id
        self.on_damage = on_damage
        self.waiting = waiting
        self.memory_bytes = memory_bytes
        self._disk_limit = lru_folder.SizeLimit(files.path(FOLDER), disk_bytes)
        self._lock = threading.Lock()
        self._memory: OrderedDict[str, Embedding] = OrderedDict()
        self._memory_used = 0  # bytes
        self._pending: dict[str, Future[Embedding]] = {}
        self.lookups: Counter[str] = Counter()  # counts of "memory", "disk" and "miss" (computed)

    def path(self, key: str) -> Path:
        """Where an image's embedding, or its copy, is on this machine."""
        return self.files.path(self._name(key))

    def has(self, key: str) -> bool:
        """Whether an image's embedding is on disk."""
        return self.files.exists(self._name(key))

    def _name(self, key: str) -> str:
        """Folders by the first two digits keep each one small."""
        return f"{FOLDER}/{self.encoder_id}/{key[:2]}/{key}{lru_folder.SUFFIX}"

    def get(
        self, key: str, compute: Callable[[], Embedding], check: Callable[[Embedding], bool | None] | None = None
    ) -> Embedding:
        """The embedding of the image with sha256 `key`, from memory, disk or `compute()`.

        It is the same, as `parse` reads it, wherever it comes from. `check` is called once for a file of an earlier
        release: whether it is of the image as decoded today, None if that cannot be decided now. An error of `compute`
        or `check` is raised in every thread that waited for it, and is not cached.
        """
        with self._lock:
            if key in self._memory:
                self._memory.move_to_end(key)
                self.lookups["memory"] += 1
                return self._memory[key]
            future = self._pending.get(key)
            owner = future is None
            if future is None:
                future = self._pending[key] = Future()
        if not owner:
            self._count("miss")  # it waits for the same computation
            with self.waiting():
                return future.result()
        try:
            embedding, current = self._read(key, check)
            self._count("miss" if embedding is None else "disk")
            if embedding is None:
                embedding = self._store(key, compute())
            if current:
                self._remember(key, embedding)
            future.set_result(embedding)
        except BaseException as error:
            future.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._pending[key]
        return embedding

    def _count(self, source: str) -> None:
        with self._lock:
            self.lookups[source] += 1

    def _read(self, key: str, check: Callable[[Embedding], bool | None] | None) -> tuple[Embedding | None, bool]:
        """An embedding on disk, None if there is none, and whether it is known to be of the image as decoded today."""
        path = self.path(key)
        try:
            data = self.files.read(self._name(key))
            embedding = parse(data)
        except FileNotFoundError:
            return None, True
        except OSError as error:  # a bad sector, say
            log.warning("an embedding cannot be read, and is computed again: %s", error)
            return None, True
        except EmbeddingLayoutError:
            self._drop(key)
            return None, True
        except DAMAGE_ERRORS as error:
            log.warning("the embedding %s is damaged and computed again: %s", path, error)
            self._drop(key)
            self.on_damage(path)
            return None, True
        lru_folder.touch(path)
        current = has_reader(data)
        if not current and check is not None:
            same = check(embedding)
            if same is False:
                self._drop(key)
                return None, True
            current = bool(same)
        self._renew(key, data, current)
        return embedding, current

    def _drop(self, key: str) -> None:
        with suppress(OSError):  # on a disk that has become read-only
            self.files.delete(self._name(key))

    def _renew(self, key: str, data: bytes, current: bool) -> None:
        """Write a file without a checksum again with one, and a `current` file without `READER` with it."""
        metadata = checksums.read_metadata(data)
        if metadata["layout"] == LAYOUT_WITHOUT_CHECKSUM or current != has_reader(data):
            tensors = {**load(data), **({READER: np.ones(1, np.uint8)} if current else {})}
            metadata = {name: value for name, value in metadata.items() if name != checksums.CRC_KEY}
            with suppress(OSError):
                sealed = checksums.save_tensors(tensors, {**metadata, "layout": LAYOUT})
                self.files.write(self._name(key), sealed, durable=False)

    def _store(self, key: str, computed: Embedding) -> Embedding:
        data, embedding = pack(computed)
        try:
            self.files.write(self._name(key), data, durable=False)  # not durable: a click waits for it
        except OSError as error:  # a full disk must not fail a click
            log.warning("an embedding is not kept, and will be computed again: %s", error)
        else:
            self._disk_limit.added(self.path(key))
        return embedding

    def _remember(self, key: str, embedding: Embedding) -> None:
        with self._lock:
            if key in self._memory:
                self._memory_used -= nbytes(self._memory.pop(key))
            self._memory[key] = embedding
            self._memory_used += nbytes(embedding)
            while self._memory_used > self.memory_bytes and len(self._memory) > 1:
                _, oldest = self._memory.popitem(last=False)
                self._memory_used -= nbytes(oldest)

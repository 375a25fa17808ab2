"""A content-addressed cache of embeddings: memory over a folder.

Keyed by the image's sha256 and the encoder's id, so the encoder runs once per image and encoder, whatever project,
task or URL the image came by. Two threads that ask for one image compute it once. Either may be bounded; what was
evicted is computed again when it is asked for, from the same bytes, so that only time is lost.
"""

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from skylight.model.embeddings.quantization import quantise, restore
from skylight.model.sam.types import Embedding
from skylight.model.storage import atomic_write, checksums, lru_folder
from skylight.model.storage.file_store import FileStore

LAYOUT = "5"  # of a file; 1 had a smaller thumbnail, 2 no detail and no picture, 3 two bytes a number, 4 no checksum
FOLDER = "embeddings"  # of a store
UNSEALED = "4"  # is read once more, and sealed then
# A tensor's name, in a file whose pixels were read as they are now; counted up when a picture is read otherwise. One
# without it is of a release that showed some pictures otherwise to SAM than browsers show them.
READER = "reader.2"
# Kept with one byte a number (see `quantise`), 0.9 MB of the tiny SAM's instead of 1.4 for a scene of 512 px. On images
# that it was not trained on (nuclei, lesions, THEMIS, cats, procedural pits) against two bytes: IoU of 275 clicks
# +0.0006 ± 0.0004, of their boxes 0.0000; of decoders trained on two bytes, asked about one, 0.0000 ± 0.0001 (12
# trainings on 5 images, 10 to test); trained on one byte +0.004 ± 0.003 (28 pairs), which is the training's own noise:
# when two bytes were changed by their last bit it was +0.009 ± 0.004 (16 pairs). The official SAMs were not measured.
QUANTISED = ("features", "context", "detail")
SCALE = ".scale"  # after a quantised tensor's name: that of its channels' ranges
WHOLE = ("thumbnail", "picture", "quantiles", "known")

# What a damaged file may raise: a wrong checksum, or, in one of before there were any, whatever is missing or odd.
DAMAGES = (checksums.Damaged, SafetensorError, LookupError, ValueError, TypeError)

log = logging.getLogger(__name__)


class OtherLayout(ValueError):
    """An embedding's file is an earlier version's."""


class EmbeddingCache:
    """Embeddings of one encoder: at most `memory_bytes` of them in memory, and in `embeddings/` those of all encoders.

    Of the folder the least recently used give way where there is more than `disk_bytes`, 0 for no such cap; an image
    that is answered from memory alone does not count as used there. One process needs one cache per folder.
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
        """`waiting`: what a thread enters while it waits for an embedding that another one computes."""
        self.files, self.encoder_id = files, encoder_id
        self.on_damage = on_damage
        self.waiting = waiting
        self.memory_bytes = memory_bytes
        self._cap = lru_folder.Cap(files.path(FOLDER), disk_bytes)
        self._lock = threading.Lock()
        self._memory: OrderedDict[str, Embedding] = OrderedDict()
        self._held = 0  # bytes
        self._pending: dict[str, Future[Embedding]] = {}
        self.lookups: Counter[str] = Counter()  # how many were in "memory", on "disk", or had to be computed, a "miss"

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
        """The embedding of the image with sha256 `key`, by `compute()` only where neither memory nor disk has it.

        It is the same, as `read` gives it, wherever it comes from. `check` is asked about one on disk that an earlier
        release made, once: whether it is of the pixels that are read today, None if that cannot be told now. Whatever
        `compute` or `check` raises reaches every thread that waited for it, and is not remembered.
        """
        with self._lock:
            if key in self._memory:
                self._memory.move_to_end(key)
                self.lookups["memory"] += 1
                return self._memory[key]
            future = self._pending.get(key)
            mine = future is None
            if future is None:
                future = self._pending[key] = Future()
        if not mine:
            self._count("miss")  # it waits for the same
            with self.waiting():
                return future.result()
        try:
            embedding, sure = self._read(key, check)
            self._count("miss" if embedding is None else "disk")
            if embedding is None:
                embedding = self._keep(key, compute())
            if sure:
                self._remember(key, embedding)
            future.set_result(embedding)
        except BaseException as error:
            future.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._pending[key]
        return embedding

    def _count(self, where: str) -> None:
        with self._lock:
            self.lookups[where] += 1

    def _read(self, key: str, check: Callable[[Embedding], bool | None] | None) -> tuple[Embedding | None, bool]:
        """An embedding on disk, None if there is none, and whether it is known to be of the pixels read today."""
        path = self.path(key)
        try:
            data = self.files.read(self._name(key))
            embedding = parse(data)
        except FileNotFoundError:
            return None, True
        except OSError as error:  # a bad sector, say
            log.warning("an embedding cannot be read, and is computed again: %s", error)
            return None, True
        except OtherLayout:
            self._drop(key)
            return None, True
        except DAMAGES as error:
            log.warning("the embedding %s is damaged and computed again: %s", path, error)
            self._drop(key)
            self.on_damage(path)
            return None, True
        lru_folder.stamp(path)
        sure = has_reader(data)
        if not sure and check is not None:
            same = check(embedding)
            if same is False:
                self._drop(key)
                return None, True
            sure = bool(same)
        self._renew(key, data, sure)
        return embedding, sure

    def _drop(self, key: str) -> None:
        with suppress(OSError):  # on a disk that has become read-only
            self.files.delete(self._name(key))

    def _renew(self, key: str, data: bytes, sure: bool) -> None:
        """Give a file of before there were checksums its own, and one that is `sure` the mark of its reader."""
        metadata = checksums.metadata_of(data)
        if metadata["layout"] == UNSEALED or sure != has_reader(data):
            tensors = {**load(data), **({READER: np.ones(1, np.uint8)} if sure else {})}
            metadata = {name: value for name, value in metadata.items() if name != checksums.MARK}
            with suppress(OSError):
                sealed = checksums.save_tensors(tensors, {**metadata, "layout": LAYOUT})
                self.files.write(self._name(key), sealed, durable=False)

    def _keep(self, key: str, computed: Embedding) -> Embedding:
        data, embedding = pack(computed)
        try:
            self.files.write(self._name(key), data, durable=False)  # a click waits for it
        except OSError as error:  # a full disk: a click need not fail for that
            log.warning("an embedding is not kept, and will be computed again: %s", error)
        else:
            self._cap.wrote(self.path(key))
        return embedding

    def _remember(self, key: str, embedding: Embedding) -> None:
        with self._lock:
            if key in self._memory:
                self._held -= nbytes(self._memory.pop(key))
            self._memory[key] = embedding
            self._held += nbytes(embedding)
            while self._held > self.memory_bytes and len(self._memory) > 1:
                _, oldest = self._memory.popitem(last=False)
                self._held -= nbytes(oldest)


def nbytes(embedding: Embedding) -> int:
    """Bytes an embedding takes in memory."""
    parts = (getattr(embedding, name) for name in (*QUANTISED, *WHOLE))
    return sum(each.nbytes for each in parts if each is not None)


def pack(embedding: Embedding) -> tuple[bytes, Embedding]:
    """The content of an embedding's file, as safetensors, and the embedding as `read` gives it."""
    tensors: dict[str, NDArray[Any]] = {READER: np.ones(1, np.uint8)}
    for name in QUANTISED:
        if (values := getattr(embedding, name)) is not None:
            tensors[name], tensors[name + SCALE] = quantise(values)
    for name in WHOLE:
        if (values := getattr(embedding, name)) is not None:
            tensors[name] = np.ascontiguousarray(values)
    metadata = {"height": str(embedding.size[0]), "width": str(embedding.size[1]), "layout": LAYOUT}
    return checksums.save_tensors(tensors, metadata), _unpack(tensors, embedding.size)


def _unpack(tensors: Mapping[str, NDArray[Any]], size: tuple[int, int]) -> Embedding:
    parts: dict[str, Any] = {name: tensors[name] for name in WHOLE if name in tensors}
    for name in QUANTISED:
        if name in tensors:
            parts[name] = restore(tensors[name], tensors[name + SCALE])
    if not {"features", "thumbnail"} <= parts.keys():
        raise ValueError("it has no features or no thumbnail")
    return Embedding(size=size, **parts)


def has_reader(data: bytes) -> bool:
    """Whether a file's content has the mark of today's reader of pictures."""
    return f'"{READER}"'.encode() in data[8 : 8 + int.from_bytes(data[:8], "little")]


def write(path: Path, embedding: Embedding) -> None:
    """Write an embedding's file, whole or not at all."""
    atomic_write.write(path, pack(embedding)[0])


def read(path: Path) -> Embedding:
    """Read an embedding. Raises FileNotFoundError, OtherLayout, or one of `DAMAGES`."""
    # Copied, not mapped: 200 of the tiny SAM's take 0.8 ms each. With two bytes a number it was 1.4 ms and 298 MB;
    # mapped 0.2 ms and next to nothing, but a training reads all of each within seconds, and then 309 MB are resident.
    # One byte must be restored into an array of its own, of which there is one in the process: training copies none.
    return parse(path.read_bytes())


def parse(data: bytes) -> Embedding:
    """The embedding in a file's content. Raises OtherLayout, or one of `DAMAGES`."""
    sealed, metadata = checksums.holds(data), checksums.metadata_of(data)
    layout, keys = metadata.get("layout"), {"height", "width", "layout"} | ({checksums.MARK} if sealed else set())
    if layout not in (LAYOUT, UNSEALED):
        raise OtherLayout(f"an embedding of layout {layout}, not {LAYOUT}; embed it anew")
    # A file without a sum is of before there were sums, unless it shows signs of one.
    if sealed != (layout == LAYOUT) or metadata.keys() != keys:
        raise checksums.Damaged("its checksum is missing")
    return _unpack(load(data), (int(metadata["height"]), int(metadata["width"])))

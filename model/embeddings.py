"""A content-addressed cache of embeddings: memory over a folder.

Keyed by the image's sha256 and the encoder's id, so the encoder runs once per image and encoder, whatever project,
task or URL the image came by. Two threads that ask for one image compute it once.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from model import files
from model.sam import Embedding

LAYOUT = "3"  # of a file; 1 had a smaller thumbnail, 2 no detail and no picture


class EmbeddingCache:
    """Embeddings of one encoder in memory, at most `memory_bytes` of them, and all of them under `folder`."""

    def __init__(self, folder: Path, encoder_id: str, memory_bytes: int) -> None:
        self.folder = folder / encoder_id
        self.memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._memory: OrderedDict[str, Embedding] = OrderedDict()
        self._held = 0  # bytes
        self._pending: dict[str, Future[Embedding]] = {}

    def path(self, key: str) -> Path:
        """The file of an image's embedding; folders by the first two digits keep each one small."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str, compute: Callable[[], Embedding]) -> Embedding:
        """The embedding of the image with sha256 `key`, by `compute()` only where neither memory nor disk has it.

        Whatever `compute` raises reaches every thread that waited for it, and is not remembered.
        """
        with self._lock:
            if key in self._memory:
                self._memory.move_to_end(key)
                return self._memory[key]
            future = self._pending.get(key)
            mine = future is None
            if future is None:
                future = self._pending[key] = Future()
        if not mine:
            return future.result()
        try:
            embedding = self._read(key)
            if embedding is None:
                embedding = compute()
                write(self.path(key), embedding)
            self._remember(key, embedding)
            future.set_result(embedding)
        except BaseException as error:
            future.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._pending[key]
        return embedding

    def _read(self, key: str) -> Embedding | None:
        path = self.path(key)
        try:
            return read(path)
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError, ValueError):
            path.unlink(missing_ok=True)  # half-written by a crashed disk, or an earlier version's: compute it again
            return None

    def _remember(self, key: str, embedding: Embedding) -> None:
        with self._lock:
            self._memory[key] = embedding
            self._held += nbytes(embedding)
            while self._held > self.memory_bytes and len(self._memory) > 1:
                _, oldest = self._memory.popitem(last=False)
                self._held -= nbytes(oldest)


def nbytes(embedding: Embedding) -> int:
    """Bytes an embedding takes in memory."""
    parts = embedding.features, embedding.thumbnail, embedding.context, embedding.detail, embedding.picture
    return sum(each.nbytes for each in parts if each is not None)


def write(path: Path, embedding: Embedding) -> None:
    """Write an embedding as safetensors, whole or not at all."""
    tensors: dict[str, NDArray[Any]] = {"features": embedding.features, "thumbnail": embedding.thumbnail}
    if embedding.context is not None:
        tensors["context"] = embedding.context
    if embedding.detail is not None:
        tensors["detail"] = embedding.detail
    if embedding.picture is not None:
        tensors["picture"] = embedding.picture
    metadata = {"height": str(embedding.size[0]), "width": str(embedding.size[1]), "layout": LAYOUT}
    data = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, metadata)
    files.write(path, data)


def read(path: Path) -> Embedding:
    """Read an embedding.

    Raises FileNotFoundError, or SafetensorError, KeyError or ValueError if it is damaged or of an earlier layout.
    """
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        if metadata.get("layout") != LAYOUT:
            raise ValueError(f"{path} has layout {metadata.get('layout')}, not {LAYOUT}; embed it anew")
        features, thumbnail = file.get_tensor("features"), file.get_tensor("thumbnail")
        there = set(file.keys())
        context, detail, picture = (
            file.get_tensor(name) if name in there else None for name in ("context", "detail", "picture")
        )
        size = int(metadata["height"]), int(metadata["width"])
    return Embedding(features, size, thumbnail, context, detail, picture)

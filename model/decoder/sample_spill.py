"""What a training reads, on disk where it would be too much for the memory."""

import logging
import mmap
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from skylight.model.decoder.samples import Sample

ALIGNED = 64  # bytes

log = logging.getLogger(__name__)


class Shelf:
    """Keeps the arrays of the first samples in memory, those of further ones mapped from a file without a name.

    The file, of 2 MB a sample of 512 px, is gone once the shelf is closed and its last array is not used any more. What
    is on it must not be written to.
    """

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        """`folder`, which is made, is on a disk of this machine; `memory_bytes` are kept without it."""
        self.folder = folder
        self.memory_bytes = memory_bytes
        self._held = 0
        self._file: IO[bytes] | None = None
        self._maps: list[mmap.mmap] = []

    def put(self, sample: Sample) -> Sample:
        """The same sample, with its arrays where they are to be."""
        embedding = sample.embedding
        arrays: dict[str, NDArray[Any] | None] = {
            "features": embedding.features,
            "thumbnail": embedding.thumbnail,
            "picture": embedding.picture,
            "context": embedding.context,
            "detail": embedding.detail,
            "label_map": sample.label_map,
            "instances": sample.instances,
        }
        there = {name: array for name, array in arrays.items() if array is not None}
        size = sum(array.nbytes for array in there.values())
        if self._held + size <= self.memory_bytes:
            self._held += size
            return sample
        try:
            kept: dict[str, Any] = self._written(there)
        except OSError as error:
            log.warning("samples stay in memory, as there is no room for them in %s: %s", self.folder, error)
            return sample
        drawn = {name: kept.pop(name) for name in ("label_map", "instances") if name in kept}
        return replace(sample, embedding=replace(embedding, **kept), **drawn)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def forget(self) -> None:
        """Give back the memory of what was read of the file; it is read again when it is asked for."""
        for each in self._maps:
            each.madvise(mmap.MADV_DONTNEED)

    def _written(self, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 (closed by `__exit__`)
        begin = self._file.seek(0, 2)
        begin += self._file.write(bytes(-begin % mmap.ALLOCATIONGRANULARITY))
        places: dict[str, int] = {}
        at = 0
        for name, array in arrays.items():
            places[name] = at
            at += self._file.write(np.ascontiguousarray(array).data)
            at += self._file.write(bytes(-at % ALIGNED))
        self._file.flush()
        # Copied on writing, so that torch takes it for an array like any other.
        mapped = mmap.mmap(self._file.fileno(), at, access=mmap.ACCESS_COPY, offset=begin)
        self._maps.append(mapped)
        return {
            name: np.frombuffer(mapped, array.dtype, array.size, places[name]).reshape(array.shape)
            for name, array in arrays.items()
        }

"""Training samples that are spilled to disk where they would not fit into memory."""

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


class SampleSpill:
    """Keeps the arrays of the first samples in memory, those of further ones in a memory-mapped temporary file.

    The file, of 2 MB a sample of 512 px, is deleted once this is closed and its last array is not used any more. The
    arrays must not be written to.
    """

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        """`folder`, which is created, is on a disk of this machine; `memory_bytes` of arrays stay in memory."""
        self.folder = folder
        self.memory_bytes = memory_bytes
        self._held = 0
        self._file: IO[bytes] | None = None
        self._maps: list[mmap.mmap] = []

    def put(self, sample: Sample) -> Sample:
        """The same sample, its arrays in memory or spilled."""
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
        given = {name: array for name, array in arrays.items() if array is not None}
        size = sum(array.nbytes for array in given.values())
        if self._held + size <= self.memory_bytes:
            self._held += size
            return sample
        try:
            spilled: dict[str, Any] = self._write(given)
        except OSError as error:
            log.warning("samples stay in memory, as %s has no room for them: %s", self.folder, error)
            return sample
        annotation = {name: spilled.pop(name) for name in ("label_map", "instances") if name in spilled}
        return replace(sample, embedding=replace(embedding, **spilled), **annotation)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def release_memory(self) -> None:
        """Free the memory of what was read of the file; it is read again when it is used."""
        for mapped in self._maps:
            mapped.madvise(mmap.MADV_DONTNEED)

    def _write(self, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The same arrays, in the file."""
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 (closed by `__exit__`)
        begin = self._file.seek(0, 2)
        begin += self._file.write(bytes(-begin % mmap.ALLOCATIONGRANULARITY))
        offsets: dict[str, int] = {}
        at = 0
        for name, array in arrays.items():
            offsets[name] = at
            at += self._file.write(np.ascontiguousarray(array).data)
            at += self._file.write(bytes(-at % ALIGNED))
        self._file.flush()
        # Copy-on-write, since torch warns of arrays that are not writable.
        mapped = mmap.mmap(self._file.fileno(), at, access=mmap.ACCESS_COPY, offset=begin)
        self._maps.append(mapped)
        return {
            name: np.frombuffer(mapped, array.dtype, array.size, offsets[name]).reshape(array.shape)
            for name, array in arrays.items()
        }

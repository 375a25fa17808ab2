"""A two-dimensional array on disk, for images larger than memory."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from skylight.model.images.raster import Window


class DiskArray:
    """An array (H, W) in a temporary file, written by rows and read by windows; closing deletes it."""

    def __init__(self, size: tuple[int, int], dtype: DTypeLike, folder: Path | None = None) -> None:
        self.size = size
        self.dtype = np.dtype(dtype)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by `close`)
        self._file.truncate(max(size[0] * size[1], 1) * self.dtype.itemsize)

    def put(self, top: int, rows: NDArray[Any]) -> None:
        """Write whole rows (h, W) from row `top` on."""
        self._file.seek(top * self.size[1] * self.dtype.itemsize)
        self._file.write(np.ascontiguousarray(rows, self.dtype).data)
        self._file.flush()  # `read` maps the file

    def read(self, window: Window) -> NDArray[Any]:
        """A window (h, w), which may reach beyond the array: there it is 0."""
        row, column, height, width = window
        out = np.zeros((height, width), self.dtype)
        top, bottom = max(row, 0), min(row + height, self.size[0])
        left, right = max(column, 0), min(column + width, self.size[1])
        if top < bottom and left < right:
            # Mapped for this one read: pages that stay mapped count as the process's memory.
            whole = np.memmap(self._file, self.dtype, "r", shape=self.size)
            out[top - row : bottom - row, left - column : right - column] = whole[top:bottom, left:right]
        return out

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

"""Images of any size, read by windows: the interface, and images whose pixels are in memory or in a NumPy file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skylight.model.images.decoding import to_rgb
from skylight.model.images.normalization import (
    PER_IMAGE,
    Normalization,
    Range,
    known,
    percentile_range,
    quantiles,
    stretch,
)

RGB = 3  # channels

Window = tuple[int, int, int, int]  # row, column, height, width in px


@dataclass(frozen=True)
class Georeference:
    """Where a raster lies: its coordinate reference system as WKT, None if the file names none (a world file does not),
    and the transform to x, y there from column, row: a, b, c, d, e, f as in x = a column + b row + c, y = d column +
    e row + f, with column 0, row 0 at the outer corner of the first pixel.
    """

    crs: str | None
    transform: tuple[float, float, float, float, float, float]


class Raster(Protocol):
    """An image read by windows."""

    size: tuple[int, int]  # H, W px
    georeference: Georeference | None
    fixed_levels: bool  # 8 bits, bands as they come: every normalization shows the same
    quantiles: NDArray[np.float64] | None  # as `normalization.quantiles`, where it is stretched by its own range

    def read(self, window: Window) -> NDArray[np.uint8]:
        """A window's pixels, (h, w, 3) uint8 RGB; 0 where nothing is known."""

    def known(self, window: Window) -> NDArray[np.bool_] | None:
        """Where a window's pixels are known, (h, w) bool; None: everywhere."""

    def thumbnail(self, side: int, window: Window | None = None) -> NDArray[np.uint8]:
        """The image, or a part of it, with a longer side of at most `side` px, (h, w, 3) uint8 RGB."""

    def close(self) -> None:
        """Close the file."""


class MemoryRaster:
    """An image in memory."""

    def __init__(
        self,
        pixels: NDArray[Any],
        normalization: Normalization = PER_IMAGE,
        known_pixels: NDArray[np.bool_] | None = None,
    ) -> None:
        """`pixels` (H, W, 3) uint8 RGB, or of more bits as `decode_raw` gives them; `known_pixels` (H, W) bool: None
        where their numbers say which are known, or all of them are.
        """
        self.pixels = pixels
        self._known = known_pixels
        self.size = pixels.shape[0], pixels.shape[1]
        self.georeference: Georeference | None = None
        self.fixed_levels = pixels.dtype == np.uint8
        self.quantiles: NDArray[np.float64] | None = None
        self._range: Range | None = None if self.fixed_levels else normalization.range or percentile_range(pixels)
        if not self.fixed_levels and normalization.range is None:
            self.quantiles = quantiles(pixels)

    def read(self, window: Window) -> NDArray[np.uint8]:
        """As `Raster.read`."""
        row, column, height, width = window
        return self._to_rgb(self.pixels[row : row + height, column : column + width])

    def known(self, window: Window) -> NDArray[np.bool_] | None:
        """As `Raster.known`."""
        row, column, height, width = window
        part = np.s_[row : row + height, column : column + width]
        if self._known is not None:
            mask = self._known[part]
        elif self.pixels.dtype.kind == "f":
            mask = known(self.pixels[part])
        else:
            return None
        return None if mask.all() else mask

    def thumbnail(self, side: int, window: Window | None = None) -> NDArray[np.uint8]:
        """As `Raster.thumbnail`."""
        row, column, height, width = window or (0, 0, *self.size)
        step = max(max(height, width) // (2 * side), 1)  # skipping pixels first: resampling a large image takes seconds
        image = Image.fromarray(self._to_rgb(self.pixels[row : row + height : step, column : column + width : step]))
        image.thumbnail((side, side))
        return np.asarray(image)

    def close(self) -> None:
        """As `Raster.close`."""

    def _to_rgb(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(pixels if self._range is None else to_rgb(stretch(pixels, *self._range)))


class NumpyRaster(MemoryRaster):
    """An image in a NumPy file, of which only the window that is read comes into memory."""

    def __init__(self, path: Path, normalization: Normalization = PER_IMAGE) -> None:
        """Raises FileNotFoundError."""
        super().__init__(np.load(path, mmap_mode="r"), normalization)

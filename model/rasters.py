"""Pictures of any size, read by windows: rasters by rasterio where that is installed, all others by Pillow, whole.

rasterio (the extra `geo`) reads GeoTIFF, BigTIFF, COG and JPEG 2000 by windows and knows where they lie; tifffile would
read TIFF alone, without windows of most of them, and no coordinate reference system.
"""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.images import MAX_PIXELS, NO_DATA, STRETCH_PERCENT, ImageError, decode

SUFFIXES = (".tif", ".tiff", ".jp2", ".j2k", ".vrt", ".img", ".cub", ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
WINDOWED = (".tif", ".tiff", ".jp2", ".j2k", ".vrt", ".img", ".cub")  # what rasterio is asked to read
SAMPLED = 2048  # px along the longer side of the reduced picture that percentiles are taken from
RGB = 3

Window = tuple[int, int, int, int]  # row, column, height, width in px


@dataclass(frozen=True)
class Place:
    """Where a raster lies: its coordinate reference system as WKT, and x, y there of column, row: a, b, c, d, e, f as
    in x = a column + b row + c, y = d column + e row + f, with column 0, row 0 at the outer corner of the first pixel.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]


class Raster(Protocol):
    """A picture read by windows."""

    size: tuple[int, int]  # H, W px
    place: Place | None

    def read(self, window: Window) -> NDArray[np.uint8]:
        """A window's pixels, (h, w, 3) uint8 RGB; 0 where nothing is known."""

    def known(self, window: Window) -> NDArray[np.bool_] | None:
        """Where a window's pixels are known, (h, w) bool; None: everywhere."""

    def small(self, side: int) -> NDArray[np.uint8]:
        """The picture with a longer side of at most `side` px, (h, w, 3) uint8 RGB."""

    def close(self) -> None:
        """Let go of the file."""


class Whole:
    """A picture that is in memory."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        """`pixels` (H, W, 3) uint8 RGB."""
        self.pixels = pixels
        self.size = pixels.shape[0], pixels.shape[1]
        self.place: Place | None = None

    def read(self, window: Window) -> NDArray[np.uint8]:
        """As `Raster.read`."""
        row, column, height, width = window
        return np.ascontiguousarray(self.pixels[row : row + height, column : column + width])

    def known(self, window: Window) -> NDArray[np.bool_] | None:
        """As `Raster.known`."""
        return None

    def small(self, side: int) -> NDArray[np.uint8]:
        """As `Raster.small`."""
        step = max(max(self.size) // (4 * side), 1)  # first by leaving out: it would take seconds of a large one
        picture = Image.fromarray(np.ascontiguousarray(self.pixels[::step, ::step]))
        picture.thumbnail((side, side))
        return np.asarray(picture)

    def close(self) -> None:
        """As `Raster.close`."""


class Windowed:
    """A raster on disk, of which never more than a window is in memory.

    The bands are RGB, or one is taken for all three. Those of 8 bits are taken as they are, others are stretched from
    the 1st to the 99th percentile of the whole raster, together, so that a tile looks alike whatever is in it.
    """

    def __init__(self, path: Path, bands: Sequence[int] = ()) -> None:
        """`bands`: numbers from 1 on of those shown as red, green, blue, or of one; the first three or one if empty.

        Raises ImageError if the file cannot be read, or has no such bands.
        """
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError

        self.path = path
        try:
            with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
                self._file: Any = rasterio.open(path)
        except RasterioError as error:
            raise ImageError(f"{path} is not a raster that can be read: {error}") from error
        count = int(self._file.count)
        self.bands = tuple(bands) or ((1, 2, 3) if count >= RGB else (1,))
        if len(self.bands) not in (1, RGB) or not all(1 <= band <= count for band in self.bands):
            raise ImageError(f"{path} has {count} bands; {self.bands} are not one or three of them")
        self.size = int(self._file.height), int(self._file.width)
        crs, transform = self._file.crs, tuple(float(each) for each in self._file.transform)[:6]
        self.place = Place(crs.to_wkt(), transform) if crs else None  # type: ignore[arg-type]
        self._levels = None if self._file.dtypes[0] == "uint8" else self._percentiles()

    def read(self, window: Window) -> NDArray[np.uint8]:
        """As `Raster.read`."""
        return self._shown(self._values(window))

    def known(self, window: Window) -> NDArray[np.bool_] | None:
        """As `Raster.known`."""
        from rasterio.windows import Window as Part

        row, column, height, width = window
        mask = self._file.dataset_mask(window=Part(column, row, width, height)) > 0
        return None if mask.all() else mask

    def small(self, side: int) -> NDArray[np.uint8]:
        """As `Raster.small`."""
        share = min(side / max(self.size), 1.0)
        shape = max(round(self.size[0] * share), 1), max(round(self.size[1] * share), 1)
        return self._shown(self._read(out_shape=(len(self.bands), *shape)))

    def close(self) -> None:
        """As `Raster.close`."""
        self._file.close()

    def _values(self, window: Window) -> Any:
        from rasterio.windows import Window as Part

        row, column, height, width = window
        return self._read(window=Part(column, row, width, height))

    def _read(self, **how: Any) -> Any:
        """Bands (N, h, w), masked where nothing is known."""
        from rasterio.errors import RasterioError

        try:
            values = self._file.read(list(self.bands), masked=True, **how)
        except RasterioError as error:
            raise ImageError(f"{self.path} is damaged: {error}") from error
        if values.dtype.kind != "f":
            return values
        missing = ~np.isfinite(values.data) | (np.abs(values.data) >= NO_DATA)
        values.mask = values.mask | missing
        return values

    def _percentiles(self) -> tuple[float, float]:
        share = min(SAMPLED / max(self.size), 1.0)
        shape = max(round(self.size[0] * share), 1), max(round(self.size[1] * share), 1)
        values = self._read(out_shape=(len(self.bands), *shape)).compressed()
        if not values.size:
            return 0.0, 1.0
        low, high = np.percentile(values, STRETCH_PERCENT)
        if low == high:  # almost all of it is one value: keep what stands out
            low, high = values.min(), values.max()
        return float(low), float(high)

    def _shown(self, values: Any) -> NDArray[np.uint8]:
        if self._levels is None:
            levels = values.filled(0)
        else:
            low, high = self._levels
            scaled = (values.filled(0).astype(np.float32) - low) * (255 / max(high - low, 1e-30))
            levels = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
            levels[np.broadcast_to(values.mask, levels.shape)] = 0
        if len(levels) == 1:
            levels = np.repeat(levels, RGB, 0)
        return np.ascontiguousarray(np.moveaxis(levels, 0, 2))


def has_rasterio() -> bool:
    """Whether the extra `geo` is installed."""
    with suppress(ImportError):
        import rasterio  # noqa: F401

        return True
    return False


def open_raster(path: Path, max_pixels: int = MAX_PIXELS, bands: Sequence[int] = ()) -> Raster:
    """A picture's file, by windows where that is possible; `max_pixels` holds for all others.

    Raises ImageError if it cannot be read.
    """
    if path.suffix.lower() in WINDOWED and has_rasterio():
        return Windowed(path, bands)
    if bands:
        raise ImageError(f"of {path} no bands can be chosen: only of rasters ({', '.join(WINDOWED)}), by the extra geo")
    try:
        return Whole(decode(path.read_bytes(), max_pixels))
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error

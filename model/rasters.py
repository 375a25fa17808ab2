"""Pictures of any size, read by windows: rasters by rasterio where that is installed, all others by Pillow, whole.

rasterio (the extra `geo`) reads GeoTIFF, BigTIFF, COG and JPEG 2000 by windows and knows where they lie; tifffile would
read TIFF alone, without windows of most of them, and no coordinate reference system.
"""

import io
import os
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.images import FORMATS, MAX_PIXELS, NO_DATA, ORIENTATION, READ_ERRORS, STRETCH_PERCENT, ImageError, decode

SUFFIXES = (".tif", ".tiff", ".jp2", ".j2k", ".vrt", ".img", ".cub", ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
WINDOWED = (".tif", ".tiff", ".jp2", ".j2k", ".vrt", ".img", ".cub")  # what rasterio is asked to read
SAMPLED = 2048  # px along the longer side of the reduced picture that percentiles are taken from
RGB = 3
GDAL_CACHE = "128"  # MB of blocks that GDAL keeps; by itself it takes a twentieth of the machine's memory, per process
UNPACKED_ROWS = 256  # at a time

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

    def small(self, side: int, window: Window | None = None) -> NDArray[np.uint8]:
        """The picture, or a part of it, with a longer side of at most `side` px, (h, w, 3) uint8 RGB."""

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

    def small(self, side: int, window: Window | None = None) -> NDArray[np.uint8]:
        """As `Raster.small`."""
        row, column, height, width = window or (0, 0, *self.size)
        step = max(max(height, width) // (2 * side), 1)  # first by leaving out: it would take seconds of a large one
        picture = Image.fromarray(
            np.ascontiguousarray(self.pixels[row : row + height : step, column : column + width : step])
        )
        picture.thumbnail((side, side))
        return np.asarray(picture)

    def close(self) -> None:
        """As `Raster.close`."""


class Windowed:
    """A raster on disk, of which never more than a window is in memory.

    The bands are RGB, or one is taken for all three. Those of 8 bits are taken as they are, others are stretched from
    the 1st to the 99th percentile of the whole raster, together, so that a tile looks alike whatever is in it.
    """

    def __init__(self, path: Path | str, bands: Sequence[int] = ()) -> None:
        """`bands`: numbers from 1 on of those shown as red, green, blue, or of one; the first three or one if empty.

        Raises ImageError if the file cannot be read, or has no such bands.
        """
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError

        os.environ.setdefault("GDAL_CACHEMAX", GDAL_CACHE)  # GDAL looks there at its first read
        self.path = path
        self._lock = threading.Lock()
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
        with self._lock:
            mask = self._file.dataset_mask(window=Part(column, row, width, height)) > 0
        return None if mask.all() else mask

    def small(self, side: int, window: Window | None = None) -> NDArray[np.uint8]:
        """As `Raster.small`."""
        row, column, height, width = window or (0, 0, *self.size)
        share = min(side / max(height, width), 1.0)
        shape = max(round(height * share), 1), max(round(width * share), 1)
        return self._shown(self._values((row, column, height, width), out_shape=(len(self.bands), *shape)))

    def close(self) -> None:
        """As `Raster.close`."""
        self._file.close()

    def _values(self, window: Window, **how: Any) -> Any:
        from rasterio.windows import Window as Part

        row, column, height, width = window
        return self._read(window=Part(column, row, width, height), **how)

    def _read(self, **how: Any) -> Any:
        """Bands (N, h, w), masked where nothing is known."""
        from rasterio.errors import RasterioError

        try:
            with self._lock:  # GDAL's files are not for several threads at once
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


class Stored(Whole):
    """A picture's pixels in a file of NumPy's, of which a window is in memory at a time."""

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError."""
        super().__init__(np.load(path, mmap_mode="r"))


def has_rasterio() -> bool:
    """Whether the extra `geo` is installed."""
    with suppress(ImportError):
        import rasterio  # noqa: F401

        return True
    return False


def header(data: bytes) -> tuple[int, int]:
    """Height and width of a picture by its file's header, 0, 0 of a file that has none we know."""
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return picture.height, picture.width
    except READ_ERRORS:
        return 0, 0


def unpack(data: bytes, path: Path, max_pixels: int) -> None:
    """Write a PNG's or JPEG's pixels, (H, W, 3) uint8 RGB, as a file that `Stored` reads, whole or not at all.

    With rasterio some rows at a time; otherwise, and of a picture that EXIF turns, all of it at once, which takes four
    to eight bytes a pixel. Raises ImageError as `model.images.decode`.
    """
    part = path.with_name(f".{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if has_rasterio() and not _turned(data):
            _unpack_by_rows(data, part)
        else:
            with part.open("wb") as file:
                np.save(file, decode(data, max_pixels))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _turned(data: bytes) -> bool:
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        return picture.getexif().get(ORIENTATION, 1) != 1 or picture.mode not in ("L", "RGB", "RGBA", "LA")


def _unpack_by_rows(data: bytes, path: Path) -> None:
    from rasterio.io import MemoryFile

    with MemoryFile(data) as memory:
        raster = Windowed(memory.name)
        try:
            height, width = raster.size
            out = np.lib.format.open_memmap(path, "w+", np.uint8, (height, width, RGB))  # type: ignore[no-untyped-call]
            for top in range(0, height, UNPACKED_ROWS):
                rows = min(UNPACKED_ROWS, height - top)
                out[top : top + rows] = raster.read((top, 0, rows, width))
                out.flush()
        finally:
            raster.close()


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

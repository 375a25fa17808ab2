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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.images import (
    FORMATS,
    MAX_PIXELS,
    ORIENTATION,
    READ_ERRORS,
    ImageError,
    check_size,
    in_colour,
    is_deep_png,
    numbers,
)
from model.normalisation import OWN, Normalisation, Range, known, own_range, quantiles, stretch

SUFFIXES = (".tif", ".tiff", ".jp2", ".j2k", ".vrt", ".img", ".cub", ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
WINDOWED = (".tif", ".tiff", ".jp2", ".j2k", ".vrt", ".img", ".cub")  # what rasterio is asked to read
# GDAL's readers of files that look at nothing else. By itself it goes by the content, and a VRT's, whatever the file is
# called, may name any other file, or an address.
ALONE = {
    ".tif": "GTiff",
    ".tiff": "GTiff",
    ".jp2": "JP2OpenJPEG",
    ".j2k": "JP2OpenJPEG",
    ".img": "HFA",
    ".cub": "ISIS3",
}
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
SAMPLED = 2048  # px along the longer side of the reduced picture that percentiles are taken from
RGB = 3
GDAL_CACHE = "128"  # MB of blocks that GDAL keeps; by itself it takes a twentieth of the machine's memory, per process
ROWS = ("L", "RGB", "RGBA", "LA")  # Pillow's modes of pictures that GDAL reads alike
UNPACKED_ROWS = 256  # at a time

Window = tuple[int, int, int, int]  # row, column, height, width in px


@dataclass(frozen=True)
class Place:
    """Where a raster lies: its coordinate reference system as WKT, None if the file names none (a world file does not),
    and x, y there of column, row: a, b, c, d, e, f as in x = a column + b row + c, y = d column + e row + f, with
    column 0, row 0 at the outer corner of the first pixel.
    """

    crs: str | None
    transform: tuple[float, float, float, float, float, float]


class Raster(Protocol):
    """A picture read by windows."""

    size: tuple[int, int]  # H, W px
    place: Place | None
    plain: bool  # of 8 bits, its bands as they come: seen alike by every normalisation
    quantiles: NDArray[np.float64] | None  # as `normalisation.quantiles`, where it is stretched by its own range

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

    def __init__(self, pixels: NDArray[Any], how: Normalisation = OWN) -> None:
        """`pixels` (H, W, 3) uint8 RGB, or as `model.images.numbers` gives more bits."""
        self.pixels = pixels
        self.size = pixels.shape[0], pixels.shape[1]
        self.place: Place | None = None
        self.plain = pixels.dtype == np.uint8
        self.quantiles: NDArray[np.float64] | None = None
        self._range: Range | None = None if self.plain else how.range or own_range(pixels)
        if not self.plain and how.range is None:
            self.quantiles = quantiles(pixels)

    def read(self, window: Window) -> NDArray[np.uint8]:
        """As `Raster.read`."""
        row, column, height, width = window
        return self._shown(self.pixels[row : row + height, column : column + width])

    def known(self, window: Window) -> NDArray[np.bool_] | None:
        """As `Raster.known`."""
        row, column, height, width = window
        if self.pixels.dtype.kind != "f":
            return None
        there = known(self.pixels[row : row + height, column : column + width])
        return None if there.all() else there

    def small(self, side: int, window: Window | None = None) -> NDArray[np.uint8]:
        """As `Raster.small`."""
        row, column, height, width = window or (0, 0, *self.size)
        step = max(max(height, width) // (2 * side), 1)  # first by leaving out: it would take seconds of a large one
        picture = Image.fromarray(self._shown(self.pixels[row : row + height : step, column : column + width : step]))
        picture.thumbnail((side, side))
        return np.asarray(picture)

    def close(self) -> None:
        """As `Raster.close`."""

    def _shown(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        return np.ascontiguousarray(pixels if self._range is None else in_colour(stretch(pixels, *self._range)))


class Windowed:
    """A raster on disk, of which never more than a window is in memory.

    Where the normalisation has no range, it is that of the whole raster, so that a tile looks alike whatever is in it.
    """

    def __init__(self, path: Path | str, how: Normalisation = OWN, driver: str | None = None) -> None:
        """`driver`: the only one of GDAL's that is tried, else all.

        Raises ImageError if the file cannot be read, or has no such bands, or none of real numbers.
        """
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError

        os.environ.setdefault("GDAL_CACHEMAX", GDAL_CACHE)  # GDAL looks there at its first read
        self.path = "the picture" if str(path).startswith("/vsimem/") else path
        self._lock = threading.Lock()
        try:
            with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
                self._file: Any = rasterio.open(path, driver=driver)
        except RasterioError as error:
            raise ImageError(f"{self.path} is not a raster that can be read: {error}") from error
        count = int(self._file.count)
        usual = (1, 2, 3) if count >= RGB else (1,)
        self.bands = how.bands or usual
        if len(self.bands) not in (1, RGB) or not all(1 <= band <= count for band in self.bands):
            raise ImageError(f"{self.path} has {count} bands; {self.bands} are not one or three of them")
        kinds = {str(self._file.dtypes[band - 1]) for band in self.bands}
        if any(kind.startswith("complex") for kind in kinds):
            raise ImageError(f"{self.path} holds {', '.join(kinds)} numbers; save their magnitude instead")
        self.size = int(self._file.height), int(self._file.width)
        crs, transform = self._file.crs, tuple(float(each) for each in self._file.transform)[:6]
        lies = crs or not self._file.transform.is_identity
        self.place = Place(crs.to_wkt() if crs else None, transform) if lies else None  # type: ignore[arg-type]
        self._floats = any(kind.startswith("float") for kind in kinds)
        self.plain = kinds == {"uint8"} and self.bands == usual
        self.quantiles: NDArray[np.float64] | None = None
        self._range: Range | None = None
        if kinds != {"uint8"}:
            self._range = how.range or self._own()

    def read(self, window: Window) -> NDArray[np.uint8]:
        """As `Raster.read`."""
        return self._shown(self._values(window))

    def known(self, window: Window) -> NDArray[np.bool_] | None:
        """As `Raster.known`."""
        from rasterio.errors import RasterioError
        from rasterio.windows import Window as Part

        row, column, height, width = window
        try:
            with self._lock:
                mask = self._file.dataset_mask(window=Part(column, row, width, height)) > 0
        except RasterioError as error:
            raise ImageError(f"{self.path} is damaged: {error}") from error
        if self._floats:  # of what is no number the mask need not know
            mask &= ~self._values(window).mask.all(0)
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
        if values.dtype.kind == "f":
            values.mask = values.mask | ~known(values.data)
        return values

    def _own(self) -> Range:
        share = min(SAMPLED / max(self.size), 1.0)
        shape = max(round(self.size[0] * share), 1), max(round(self.size[1] * share), 1)
        values = self._read(out_shape=(len(self.bands), *shape)).compressed()
        self.quantiles = quantiles(values)
        return own_range(values)

    def _shown(self, values: Any) -> NDArray[np.uint8]:
        if self._range is None:
            levels = values.filled(0)
        else:
            levels = stretch(values.data, *self._range)
            levels[np.broadcast_to(values.mask, levels.shape)] = 0
        if len(levels) == 1:
            levels = np.repeat(levels, RGB, 0)
        return np.ascontiguousarray(np.moveaxis(levels, 0, 2))


class Stored(Whole):
    """A picture's pixels in a file of NumPy's, of which a window is in memory at a time."""

    def __init__(self, path: Path, how: Normalisation = OWN) -> None:
        """Raises FileNotFoundError."""
        super().__init__(np.load(path, mmap_mode="r"), how)


def has_rasterio() -> bool:
    """Whether the extra `geo` is installed."""
    with suppress(ImportError):
        import rasterio  # noqa: F401

        return True
    return False


def by_windows(data: bytes) -> bool:
    """Whether a file is one that rasterio reads by windows, and it is there."""
    return data.startswith((*TIFF, *JPEG_2000)) and has_rasterio()


def header(data: bytes) -> tuple[int, int]:
    """Height and width of a picture by its file's header, 0, 0 of a file that has none we know."""
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return picture.height, picture.width
    except READ_ERRORS:
        return _raster_header(data) if by_windows(data) else (0, 0)


def _raster_header(data: bytes) -> tuple[int, int]:
    """Of more bands, or other numbers, than Pillow knows."""
    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    from rasterio.io import MemoryFile

    try:
        with (
            warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
            MemoryFile(data) as memory,
            memory.open() as file,
        ):
            return int(file.height), int(file.width)
    except RasterioError:
        return 0, 0


def in_memory(data: bytes, max_pixels: int = MAX_PIXELS, how: Normalisation = OWN) -> Whole:
    """A picture by its file's content.

    Raises ImageError as `model.images.numbers`, and where bands are asked for that it does not have.
    """
    if data.startswith((*TIFF, *JPEG_2000)):
        if how.bands and not has_rasterio():
            raise ImageError("bands of a raster are read by rasterio only: pip install 'skylight[geo]'")
        if has_rasterio() and (found := _in_memory(data, max_pixels, how)) is not None:
            return found
    return Whole(numbers(data, max_pixels), how)


def _in_memory(data: bytes, max_pixels: int, how: Normalisation) -> Whole | None:
    """A raster by GDAL, which knows where nothing is known; None of one that is as well, or better, read by Pillow."""
    from rasterio.io import MemoryFile

    height, width = _raster_header(data)
    mode, turn = _seen(data)
    if not height or (turn != 1 and not how.bands):
        return None
    check_size((width, height), max_pixels)
    with MemoryFile(data) as memory:
        try:
            raster = Windowed(memory.name, how)
        except ImageError:
            if how.bands:
                raise
            return None
        try:
            if raster.plain and mode:
                return None
            made = Whole(raster.read((0, 0, *raster.size)))
            made.plain, made.quantiles = raster.plain, raster.quantiles
            return made
        finally:
            raster.close()


def unpack(data: bytes, path: Path, max_pixels: int) -> None:
    """Write a PNG's or JPEG's pixels as a file that `Stored` reads, whole or not at all.

    With rasterio some rows at a time; otherwise, and of a picture that EXIF turns or that has 16 bits, all of it at
    once, which takes four to eight bytes a pixel. Raises ImageError as `model.images.numbers`.
    """
    part = path.with_name(f".{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        mode, turn = _seen(data)
        if has_rasterio() and turn == 1 and mode in ROWS and not is_deep_png(data):
            _unpack_by_rows(data, part)
        else:
            with part.open("wb") as file:
                np.save(file, numbers(data, max_pixels))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _seen(data: bytes) -> tuple[str, int]:
    """Pillow's mode of a picture, "" of one that it does not know, and the EXIF orientation."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return picture.mode, int(picture.getexif().get(ORIENTATION, 1))
    except READ_ERRORS:
        return "", 1


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


def open_raster(
    path: Path,
    max_pixels: int = MAX_PIXELS,
    bands: Sequence[int] = (),
    how: Normalisation = OWN,
    alone: bool = False,
) -> Raster:
    """A picture's file, by windows where that is possible; `max_pixels` holds for all others.

    `bands`: of this picture, in the place of the normalisation's; `alone`: the file may be anybody's, and is to
    name no other. Raises ImageError if it cannot be read.
    """
    if path.suffix.lower() in WINDOWED and has_rasterio():
        driver = ALONE.get(path.suffix.lower()) if alone else None
        return Windowed(path, replace(how, bands=tuple(bands) or how.bands), driver)
    if bands:
        raise ImageError(f"of {path} no bands can be chosen: only of rasters ({', '.join(WINDOWED)}), by the extra geo")
    try:
        return in_memory(path.read_bytes(), max_pixels, how)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error

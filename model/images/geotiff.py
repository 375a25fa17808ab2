"""Rasters by rasterio, the extra `geo`: GeoTIFF, BigTIFF, COG and JPEG 2000, read by windows, and where they lie.

tifffile would read TIFF alone, without windows of most of them, and no coordinate reference system.
"""

import io
import os
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.model.images import tiff_tags
from skylight.model.images.decoding import ImageError
from skylight.model.images.normalization import (
    PER_IMAGE,
    Normalization,
    Range,
    known,
    percentile_range,
    quantiles,
    stretch,
)
from skylight.model.images.orientation import TURNS, shown_size
from skylight.model.images.raster import RGB, Georeference, Window

TIFF = (*tiff_tags.CLASSIC, *tiff_tags.BIG)
SAMPLED = 2048  # px along the longer side of the reduced image that percentiles are taken from
GDAL_CACHE = "128"  # MB of blocks that GDAL keeps; by itself it takes a twentieth of the machine's memory, per process


def has_rasterio() -> bool:
    """Whether the extra `geo` is installed."""
    with suppress(ImportError):
        import rasterio  # noqa: F401

        return True
    return False


class RasterioRaster:
    """A raster on disk, of which only the window that is read comes into memory.

    Where the normalization has no range, it is that of the whole raster, so that a tile looks alike whatever is in it.
    Palettes are expanded, fewer than 8 bits scaled to 0..255, negatives (MINISWHITE) inverted, and a
    TIFF is turned as its tag Orientation says.
    """

    def __init__(
        self,
        path: Path | str,
        normalization: Normalization = PER_IMAGE,
        driver: str | None = None,
        data: bytes | None = None,
        masked: bool = True,
    ) -> None:
        """Open a file.

        `driver`: the only one of GDAL's to try, None for all; `data`: the file's content, if it is in memory; `masked`:
        whether pixels that a mask or an alpha band leaves out are black and not known. Raises ImageError if the file
        cannot be read, lacks the bands, or holds complex numbers.
        """
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError

        os.environ.setdefault("GDAL_CACHEMAX", GDAL_CACHE)  # GDAL looks there at its first read
        self.path = "the picture" if data is not None else path
        self._lock = threading.Lock()
        try:
            with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
                self._file: Any = rasterio.open(path, driver=driver)
        except RasterioError as error:
            raise ImageError(f"{self.path} is not a raster that can be read: {error}") from error
        count = int(self._file.count)
        usual = (1, 2, 3) if count >= RGB else (1,)
        self.bands = normalization.bands or usual
        if len(self.bands) not in (1, RGB) or not all(1 <= band <= count for band in self.bands):
            raise ImageError(f"{self.path} has {count} bands; {self.bands} are not one or three of them")
        kinds = {str(self._file.dtypes[band - 1]) for band in self.bands}
        if any(kind.startswith("complex") for kind in kinds):
            raise ImageError(f"{self.path} holds {', '.join(kinds)} numbers; save their magnitude instead")
        self._turn = tiff_orientation(path if data is None else data) if self._file.driver in ("GTiff", "COG") else 1
        self._stored = int(self._file.height), int(self._file.width)
        self.size = shown_size(self._stored, self._turn)
        crs, (a, b, c, d, e, f) = self._file.crs, (float(value) for value in tuple(self._file.transform)[:6])
        transform = turned_transform((a, b, c, d, e, f), self._stored, self._turn)
        located = crs or not self._file.transform.is_identity
        self.georeference = Georeference(crs.to_wkt() if crs else None, transform) if located else None
        self._floats = any(kind.startswith("float") for kind in kinds)
        self._complete = not masked or (not self._floats and self._is_unmasked())
        self._table = _level_table(self._file, self.bands) if kinds <= {"uint8", "uint16"} else None
        eight_bit = kinds == {"uint8"} or self._table is not None
        self.fixed_levels = eight_bit and self.bands == usual
        self.quantiles: NDArray[np.float64] | None = None
        self._range: Range | None = None
        if not eight_bit:
            self._range = normalization.range or self._percentile_range()

    def read(self, window: Window) -> NDArray[np.uint8]:
        """As `Raster.read`."""
        return self._to_rgb(self._values(window))

    def known(self, window: Window) -> NDArray[np.bool_] | None:
        """As `Raster.known`."""
        from rasterio.errors import RasterioError

        if self._complete:
            return None
        if self._floats:  # a mask need not leave out NaN
            masks = ~_mask_of(self._values(window))
        else:
            try:
                with self._lock:
                    masks = self._file.read_masks(list(self.bands), window=self._file_window(window))
            except RasterioError as error:
                raise ImageError(f"{self.path} is damaged: {error}") from error
        known_pixels: NDArray[np.bool_] = np.any(masks, 0)
        return None if known_pixels.all() else TURNS[self._turn](known_pixels)

    def thumbnail(self, side: int, window: Window | None = None) -> NDArray[np.uint8]:
        """As `Raster.thumbnail`."""
        row, column, height, width = window or (0, 0, *self.size)
        share = min(side / max(height, width), 1.0)
        shape = max(round(height * share), 1), max(round(width * share), 1)
        out = (len(self.bands), *shown_size(shape, self._turn))
        return self._to_rgb(self._values((row, column, height, width), out_shape=out))

    def close(self) -> None:
        """As `Raster.close`."""
        self._file.close()

    def _is_unmasked(self) -> bool:
        """Whether the file says that all of its pixels are there."""
        flags = (self._file.mask_flag_enums[band - 1] for band in self.bands)
        return all([flag.name for flag in band] == ["all_valid"] for band in flags)

    def _file_window(self, window: Window) -> Any:
        """A window of the turned image as rasterio's window of the file."""
        from rasterio import windows

        row, column, height, width = stored_window(window, self._stored, self._turn)
        return windows.Window(column, row, width, height)

    def _values(self, window: Window, **options: Any) -> Any:
        """Bands (N, h, w) as they lie in the file, masked where nothing is known."""
        return self._read(window=self._file_window(window), **options)

    def _read(self, **options: Any) -> Any:
        from rasterio.errors import RasterioError

        try:
            with self._lock:  # GDAL's files are not thread-safe
                values = self._file.read(list(self.bands), masked=not self._complete, **options)
        except RasterioError as error:
            raise ImageError(f"{self.path} is damaged: {error}") from error
        if not self._complete and values.dtype.kind == "f":
            values.mask = values.mask | ~known(values.data)
        return values

    def _percentile_range(self) -> Range:
        """The range of a reduced version of the whole raster; also sets `quantiles`."""
        share = min(SAMPLED / max(self._stored), 1.0)
        shape = max(round(self._stored[0] * share), 1), max(round(self._stored[1] * share), 1)
        values = self._read(out_shape=(len(self.bands), *shape))
        self.quantiles = quantiles(values)
        return percentile_range(values)

    def _to_rgb(self, values: Any) -> NDArray[np.uint8]:
        """(h, w, 3) of the turned image, of bands (N, h, w) as they lie in the file."""
        if self._range is None:
            levels = np.asarray(values) if self._table is None else self._table[np.asarray(values)]
            if levels.ndim == 4:  # a palette's colors
                levels = np.moveaxis(levels[0], 2, 0)
            if (
                not self._complete
            ):  # of 8 bits a pixel is known if one of its bands is: the others may hold the no-data value as a level
                levels = np.where(_mask_of(values).all(0), np.uint8(0), levels)
        else:
            levels = stretch(np.asarray(values), *self._range)
            levels[_mask_of(values)] = 0
        if len(levels) == 1:
            levels = np.repeat(levels, RGB, 0)
        return np.ascontiguousarray(TURNS[self._turn](np.moveaxis(levels, 0, 2)))


def _mask_of(values: Any) -> NDArray[np.bool_]:
    """The mask of a masked array, of its shape; all False of any other."""
    mask: NDArray[np.bool_] = np.ma.getmaskarray(values)  # type: ignore[no-untyped-call]
    return mask


def _level_table(file: Any, bands: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The level of each number: (N,) uint8, or (N, 3) RGB of a palette; None where numbers are levels."""
    from rasterio.enums import ColorInterp

    first, kind = bands[0], str(file.dtypes[bands[0] - 1])
    if len(bands) == 1 and file.colorinterp[first - 1] == ColorInterp.palette:
        palette = np.zeros((2**16 if kind == "uint16" else 2**8, RGB), np.uint8)
        for index, color in file.colormap(first).items():
            palette[index] = color[:RGB]
        return palette
    if kind != "uint8":
        return None
    highest = 2 ** int(file.tags(first, ns="IMAGE_STRUCTURE").get("NBITS", 8)) - 1
    levels = np.rint(np.minimum(np.arange(256), highest) * (255 / highest)).astype(np.uint8)
    negative = file.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
    return 255 - levels if negative else None if highest == 255 else levels


def tiff_orientation(file: Path | str | bytes) -> int:
    """The orientation of a TIFF, 1 to 8, by its content or path; 1 of a path that names no file."""
    try:
        with io.BytesIO(file) if isinstance(file, bytes) else Path(file).open("rb") as opened_file:
            return tiff_tags.read_orientation(opened_file)
    except OSError:
        return 1


def stored_window(window: Window, size: tuple[int, int], turn: int) -> Window:
    """The window in the file, of `size` (H, W), of a window of the image as orientation `turn` shows it."""
    row, column, height, width = window
    if turn >= 5:
        row, column, height, width = column, row, width, height
    if turn in (3, 4, 6, 7):
        row = size[0] - row - height
    if turn in (2, 3, 7, 8):
        column = size[1] - column - width
    return row, column, height, width


def turned_transform(
    transform: tuple[float, float, float, float, float, float], size: tuple[int, int], turn: int
) -> tuple[float, float, float, float, float, float]:
    """`Georeference.transform` of the image as orientation `turn` shows it, from that of its file, of `size` (H, W)."""
    a, b, c, d, e, f = transform
    if turn in (3, 4, 6, 7):
        b, c, e, f = -b, c + b * size[0], -e, f + e * size[0]
    if turn in (2, 3, 7, 8):
        a, c, d, f = -a, c + a * size[1], -d, f + d * size[1]
    return (b, a, c, e, d, f) if turn >= 5 else (a, b, c, d, e, f)


def rasterio_size(data: bytes) -> tuple[int, int]:
    """Height and width as shown, by GDAL, which reads more kinds of bands than Pillow; 0, 0 if it cannot."""
    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    from rasterio.io import MemoryFile

    try:
        with (
            warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
            MemoryFile(data) as memory,
            memory.open() as file,
        ):
            turn = tiff_orientation(data) if data.startswith(TIFF) else 1
            return shown_size((int(file.height), int(file.width)), turn)
    except RasterioError:
        return 0, 0

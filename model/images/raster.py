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

from skylight.model.images import tiff_tags
from skylight.model.images.color import WEBP, conversion
from skylight.model.images.decoding import (
    MAX_PIXELS,
    READ_ERRORS,
    ImageError,
    check_size,
    in_colour,
    is_deep_png,
    numbers,
    opened,
)
from skylight.model.images.normalization import OWN, Normalisation, Range, known, own_range, quantiles, stretch
from skylight.model.images.orientation import AVIF, JPEG, PNG, TURNS, orientation, shown_size
from skylight.model.storage import atomic_write

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
TIFF = (*tiff_tags.CLASSIC, *tiff_tags.BIG)
JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
FOR_BROWSERS = (JPEG, PNG, WEBP, b"GIF8", b"BM")
SAMPLED = 2048  # px along the longer side of the reduced picture that percentiles are taken from
RGB = 3
GDAL_CACHE = "128"  # MB of blocks that GDAL keeps; by itself it takes a twentieth of the machine's memory, per process
ROWS = ("L", "RGB", "RGBA", "LA")  # Pillow's modes of pictures that GDAL reads alike
END_OF_PNG = b"IEND\xaeB`\x82"
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

    def __init__(self, pixels: NDArray[Any], how: Normalisation = OWN, there: NDArray[np.bool_] | None = None) -> None:
        """`pixels` (H, W, 3) uint8 RGB, or as `skylight.model.images.decoding.numbers` gives more bits; `there` (H,
        W): which are known,
        None for all of them, or as their numbers say.
        """
        self.pixels = pixels
        self._there = there
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
        part = np.s_[row : row + height, column : column + width]
        if self._there is not None:
            there = self._there[part]
        elif self.pixels.dtype.kind == "f":
            there = known(self.pixels[part])
        else:
            return None
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
    Palettes are expanded, fewer than 8 bits scaled to 0..255, what is stored as a negative is shown as it is meant, and
    a TIFF is turned as its tag Orientation says.
    """

    def __init__(
        self,
        path: Path | str,
        how: Normalisation = OWN,
        driver: str | None = None,
        data: bytes | None = None,
        masked: bool = True,
    ) -> None:
        """`driver`: the only one of GDAL's that is tried, else all; `data`: the file's content, if it is in memory;
        `masked`: whether what a mask or an alpha band leaves out is black and not known.

        Raises ImageError if the file cannot be read, or has no such bands, or none of real numbers.
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
        self.bands = how.bands or usual
        if len(self.bands) not in (1, RGB) or not all(1 <= band <= count for band in self.bands):
            raise ImageError(f"{self.path} has {count} bands; {self.bands} are not one or three of them")
        kinds = {str(self._file.dtypes[band - 1]) for band in self.bands}
        if any(kind.startswith("complex") for kind in kinds):
            raise ImageError(f"{self.path} holds {', '.join(kinds)} numbers; save their magnitude instead")
        self._turn = tiff_orientation(path if data is None else data) if self._file.driver in ("GTiff", "COG") else 1
        self._stored = int(self._file.height), int(self._file.width)
        self.size = shown_size(self._stored, self._turn)
        crs, (a, b, c, d, e, f) = self._file.crs, (float(each) for each in tuple(self._file.transform)[:6])
        transform = turned_transform((a, b, c, d, e, f), self._stored, self._turn)
        lies = crs or not self._file.transform.is_identity
        self.place = Place(crs.to_wkt() if crs else None, transform) if lies else None
        self._floats = any(kind.startswith("float") for kind in kinds)
        self._complete = not masked or (not self._floats and self._unmasked())
        self._table = _levels(self._file, self.bands) if kinds <= {"uint8", "uint16"} else None
        eight = kinds == {"uint8"} or self._table is not None
        self.plain = eight and self.bands == usual
        self.quantiles: NDArray[np.float64] | None = None
        self._range: Range | None = None
        if not eight:
            self._range = how.range or self._own()

    def read(self, window: Window) -> NDArray[np.uint8]:
        """As `Raster.read`."""
        return self._shown(self._values(window))

    def known(self, window: Window) -> NDArray[np.bool_] | None:
        """As `Raster.known`."""
        from rasterio.errors import RasterioError

        if self._complete:
            return None
        if self._floats:  # of what is no number the mask need not know
            masks = ~_masked(self._values(window))
        else:
            try:
                with self._lock:
                    masks = self._file.read_masks(list(self.bands), window=self._part(window))
            except RasterioError as error:
                raise ImageError(f"{self.path} is damaged: {error}") from error
        there: NDArray[np.bool_] = np.any(masks, 0)
        return None if there.all() else TURNS[self._turn](there)

    def small(self, side: int, window: Window | None = None) -> NDArray[np.uint8]:
        """As `Raster.small`."""
        row, column, height, width = window or (0, 0, *self.size)
        share = min(side / max(height, width), 1.0)
        shape = max(round(height * share), 1), max(round(width * share), 1)
        out = (len(self.bands), *shown_size(shape, self._turn))
        return self._shown(self._values((row, column, height, width), out_shape=out))

    def close(self) -> None:
        """As `Raster.close`."""
        self._file.close()

    def _unmasked(self) -> bool:
        """Whether the file says that all of its pixels are there."""
        flags = (self._file.mask_flag_enums[band - 1] for band in self.bands)
        return all([flag.name for flag in each] == ["all_valid"] for each in flags)

    def _part(self, window: Window) -> Any:
        """A window of the turned picture where it is in the file."""
        from rasterio.windows import Window as Part

        row, column, height, width = stored_window(window, self._stored, self._turn)
        return Part(column, row, width, height)

    def _values(self, window: Window, **how: Any) -> Any:
        """Bands (N, h, w) as they lie in the file, masked where nothing is known."""
        return self._read(window=self._part(window), **how)

    def _read(self, **how: Any) -> Any:
        from rasterio.errors import RasterioError

        try:
            with self._lock:  # GDAL's files are not for several threads at once
                values = self._file.read(list(self.bands), masked=not self._complete, **how)
        except RasterioError as error:
            raise ImageError(f"{self.path} is damaged: {error}") from error
        if not self._complete and values.dtype.kind == "f":
            values.mask = values.mask | ~known(values.data)
        return values

    def _own(self) -> Range:
        share = min(SAMPLED / max(self._stored), 1.0)
        shape = max(round(self._stored[0] * share), 1), max(round(self._stored[1] * share), 1)
        values = self._read(out_shape=(len(self.bands), *shape))
        self.quantiles = quantiles(values)
        return own_range(values)

    def _shown(self, values: Any) -> NDArray[np.uint8]:
        """(h, w, 3) of the turned picture, of bands (N, h, w) as they lie in the file."""
        if self._range is None:
            levels = np.asarray(values) if self._table is None else self._table[np.asarray(values)]
            if levels.ndim == 4:  # a palette's colours
                levels = np.moveaxis(levels[0], 2, 0)
            if not self._complete:  # of 8 bits a pixel is there if one of its bands is: others hold that number, too
                levels = np.where(_masked(values).all(0), np.uint8(0), levels)
        else:
            levels = stretch(np.asarray(values), *self._range)
            levels[_masked(values)] = 0
        if len(levels) == 1:
            levels = np.repeat(levels, RGB, 0)
        return np.ascontiguousarray(TURNS[self._turn](np.moveaxis(levels, 0, 2)))


def _masked(values: Any) -> NDArray[np.bool_]:
    """Which numbers of an array are masked, of its shape."""
    mask: NDArray[np.bool_] = np.ma.getmaskarray(values)  # type: ignore[no-untyped-call]
    return mask


def _levels(file: Any, bands: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """What the numbers of bands are shown as: (N,) uint8, or (N, 3) RGB of a palette; None: as they are."""
    from rasterio.enums import ColorInterp

    first, kind = bands[0], str(file.dtypes[bands[0] - 1])
    if len(bands) == 1 and file.colorinterp[first - 1] == ColorInterp.palette:
        palette = np.zeros((2**16 if kind == "uint16" else 2**8, RGB), np.uint8)
        for index, colour in file.colormap(first).items():
            palette[index] = colour[:RGB]
        return palette
    if kind != "uint8":
        return None
    most = 2 ** int(file.tags(first, ns="IMAGE_STRUCTURE").get("NBITS", 8)) - 1
    levels = np.rint(np.minimum(np.arange(256), most) * (255 / most)).astype(np.uint8)
    negative = file.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
    return 255 - levels if negative else None if most == 255 else levels


def tiff_orientation(file: Path | str | bytes) -> int:
    """The orientation of a TIFF, 1 to 8, by its content or path; 1 of a path that names no file."""
    try:
        with io.BytesIO(file) if isinstance(file, bytes) else Path(file).open("rb") as opened_file:
            return tiff_tags.orientation(opened_file)
    except OSError:
        return 1


def stored_window(window: Window, size: tuple[int, int], turn: int) -> Window:
    """Where a window of a picture that is shown turned lies in its file, of `size` (H, W)."""
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
    """`Place.transform` of a picture that is shown turned, from that of its file, of `size` (H, W)."""
    a, b, c, d, e, f = transform
    if turn in (3, 4, 6, 7):
        b, c, e, f = -b, c + b * size[0], -e, f + e * size[0]
    if turn in (2, 3, 7, 8):
        a, c, d, f = -a, c + a * size[1], -d, f + d * size[1]
    return (b, a, c, e, d, f) if turn >= 5 else (a, b, c, d, e, f)


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
    """Height and width of a picture as it is shown, by its file's header; 0, 0 of a file that has none we know."""
    if by_windows(data) and (size := _raster_header(data)) != (0, 0):
        return size
    try:
        with opened(data) as picture:
            return shown_size((picture.height, picture.width), orientation(data, picture))
    except READ_ERRORS:
        return 0, 0


def _raster_header(data: bytes) -> tuple[int, int]:
    """As `header`, by GDAL, which knows more bands and other numbers than Pillow."""
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


def size_of(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of a picture as it is shown. Raises ImageError as `in_memory`: it is read, unless by windows."""
    if by_windows(data) and (size := _raster_header(data)) != (0, 0):
        check_size(size[::-1], max_pixels)
        return size
    found = numbers(data, max_pixels)
    return found.shape[0], found.shape[1]


def in_memory(data: bytes, max_pixels: int = MAX_PIXELS, how: Normalisation = OWN) -> Whole:
    """A picture by its file's content.

    Raises ImageError as `skylight.model.images.decoding.numbers`, and where bands are asked for that it does not have.
    """
    if data.startswith((*TIFF, *JPEG_2000)):
        if how.bands and not has_rasterio():
            raise ImageError("bands of a raster are read by rasterio only: pip install 'label-studio-skylight[geo]'")
        if has_rasterio() and (found := _in_memory(data, max_pixels, how)) is not None:
            return found
    return Whole(numbers(data, max_pixels), how)


def _in_memory(data: bytes, max_pixels: int, how: Normalisation) -> Whole | None:
    """A raster by GDAL, which knows where nothing is known; None of one that only Pillow may know."""
    from rasterio.io import MemoryFile

    height, width = _raster_header(data)
    if not height:
        return None
    check_size((width, height), max_pixels)
    with MemoryFile(data) as memory:
        try:
            raster = Windowed(memory.name, how, data=data)
        except ImageError:
            if how.bands:
                raise
            return None
        try:
            window = (0, 0, *raster.size)
            made = Whole(raster.read(window), there=raster.known(window))
        except ImageError:  # of a compression that this GDAL lacks, or damaged
            return None
        finally:
            raster.close()
        made.plain, made.quantiles, made.place = raster.plain, raster.quantiles, raster.place
        return made


def unpack(data: bytes, path: Path, max_pixels: int) -> None:
    """Write a PNG's or JPEG's pixels as a file that `Stored` reads, whole or not at all.

    With rasterio a PNG or WebP some rows at a time, unless it is turned, has 16 bits or a colour profile. All others at
    once, which takes seven to eight bytes a pixel. Raises ImageError as `skylight.model.images.decoding.numbers`.
    """
    with atomic_write.replacing(path) as part:
        if has_rasterio() and _is_plain(data):
            try:
                _unpack_by_rows(data, part)
                return
            except ImageError:  # what GDAL cannot read, Pillow may, or says why not
                pass
        with part.open("wb") as file:
            np.save(file, numbers(data, max_pixels))


def _is_plain(data: bytes) -> bool:
    """Whether GDAL's numbers of a PNG or WebP are those that are shown.

    Of a JPEG whose colours are of half the resolution they are not; of a PNG that was cut GDAL says nothing.
    """
    try:
        with opened(data) as picture:
            plain = picture.mode in ROWS and orientation(data, picture) == 1
            plain = plain and conversion(data, picture.mode, picture.info) is None
    except READ_ERRORS:
        return False
    whole = data.startswith(WEBP) or (data.startswith(PNG) and data.endswith(END_OF_PNG))
    return plain and whole and not is_deep_png(data)


def _unpack_by_rows(data: bytes, path: Path) -> None:
    from rasterio.io import MemoryFile

    with MemoryFile(data) as memory:
        raster = Windowed(memory.name, data=data, masked=False)
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
    if path.suffix.lower() in WINDOWED and has_rasterio() and not _is_for_browsers(path):
        driver = ALONE.get(path.suffix.lower()) if alone else None
        return Windowed(path, replace(how, bands=tuple(bands) or how.bands), driver)
    if bands:
        raise ImageError(f"of {path} no bands can be chosen: only of rasters ({', '.join(WINDOWED)}), by the extra geo")
    try:
        return in_memory(path.read_bytes(), max_pixels, how)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error


def _is_for_browsers(path: Path) -> bool:
    """Whether a file is a PNG, JPEG, WebP, GIF, BMP or AVIF by its content, whatever it is called."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head.startswith(FOR_BROWSERS) or head[4:8] == AVIF

"""Images opened as rasters: by windows where rasterio is installed and reads them, all others whole by Pillow."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from skylight.model.images.color import WEBP, srgb_conversion
from skylight.model.images.decoding import (
    MAX_PIXELS,
    READ_ERRORS,
    ImageError,
    check_size,
    decode_raw,
    is_deep_png,
    open_image,
)
from skylight.model.images.geotiff import TIFF, RasterioRaster, has_rasterio, rasterio_size
from skylight.model.images.normalization import PER_IMAGE, Normalization
from skylight.model.images.orientation import AVIF, JPEG, PNG, read_orientation, shown_size
from skylight.model.images.raster import RGB, MemoryRaster, Raster
from skylight.model.storage import atomic_write

WINDOWED = (".tif", ".tiff", ".jp2", ".j2k", ".vrt", ".img", ".cub")  # what rasterio is asked to read
# GDAL's drivers that read nothing but the file. By itself GDAL chooses by content, and a VRT, whatever its file is
# called, may name any other file, or an address.
SELF_CONTAINED = {
    ".tif": "GTiff",
    ".tiff": "GTiff",
    ".jp2": "JP2OpenJPEG",
    ".j2k": "JP2OpenJPEG",
    ".img": "HFA",
    ".cub": "ISIS3",
}
JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
FOR_BROWSERS = (JPEG, PNG, WEBP, b"GIF8", b"BM")
ROWS = ("L", "RGB", "RGBA", "LA")  # Pillow's modes of images that GDAL reads alike
END_OF_PNG = b"IEND\xaeB`\x82"
UNPACKED_ROWS = 256  # at a time


def reads_by_windows(data: bytes) -> bool:
    """Whether rasterio reads a file by windows, and is installed."""
    return data.startswith((*TIFF, *JPEG_2000)) and has_rasterio()


def header_size(data: bytes) -> tuple[int, int]:
    """Height and width of an image as it is shown, by its file's header; 0, 0 if that cannot be read."""
    if reads_by_windows(data) and (size := rasterio_size(data)) != (0, 0):
        return size
    try:
        with open_image(data) as image:
            return shown_size((image.height, image.width), read_orientation(data, image))
    except READ_ERRORS:
        return 0, 0


def read_size(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of an image as it is shown; decoded, unless by windows. Raises ImageError as `load_raster`."""
    if reads_by_windows(data) and (size := rasterio_size(data)) != (0, 0):
        check_size(size[::-1], max_pixels)
        return size
    pixels = decode_raw(data, max_pixels)
    return pixels.shape[0], pixels.shape[1]


def load_raster(data: bytes, max_pixels: int = MAX_PIXELS, normalization: Normalization = PER_IMAGE) -> MemoryRaster:
    """An image in memory, by its file's content.

    Raises ImageError as `decode_raw`, and if it lacks the bands of the normalization.
    """
    if data.startswith((*TIFF, *JPEG_2000)):
        if normalization.bands and not has_rasterio():
            raise ImageError("bands of a raster are read by rasterio only: pip install 'label-studio-skylight[geo]'")
        if has_rasterio() and (raster := _load_by_rasterio(data, max_pixels, normalization)) is not None:
            return raster
    return MemoryRaster(decode_raw(data, max_pixels), normalization)


def _load_by_rasterio(data: bytes, max_pixels: int, normalization: Normalization) -> MemoryRaster | None:
    """A raster by GDAL, which reads masks; None if only Pillow may read it."""
    from rasterio.io import MemoryFile

    height, width = rasterio_size(data)
    if not height:
        return None
    check_size((width, height), max_pixels)
    with MemoryFile(data) as memory:
        try:
            raster = RasterioRaster(memory.name, normalization, data=data)
        except ImageError:
            if normalization.bands:
                raise
            return None
        try:
            window = (0, 0, *raster.size)
            loaded = MemoryRaster(raster.read(window), known_pixels=raster.known(window))
        except ImageError:  # a compression that this GDAL lacks, or a damaged file
            return None
        finally:
            raster.close()
        loaded.fixed_levels, loaded.quantiles = raster.fixed_levels, raster.quantiles
        loaded.georeference = raster.georeference
        return loaded


def unpack_pixels(data: bytes, path: Path, max_pixels: int) -> None:
    """Write a PNG's or JPEG's pixels as a file that `NumpyRaster` reads, whole or not at all.

    A PNG or WebP that is not turned and has neither 16 bits nor a color profile is decoded some rows at a time, by
    rasterio; all others at once, which takes seven to eight bytes a pixel. Raises ImageError as `decode_raw`.
    """
    with atomic_write.replacing(path) as part:
        if has_rasterio() and _gdal_reads_alike(data):
            try:
                _unpack_by_rows(data, part)
                return
            except ImageError:  # what GDAL cannot read, Pillow may, or says why not
                pass
        with part.open("wb") as file:
            np.save(file, decode_raw(data, max_pixels))


def _gdal_reads_alike(data: bytes) -> bool:
    """Whether GDAL's numbers of a PNG or WebP are those that are shown.

    Of a JPEG with subsampled colors they are not; of a truncated PNG GDAL reports no error.
    """
    try:
        with open_image(data) as image:
            alike = image.mode in ROWS and read_orientation(data, image) == 1
            alike = alike and srgb_conversion(data, image.mode, image.info) is None
    except READ_ERRORS:
        return False
    whole = data.startswith(WEBP) or (data.startswith(PNG) and data.endswith(END_OF_PNG))
    return alike and whole and not is_deep_png(data)


def _unpack_by_rows(data: bytes, path: Path) -> None:
    from rasterio.io import MemoryFile

    with MemoryFile(data) as memory:
        raster = RasterioRaster(memory.name, data=data, masked=False)
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
    normalization: Normalization = PER_IMAGE,
    untrusted: bool = False,
) -> Raster:
    """Open an image's file, by windows where that is possible; `max_pixels` limits all others.

    `bands`: of this image, in the place of the normalization's; `untrusted`: the file must not lead to other files.
    Raises ImageError if it cannot be read.
    """
    if path.suffix.lower() in WINDOWED and has_rasterio() and not _is_for_browsers(path):
        driver = SELF_CONTAINED.get(path.suffix.lower()) if untrusted else None
        return RasterioRaster(path, replace(normalization, bands=tuple(bands) or normalization.bands), driver)
    if bands:
        raise ImageError(f"of {path} no bands can be chosen: only of rasters ({', '.join(WINDOWED)}), by the extra geo")
    try:
        return load_raster(path.read_bytes(), max_pixels, normalization)
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

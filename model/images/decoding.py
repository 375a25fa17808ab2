"""Image files decoded into the pixels that a browser shows."""

import hashlib
import io
import struct
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from skylight.model.images.color import COLOR_MODES, srgb_conversion
from skylight.model.images.normalization import percentile_range, stretch
from skylight.model.images.orientation import JPEG, METHODS, PNG, TURNS, read_orientation, without_orientation
from skylight.model.images.tiff_tags import (
    BITS_PER_SAMPLE,
    CLASSIC,
    HEIGHT,
    SAMPLE_FORMAT,
    SHORT,
    SIGNED,
    UNSIGNED,
    WIDTH,
    entries,
    with_orientation_1,
)

# What a browser shows, and what cameras and orbiters write. Formats that run other programs (EPS) stay out.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF")
MAX_PIXELS = 100_000_000
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
PNG_COLOR_TYPES = (2, 4, 6)  # PNG colour types with several bands: RGB, gray with alpha, RGBA
WITHIN_SCANS = (b"", b"\0", b"\xff", *(bytes([0xD0 + k]) for k in range(8)))  # what follows 0xff there
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"  # JPEG markers
MIDDLE = 128  # level of a JPEG's pixels that were not decoded
BLACK: dict[str, Any] = {"L": 0, "RGB": (0, 0, 0), "CMYK": (0, 0, 0, 255)}
MAX_SCANS = 100  # of a progressive JPEG; each passes over all pixels; programs write some ten

# Everything Pillow was seen to raise on damaged files, and what its own `open` expects of its readers.
READ_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError,
    EOFError, MemoryError, RuntimeError, struct.error,
)  # fmt: skip


class ImageError(ValueError):
    """The bytes are not a picture that can be used."""


def content_hash(data: bytes) -> str:
    """The sha256 of the file's bytes as 64 hex digits: the key of embeddings and samples."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The picture as (H, W, 3) uint8 RGB, in the size, orientation and colors the browser shows.

    16-bit, 32-bit and float single bands, and 16-bit colors together, are stretched from their 1st..99th percentile to
    0..255. Raises as `decode_raw`.
    """
    pixels = decode_raw(data, max_pixels)
    return pixels if pixels.dtype == np.uint8 else to_rgb(stretch(pixels, *percentile_range(pixels)))


def to_rgb(picture: NDArray[Any]) -> NDArray[Any]:
    """An image (H, W, 3) from (H, W), its band repeated, or (H, W, 3)."""
    return np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture


def decode_raw(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """The picture as (H, W, 3) uint8 RGB; one of more bits as it is: (H, W) of a number type, or (H, W, 3) uint16 RGB.

    In the size, orientation and colors that the browser shows (`images.orientation`, `images.color`). Alpha is dropped,
    not composited: in mosaics it marks where data is valid, and a painted background would add an edge that is not in
    the scene. Of an animation or a multi-page file the first frame is taken. The missing part of a truncated JPEG is
    black. Raises ImageError for what is not an image, is damaged or truncated, or has more than `max_pixels` pixels by
    its header; then no pixel was decoded.
    """
    _check_tiff(data)
    picture = load(data, FORMATS, max_pixels)
    deep = _decode_16_bit_colors(data)
    if deep is not None and deep.shape[:2] == picture.size[::-1]:
        return deep
    numbers = _decode_int8_or_uint32(data, picture)
    if numbers is not None:
        return numbers
    if picture.mode in DEEP_MODES:
        return np.asarray(picture)
    try:
        to_srgb = srgb_conversion(data, picture.mode, picture.info)
        if picture.mode in ("P", "PA"):
            picture = picture.convert("RGBA")  # straight to RGB, Pillow warns of a palette with transparency
        mode = COLOR_MODES.get(picture.mode, "RGB") if to_srgb else "RGB"
        picture = picture if picture.mode == mode else picture.convert(mode)
        return np.asarray(to_srgb(picture) if to_srgb else picture, np.uint8)
    except READ_ERRORS as error:
        raise ImageError(f"pixels of mode {picture.mode} cannot be made into RGB: {error}") from error


def load(data: bytes, formats: Sequence[str], max_pixels: int, size: tuple[int, int] | None = None) -> Image.Image:
    """The first frame of a file in one of Pillow's `formats`, decoded, in the orientation that the browser shows.

    Raises ImageError, before a pixel is decoded also if the header says more than `max_pixels`, or another `size`
    (H, W) where one is given.
    """
    try:
        file = open_image(data, formats)
        check_size(file.size, max_pixels)
        if size is not None and file.size != tuple(size[::-1]):
            raise ImageError(f"it has {file.size[0]} x {file.size[1]} pixels, not {size[1]} x {size[0]}")
        if data.startswith(JPEG) and data.count(START_OF_SCAN) > MAX_SCANS:
            raise ImageError(f"a JPEG of {data.count(START_OF_SCAN)} scans has more than {MAX_SCANS}; save it anew")
        turn = read_orientation(data, file)
        picture = _load_pixels(data, file)
        # Not by `ImageOps.exif_transpose`, which writes EXIF anew and fails on entries of odd types.
        return picture.transpose(METHODS[turn]) if turn in METHODS else picture
    except ImageError:
        raise
    except READ_ERRORS as error:
        what = f"{len(data)} bytes that begin with {data[:12]!r}"
        raise ImageError(f"{what} are not a whole {'/'.join(formats)} picture: {error}") from error


def open_image(data: bytes, formats: Sequence[str] = FORMATS) -> ImageFile.ImageFile:
    """A file's header as Pillow reads it; no pixel is decoded, nothing turned. Raises one of `READ_ERRORS`."""
    # Pillow's limit is process-wide and warns halfway; `check_size` is used instead.
    Image.MAX_IMAGE_PIXELS = None
    picture = Image.open(io.BytesIO(without_orientation(data)), formats=list(formats))
    picture.info.pop("xmp", None)  # Pillow takes an orientation from it, too
    return picture


def _load_pixels(data: bytes, picture: ImageFile.ImageFile) -> Image.Image:
    """An image with its pixels; the missing part of a truncated JPEG is black, as on a browser's canvas."""
    try:
        picture.load()
        return picture
    except OSError:
        if not data.startswith(JPEG):
            raise
        truncated = _load_truncated(data)
    if not picture.info.get("progressive"):
        picture.tile = []  # what has been decoded stays
        rows = _equal_rows(np.asarray(picture), np.asarray(truncated))
    elif data.count(START_OF_SCAN) < 2:
        rows = _rows_of_first_scan(np.asarray(truncated))
    else:
        return truncated
    if not rows:
        raise ImageError("the JPEG ends before its first pixels; fetch or save it anew")
    truncated.paste(BLACK[truncated.mode], (0, rows, *truncated.size))
    return truncated


def _load_truncated(data: bytes) -> Image.Image:
    """A truncated JPEG as if it ended there, or, if that is within a marker's segment, before that.

    Raises OSError if it is not merely truncated.
    """
    at = len(data)
    while at > 0 and (at == len(data) or data[at + 1 : at + 2] in WITHIN_SCANS):
        at = data.rfind(b"\xff", 0, at)
    for end in (len(data), at):
        try:
            picture = open_image(data[:end] + END_OF_IMAGE, ("JPEG",))
            picture.load()
            return picture
        except OSError:
            if end == at:
                raise
    raise OSError("it has no end")


def _equal_rows(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    """How many rows two pictures have in common, from the top."""
    same = (one == other).reshape(len(one), -1).all(1)
    return len(same) if same.all() else int(same.argmin())


def _rows_of_first_scan(pixels: NDArray[np.uint8]) -> int:
    """How many rows a progressive JPEG has that was cut in its first scan: all pixels below have the middle level."""
    decoded = (pixels != MIDDLE).reshape(len(pixels), -1).any(1)
    return int(np.flatnonzero(decoded)[-1]) + 1 if decoded.any() else 0


def is_deep_png(data: bytes) -> bool:
    """Whether a file is a PNG of 16 bits a number."""
    return data.startswith(PNG) and len(data) > 25 and data[24] == 16


def _decode_16_bit_colors(data: bytes) -> NDArray[np.uint16] | None:
    """(H, W, 3) uint16 RGB of a PNG or TIFF of 16-bit colors, turned, else None: Pillow reads 8 bits of them."""
    png = is_deep_png(data) and data[25] in PNG_COLOR_TYPES
    if not (png or data.startswith(CLASSIC)):
        return None
    try:
        with open_image(data) as picture:
            if png and struct.unpack_from(">II", data, 16) != picture.size:  # a second header, which OpenCV may believe
                return None
            turn = read_orientation(data, picture)
            if not png and set(picture.tag_v2.get(BITS_PER_SAMPLE, ())) != {16}:  # type: ignore[attr-defined]
                return None
        pixels = cv2.imdecode(np.frombuffer(with_orientation_1(data), np.uint8), cv2.IMREAD_UNCHANGED)
    except (*READ_ERRORS, cv2.error):
        return None
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] < 3:
        return None
    return TURNS[turn](np.asarray(pixels, np.uint16)[..., 2::-1])  # OpenCV has blue first


def _decode_int8_or_uint32(data: bytes, picture: Image.Image) -> NDArray[Any] | None:
    """int8 or uint32 of a TIFF, (H, W), which Pillow takes for uint8 and int32; else None."""
    if not data.startswith(CLASSIC) or picture.mode not in ("L", "I"):
        return None
    tags = {entry.tag: entry.short for entry in entries(io.BytesIO(data)) if entry.kind == SHORT and entry.count == 1}
    bits, format = tags.get(BITS_PER_SAMPLE), tags.get(SAMPLE_FORMAT, UNSIGNED)
    if (picture.mode, bits, format) == ("L", 8, SIGNED):
        return np.asarray(picture).view(np.int8)
    if (picture.mode, bits, format) == ("I", 32, UNSIGNED):
        return np.asarray(picture).view(np.uint32)
    return None


def _check_tiff(data: bytes) -> None:
    """Raises ImageError if a TIFF says its size twice: Pillow, which checks it, and OpenCV might believe another."""
    tags = [entry.tag for entry in entries(io.BytesIO(data))] if data.startswith(CLASSIC) else []
    if max(tags.count(WIDTH), tags.count(HEIGHT)) > 1:
        raise ImageError("the TIFF says its size twice; save it anew")


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Raises ImageError if a picture of `size` (W, H) is empty or has more than `max_pixels`."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"the picture is empty, {width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageError(
            f"the picture has {width} x {height} pixels, more than the {max_pixels} allowed; scale it down"
        )

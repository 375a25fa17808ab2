"""Pictures as they come from Label Studio, made into the pixels the browser shows."""

import hashlib
import io
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from model.normalisation import own_range, stretch

# What a browser shows, and what cameras and orbiters write. Formats that run other programs (EPS) stay out.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF")
MAX_PIXELS = 100_000_000
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
ORIENTATION, BITS_PER_SAMPLE, WIDTH, HEIGHT = 0x0112, 258, 256, 257  # EXIF and TIFF tags
TIFF_ENTRY = 12  # bytes of a tag in a TIFF's directory
PNG_COLOURS = (2, 4, 6)  # PNG colour types with several bands: RGB, gray with alpha, RGBA
START_OF_SCAN = b"\xff\xda"
MAX_SCANS = 100  # of a progressive JPEG; each goes through all of its pixels, and programs write some ten

# Everything Pillow was seen to raise on damaged files, and what its own `open` expects of its readers.
READ_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError,
    EOFError, MemoryError, RuntimeError, struct.error,
)  # fmt: skip


class ImageError(ValueError):
    """The bytes are not a picture that can be used."""


def content_hash(data: bytes) -> str:
    """The sha256 of the file's bytes as 64 hex digits: what embeddings and samples are kept under."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The picture as (H, W, 3) uint8 RGB, in the size and orientation the browser shows (EXIF applied).

    16-bit, 32-bit and float single bands, and 16-bit colours together, are stretched from their 1st..99th percentile to
    0..255. Raises as `numbers`.
    """
    found = numbers(data, max_pixels)
    return found if found.dtype == np.uint8 else in_colour(stretch(found, *own_range(found)))


def in_colour(picture: NDArray[Any]) -> NDArray[Any]:
    """(H, W) or (H, W, 3) -> (H, W, 3)."""
    return np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture


def numbers(data: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """The picture as (H, W, 3) uint8 RGB; one of more bits as it is: (H, W) of a number type, or (H, W, 3) uint16 RGB.

    In the size and orientation the browser shows (EXIF applied). Alpha is dropped, not composited: in mosaics it marks
    where data is valid, and a painted background would add an edge that is not in the scene. Of an animation or a
    multi-page file the first frame is taken. Raises ImageError for what is not a picture, is damaged or truncated, or
    has more than `max_pixels` pixels by its header; then no pixel was decoded.
    """
    _check_tiff(data)
    picture = load(data, FORMATS, max_pixels)
    deep = _deep_colours(data)
    if deep is not None and deep.shape[:2] == picture.size[::-1]:
        return deep
    if picture.mode in DEEP_MODES:
        return np.asarray(picture)
    try:
        if picture.mode == "P":
            picture = picture.convert("RGBA")  # straight to RGB, Pillow warns of a palette with transparency
        return np.array(picture.convert("RGB"), dtype=np.uint8)
    except READ_ERRORS as error:
        raise ImageError(f"pixels of mode {picture.mode} cannot be made into RGB: {error}") from error


def load(data: bytes, formats: Sequence[str], max_pixels: int, size: tuple[int, int] | None = None) -> Image.Image:
    """The first frame of a file in one of Pillow's `formats`, decoded, EXIF applied.

    Raises ImageError, before a pixel is decoded also if the header says more than `max_pixels`, or another `size`
    (H, W) where one is given.
    """
    # Pillow's own limit is process-wide and warns halfway; ours is checked on the header, two lines down.
    Image.MAX_IMAGE_PIXELS = None
    try:
        picture = Image.open(io.BytesIO(data), formats=list(formats))
        check_size(picture.size, max_pixels)
        if size is not None and picture.size != tuple(size[::-1]):
            raise ImageError(f"it has {picture.size[0]} x {picture.size[1]} pixels, not {size[1]} x {size[0]}")
        if picture.format == "JPEG" and data.count(START_OF_SCAN) > MAX_SCANS:
            raise ImageError(f"a JPEG of {data.count(START_OF_SCAN)} scans has more than {MAX_SCANS}; save it anew")
        picture.load()
        return ImageOps.exif_transpose(picture)
    except ImageError:
        raise
    except READ_ERRORS as error:
        what = f"{len(data)} bytes that begin with {data[:12]!r}"
        raise ImageError(f"{what} are not a whole {'/'.join(formats)} picture: {error}") from error


def is_deep_png(data: bytes) -> bool:
    """Whether a file is a PNG of 16 bits a number."""
    return data.startswith(b"\x89PNG") and len(data) > 25 and data[24] == 16


def _deep_colours(data: bytes) -> NDArray[np.uint16] | None:
    """(H, W, 3) uint16 RGB of a PNG or TIFF of 16-bit colours, EXIF applied, else None: Pillow reads 8 bits of them."""
    png = is_deep_png(data) and data[25] in PNG_COLOURS
    if not (png or data.startswith((b"II*\0", b"MM\0*"))):
        return None
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if png and struct.unpack_from(">II", data, 16) != picture.size:  # a second header, which OpenCV may believe
                return None
            turn = picture.getexif().get(ORIENTATION, 1)
            if not png and set(picture.tag_v2.get(BITS_PER_SAMPLE, ())) != {16}:  # type: ignore[attr-defined]
                return None
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (*READ_ERRORS, cv2.error):
        return None
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] < 3:
        return None
    colours = np.asarray(pixels, np.uint16)[..., 2::-1]  # OpenCV has blue first
    return _TURNS[turn](colours) if turn in _TURNS else colours


# What each EXIF orientation asks for, https://exiftool.org/TagNames/EXIF.html
_TURNS: Mapping[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda array: array[:, ::-1],
    3: lambda array: array[::-1, ::-1],
    4: lambda array: array[::-1],
    5: lambda array: array.swapaxes(0, 1),
    6: lambda array: array.swapaxes(0, 1)[:, ::-1],
    7: lambda array: array[::-1, ::-1].swapaxes(0, 1),
    8: lambda array: array.swapaxes(0, 1)[::-1],
}


def _check_tiff(data: bytes) -> None:
    """Raises ImageError if a TIFF says its size twice: Pillow, which checks it, and OpenCV might believe another."""
    if not data.startswith((b"II*\0", b"MM\0*")) or len(data) < 8:
        return
    order = "<" if data.startswith(b"II") else ">"
    at = int(struct.unpack_from(f"{order}I", data, 4)[0])
    count = int(struct.unpack_from(f"{order}H", data, at)[0]) if at + 2 <= len(data) else 0
    count = min(count, (len(data) - at - 2) // TIFF_ENTRY)
    tags = [struct.unpack_from(f"{order}H", data, at + 2 + TIFF_ENTRY * k)[0] for k in range(count)]
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

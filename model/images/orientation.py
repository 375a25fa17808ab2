"""The orientation that Chromium shows an image in; it turns fewer files than Pillow's `ImageOps.exif_transpose`.

Determined by drawing files on a canvas of Chromium. The orientation of a JPEG is in the first APP1 segment
with EXIF, of a PNG in the first eXIf chunk before its pixels, of a TIFF in its own directory, in all of them the first
tag that is one SHORT; of AVIF in its boxes irot and imir. WebP, GIF, BMP and JPEG 2000 are never turned, and XMP is
ignored.
"""

import io
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from skylight.model.images import tiff_tags

AVIF = b"ftyp"  # from byte 4 on
# An AVIF's entry for its EXIF (ISO 14496-12, ItemInfoEntry of version 2 or 3), whose type is its last four bytes.
INFO_OF_EXIF = re.compile(rb"(infe(?:\x02.{3}.{4}|\x03.{3}.{6}))Exif", re.DOTALL)
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
EXIF = b"Exif\0"  # and one byte of any value
APP1, START_OF_SCAN, END = 0xE1, 0xDA, 0xD9  # JPEG markers
WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))

# How an array is turned for each orientation, https://exiftool.org/TagNames/EXIF.html
TURNS: Mapping[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda array: array,
    2: lambda array: array[:, ::-1],
    3: lambda array: array[::-1, ::-1],
    4: lambda array: array[::-1],
    5: lambda array: array.swapaxes(0, 1),
    6: lambda array: array.swapaxes(0, 1)[:, ::-1],
    7: lambda array: array[::-1, ::-1].swapaxes(0, 1),
    8: lambda array: array.swapaxes(0, 1)[::-1],
}
METHODS: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_orientation(data: bytes, picture: Image.Image) -> int:
    """The orientation, 1 to 8, that a file is shown in; `picture` as Pillow opened it."""
    if data.startswith(JPEG):
        return _orientation_of_exif(_exif_of_jpeg(data))
    if data.startswith(PNG):
        return _orientation_of_exif(_exif_of_png(data))
    if data.startswith((*tiff_tags.CLASSIC, *tiff_tags.BIG)):
        return tiff_tags.read_orientation(io.BytesIO(data))
    if picture.format == "AVIF":  # Pillow gives what irot and imir say as EXIF
        turn = picture.getexif().get(tiff_tags.ORIENTATION, 1)
        return turn if turn in METHODS else 1
    return 1


def without_orientation(data: bytes) -> bytes:
    """A file's content without the orientation that Pillow would apply on its own: a TIFF's tag, an AVIF's EXIF.

    An AVIF's boxes stay. With EXIF that has entries of odd types, Pillow would not open it.
    """
    if data[4:8] == AVIF:
        return INFO_OF_EXIF.sub(rb"\g<1>free", data, count=1)
    return tiff_tags.with_orientation_1(data)


def shown_size(size: tuple[int, int], turn: int) -> tuple[int, int]:
    """Height and width, or width and height, of an image shown in orientation `turn`."""
    return size[::-1] if turn >= 5 else size


def _orientation_of_exif(block: bytes) -> int:
    return tiff_tags.read_orientation(io.BytesIO(block)) if block.startswith(tiff_tags.CLASSIC) else 1


def _exif_of_jpeg(data: bytes) -> bytes:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in WITHOUT_LENGTH:
            at += 2
        elif marker in (START_OF_SCAN, END):
            break
        else:
            length = int(struct.unpack_from(">H", data, at + 2)[0])
            if marker == APP1 and length >= len(EXIF) + 3 and data.startswith(EXIF, at + 4):
                return data[at + 4 + len(EXIF) + 1 : at + 2 + length]
            at += 2 + length
    return b""


def _exif_of_png(data: bytes) -> bytes:
    at = len(PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            return data[at + 8 : at + 8 + length]
        if kind in (b"IDAT", b"IEND"):
            break
        at += 12 + length
    return b""

"""PNG files written some rows at a time: Label Studio's bitmask from the mask's own rows, and pictures with a palette.

All other rows are clear. Zeros deflated are the same bytes each time, so they are put together from a piece that ends
on a byte (a full flush), and their checksum is known: of 4096 x 4096 pixels, 64 MB, only what the object covers is
deflated.
PNG: https://www.w3.org/TR/png-3/, deflate: RFC 1951, zlib's frame around it: RFC 1950.
"""

import base64
import struct
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from skylight.model.masks.brush_rle import MaskError, check_mask

DATA_URL = "data:image/png;base64,"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGBA, PALETTE = 6, 3  # colour types
CLEAR_AND_BLACK = ((b"PLTE", bytes(6)), (b"tRNS", b"\x00\xff"))
PIECE = 2**20  # bytes deflated at once
RGBA_PIXELS = 2048 * 2048  # of a picture; of a larger one a part is written with a palette
MODULUS = 65521  # of Adler-32


def encode_png(mask: NDArray[np.bool_]) -> str:
    """Label Studio's bitmask of a (H, W) bool mask: a data URL, RGBA PNG, black where true, else clear.

    Raises MaskError if the mask is not 2-D bool, or is empty.
    """
    check_mask(mask)
    height, width = mask.shape
    return _written(mask, 0, 0, (height, width), RGBA)


def encode_png_in(mask: NDArray[np.bool_], top: int, left: int, size: tuple[int, int]) -> str:
    """As `encode_png`, of a picture of `size` (H, W) with `mask` (h, w) from row `top`, column `left` on, else clear.

    Of more than `RGBA_PIXELS` with a palette, a byte a pixel: whoever reads it needs a quarter of the memory. Raises
    MaskError also if the mask does not lie in the picture.
    """
    check_mask(mask)
    if not (0 <= top <= size[0] - mask.shape[0] and 0 <= left <= size[1] - mask.shape[1]):
        raise MaskError(f"a mask {mask.shape} at {top}, {left} does not fit into a picture of {size[1]} x {size[0]} px")
    return _written(mask, top, left, size, RGBA if size[0] * size[1] <= RGBA_PIXELS else PALETTE)


def write_palette(
    file: BinaryIO, size: tuple[int, int], rows: Iterable[NDArray[np.uint8]], palette: bytes, alpha: bytes
) -> None:
    """Write a picture (H, W) of a byte a pixel to a file; `rows` (h, W) uint8 are its strips from top to bottom.

    `palette` is red, green, blue of each number, `alpha` the opacity of each, 255 where there is none.
    """
    height, width = size
    file.write(SIGNATURE)
    file.write(_chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, PALETTE, 0, 0, 0)))
    file.write(_chunk(b"PLTE", palette) + _chunk(b"tRNS", alpha))
    deflate = zlib.compressobj(4)
    for strip in rows:
        data = deflate.compress(np.pad(strip, ((0, 0), (1, 0))).data)  # a 0 before each row: it is not filtered
        if data:
            file.write(_chunk(b"IDAT", data))
    file.write(_chunk(b"IDAT", deflate.flush()) + _chunk(b"IEND", b""))


def _written(mask: NDArray[np.bool_], top: int, left: int, size: tuple[int, int], kind: int) -> str:
    height, width = size
    channels, opaque = (4, 255) if kind == RGBA else (1, 1)
    head = struct.pack(">2I5B", width, height, 8, kind, 0, 0, 0)
    chunks = [(b"IHDR", head), *(CLEAR_AND_BLACK if kind == PALETTE else ())]
    chunks += [(b"IDAT", _deflated(mask.view(np.uint8) * np.uint8(opaque), top, left, size, channels)), (b"IEND", b"")]
    return DATA_URL + base64.b64encode(SIGNATURE + b"".join(_chunk(*each) for each in chunks)).decode("ascii")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def _deflated(levels: NDArray[np.uint8], top: int, left: int, size: tuple[int, int], channels: int) -> bytes:
    """The picture's rows, each after a 0, for no filter, as a zlib stream; `levels` (h, w) are the last channel."""
    filled = np.flatnonzero(levels.any(1))
    first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
    row = 1 + channels * size[1]
    stream = _Stream()
    stream.zeros((top + first) * row)
    step = max(PIECE // row, 1)
    columns = slice(channels * (left + 1), channels * (left + levels.shape[1]) + 1, channels)
    for begin in range(first, last, step):
        end = min(begin + step, last)
        rows = np.zeros((end - begin, row), np.uint8)
        rows[:, columns] = levels[begin:end]
        stream.add(rows)
    stream.zeros((size[0] - top - last) * row)
    return stream.end()


class _Stream:
    """A zlib stream of pieces that can be read one by one."""

    def __init__(self) -> None:
        self._parts = [b"\x78\x01"]
        self._sum = 1

    def add(self, rows: NDArray[np.uint8]) -> None:
        """Any bytes."""
        self._parts.append(_piece(rows.data))
        self._sum = zlib.adler32(rows.data, self._sum)

    def zeros(self, count: int) -> None:
        """So many bytes of 0."""
        self._parts += [_zeros(PIECE)] * (count // PIECE)
        self._parts.append(_zeros(count % PIECE))
        high, low = divmod(self._sum, 1 << 16)
        self._sum = (high + count * low) % MODULUS << 16 | low

    def end(self) -> bytes:
        """All of it: an empty last block, and the checksum."""
        return b"".join([*self._parts, b"\x03\x00", struct.pack(">I", self._sum)])


@lru_cache(maxsize=64)
def _zeros(count: int) -> bytes:
    return _piece(bytes(count))


def _piece(data: bytes | memoryview) -> bytes:
    """Deflated, up to the end of a byte.

    At level 1, which repeats what lies 258 bytes back: what is smaller, from level 4 on, repeats the byte before, and
    takes five times as long to be read (1024 x 1024 px: 8.4 ms instead of 1.5).
    """
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    return deflate.compress(data) + deflate.flush(zlib.Z_FULL_FLUSH)

"""PNG files written some rows at a time: a mask in a clear image, and images with a palette.

Zeros deflated are the same bytes each time, so clear rows are put together from a piece that ends on a byte (a full
flush), and their checksum is known: of 4096 x 4096 pixels, 64 MB, only the rows of the mask are deflated.
PNG: https://www.w3.org/TR/png-3/, deflate: RFC 1951, zlib's frame around it: RFC 1950.
"""

import struct
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RGBA, PALETTE = 6, 3  # colour types
CLEAR_AND_BLACK = ((b"PLTE", bytes(6)), (b"tRNS", b"\x00\xff"))
BLOCK = 2**20  # bytes deflated at once
MODULUS = 65521  # of Adler-32


def encode_mask(mask: NDArray[np.bool_], top: int, left: int, size: tuple[int, int], kind: int) -> bytes:
    """A PNG of `size` (H, W), black where a mask (h, w) bool from row `top`, column `left` on is true, else clear.

    `kind`: `RGBA`, or `PALETTE`, of which a reader needs a quarter of the memory.
    """
    height, width = size
    channels, opaque = (4, 255) if kind == RGBA else (1, 1)
    head = struct.pack(">2I5B", width, height, 8, kind, 0, 0, 0)
    chunks = [(b"IHDR", head), *(CLEAR_AND_BLACK if kind == PALETTE else ())]
    chunks += [(b"IDAT", _deflated(mask.view(np.uint8) * np.uint8(opaque), top, left, size, channels)), (b"IEND", b"")]
    return SIGNATURE + b"".join(_chunk(*chunk) for chunk in chunks)


def write_palette(
    file: BinaryIO, size: tuple[int, int], rows: Iterable[NDArray[np.uint8]], palette: bytes, alpha: bytes
) -> None:
    """Write an image of `size` (H, W) with a byte per pixel; `rows` (h, W) uint8 are its strips from top to bottom.

    `palette`: red, green and blue of each number; `alpha`: the opacity of each, 255 where it gives none.
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


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def _deflated(levels: NDArray[np.uint8], top: int, left: int, size: tuple[int, int], channels: int) -> bytes:
    """The rows of an image, each after a 0 for "no filter", as a zlib stream; `levels` (h, w) are the last channel."""
    filled = np.flatnonzero(levels.any(1))
    first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
    row = 1 + channels * size[1]
    stream = _Stream()
    stream.zeros((top + first) * row)
    step = max(BLOCK // row, 1)
    columns = slice(channels * (left + 1), channels * (left + levels.shape[1]) + 1, channels)
    for begin in range(first, last, step):
        end = min(begin + step, last)
        rows = np.zeros((end - begin, row), np.uint8)
        rows[:, columns] = levels[begin:end]
        stream.add(rows)
    stream.zeros((size[0] - top - last) * row)
    return stream.end()


class _Stream:
    """A zlib stream of independent blocks."""

    def __init__(self) -> None:
        self._parts = [b"\x78\x01"]
        self._sum = 1

    def add(self, rows: NDArray[np.uint8]) -> None:
        """Append rows, of any bytes."""
        self._parts.append(_block(rows.data))
        self._sum = zlib.adler32(rows.data, self._sum)

    def zeros(self, count: int) -> None:
        """Append `count` bytes of 0."""
        self._parts += [_zeros(BLOCK)] * (count // BLOCK)
        self._parts.append(_zeros(count % BLOCK))
        high, low = divmod(self._sum, 1 << 16)
        self._sum = (high + count * low) % MODULUS << 16 | low

    def end(self) -> bytes:
        """The whole stream, closed by an empty last block and the checksum."""
        return b"".join([*self._parts, b"\x03\x00", struct.pack(">I", self._sum)])


@lru_cache(maxsize=64)
def _zeros(count: int) -> bytes:
    return _block(bytes(count))


def _block(data: bytes | memoryview) -> bytes:
    """A deflated block that ends on a byte.

    At level 1, which repeats what lies 258 bytes back: from level 4 on, it repeats the byte before, which is smaller
    and takes five times as long to inflate.
    """
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    return deflate.compress(data) + deflate.flush(zlib.Z_FULL_FLUSH)

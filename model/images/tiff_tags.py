"""The tags of a TIFF's first directory. EXIF is such a directory, too.

TIFF 6.0, https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf, and BigTIFF,
https://libtiff.gitlab.io/libtiff/specification/bigtiff.html.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

CLASSIC = (b"II*\0", b"MM\0*")
BIG = (b"II+\0", b"MM\0+")
WIDTH, HEIGHT, BITS_PER_SAMPLE, ORIENTATION, SAMPLE_FORMAT = 256, 257, 258, 274, 339
BYTE, SHORT = 1, 3  # types of values
UNSIGNED, SIGNED = 1, 2  # values of SAMPLE_FORMAT
MAX_ENTRIES = 65_535


@dataclass(frozen=True)
class Entry:
    """A tag of a directory: its number, type and count, and the bytes that hold its value, or where that is.

    `at`: where the entry itself lies in the file.
    """

    tag: int
    kind: int
    count: int
    value: bytes
    at: int
    order: str  # "<" or ">"

    @property
    def short(self) -> int:
        """The first number of a tag of type SHORT that holds one or two of them."""
        return int(struct.unpack_from(f"{self.order}H", self.value)[0])


def entries(file: BinaryIO) -> Iterator[Entry]:
    """The first directory's tags, in the file's order; as many as are whole. None of a file that is no TIFF."""
    head = _read_at(file, 0, 16)
    if not head.startswith((*CLASSIC, *BIG)):
        return
    order, big = ("<" if head.startswith(b"II") else ">"), head.startswith(BIG)
    offset, number, entry = (f"{order}Q", f"{order}Q", f"{order}HHQ8s") if big else (f"{order}I", f"{order}H", "")
    entry = entry or f"{order}HHI4s"
    if len(head) < (16 if big else 8):
        return
    start = int(struct.unpack_from(offset, head, 8 if big else 4)[0])
    raw = _read_at(file, start, struct.calcsize(number))
    if len(raw) < struct.calcsize(number):
        return
    count, size = min(int(struct.unpack(number, raw)[0]), MAX_ENTRIES), struct.calcsize(entry)
    table = _read_at(file, start + len(raw), count * size)
    for at in range(0, len(table) - size + 1, size):
        tag, kind, values, value = struct.unpack_from(entry, table, at)
        yield Entry(tag, kind, values, value, start + len(raw) + at, order)


def read_orientation(file: BinaryIO) -> int:
    """The orientation, 1 to 8: the first tag Orientation that is one SHORT; 1 without any, or for any other value."""
    for entry in entries(file):
        if entry.tag == ORIENTATION and entry.kind == SHORT and entry.count == 1:
            return entry.short if 1 <= entry.short <= 8 else 1
    return 1


def with_orientation_1(data: bytes) -> bytes:
    """A TIFF's content with an Orientation of 1, so that no reader turns it."""
    tags = [entry for entry in entries(io.BytesIO(data)) if entry.tag == ORIENTATION]
    if all(tag.kind == SHORT and tag.count == 1 and tag.short == 1 for tag in tags):
        return data
    changed = bytearray(data)
    for tag in tags:
        big = len(tag.value) == 8
        one = struct.pack(f"{tag.order}HHQHHI" if big else f"{tag.order}HHIHH", ORIENTATION, SHORT, 1, 1, 0, *[0] * big)
        changed[tag.at : tag.at + len(one)] = one
    return bytes(changed)


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    if offset >= 2**63:
        return b""
    file.seek(offset)
    return file.read(size)

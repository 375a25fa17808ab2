"""Label Studio's brush RLE of masks.

It is the bit stream of thi.ng's rle-pack over RGBA bytes: 32 bits number of bytes, 5 bits word size - 1,
four times 4 bits run size - 1; then codes of 1 bit (1 repeat, 0 literal), 2 bits run size index, the length
- 1 in that many bits, and one word (repeat) or as many as the length (literal).
https://github.com/thi-ng/umbrella/blob/develop/packages/rle-pack/src/index.ts
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.model.masks.errors import EmptyMask, MaskError, check_mask
from skylight.model.masks.rasterize import concatenated_ranges

CHANNELS = 4
WORD = 8  # bits
RUN_SIZES = (3, 4, 8, 16)  # bits of a run length, as label_studio_sdk writes them
MAX_BYTES = 2**22  # of an RLE; a drawn mask of 4096 x 4096 pixels has some 100,000, and each takes 60 bytes to be read
HEADER_BITS = 32 + 5 + 4 * len(RUN_SIZES)


def encode_rle(mask: NDArray[np.bool_]) -> list[int]:
    """Label Studio's brush RLE, bytes as ints, of a (H, W) bool mask: opaque 255 where true, 0 elsewhere.

    The same bytes as `label_studio_sdk.converter.brush.mask2rle(mask * 255)`. Raises MaskError if the mask
    is not 2-D bool, is empty, or has 2**30 pixels or more.
    """
    check_mask(mask)
    flat = mask.ravel()
    last = np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1)
    return _encode_runs(np.diff(last, prepend=-1), 255 * flat[last].astype(np.int64), flat.size)


def _encode_runs(lengths: NDArray[Any], values: NDArray[Any], pixels: int) -> list[int]:
    """The stream of runs, with lengths in pixels, of values."""
    codes, widths = _repeat_codes(CHANNELS * lengths, values)
    head = _header(CHANNELS * pixels)
    ends = HEADER_BITS + np.cumsum(widths)
    begins = ends - widths
    # A code has 14 to 27 bits: in five bytes from the one where it begins, which no other does.
    five = (codes << 40 - widths - (begins & 7)).astype(">i8").view(np.uint8).reshape(-1, 8)[:, 3:]
    size = int(ends[-1]) // 8 + 1  # a byte of zeros after codes that end on a byte, as in the SDK
    packed = np.zeros(size + 5, np.uint8)
    packed[: len(head)] = head
    at = begins >> 3
    for k in range(5):
        packed[at + k] |= five[:, k]
    encoded: list[int] = packed[:size].tolist()
    return encoded


def encode_rle_in(mask: NDArray[np.bool_], top: int, left: int, size: tuple[int, int]) -> list[int]:
    """As `encode_rle`, of an image of `size` (H, W) with `mask` (h, w) from row `top`, column `left` on, else empty.

    No array of the image's size is made. Raises MaskError also if the mask does not lie in the image.
    """
    check_mask(mask)
    height, width = size
    if not (0 <= top <= height - mask.shape[0] and 0 <= left <= width - mask.shape[1]) or height * width >= 2**30:
        raise MaskError(f"a mask {mask.shape} at {top}, {left} does not fit into a picture of {width} x {height} px")
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).view(np.int8), axis=1)
    begins, ends = (
        (rows + top) * width + columns + left for rows, columns in (np.nonzero(edges > 0), np.nonzero(edges < 0))
    )
    apart = np.flatnonzero(begins[1:] != ends[:-1])  # else a run goes on in the next row
    begins, ends = begins[np.append(0, apart + 1)[: len(begins)]], ends[np.append(apart, -1)[: len(ends)]]
    stops = np.append(np.stack([begins, ends], 1).ravel(), height * width)
    values = np.arange(len(stops)) % 2 * 255
    lengths = np.diff(stops, prepend=0)
    return _encode_runs(lengths[lengths > 0], values[lengths > 0], height * width)


def decode_rle(rle: Sequence[int], height: int, width: int) -> NDArray[np.uint8]:
    """The alpha of a brush RLE, (H, W) uint8; hand-drawn strokes have values in between at their edges.

    Raises MaskError if the stream is not of height * width RGBA pixels, or is damaged or truncated, EmptyMask if it has
    no byte.
    """
    data = _as_bytes(rle)
    if not data.size:
        raise EmptyMask("its RLE is empty")
    total, sizes = _read_header(data)
    expected = height * width * CHANNELS
    if min(height, width) < 1 or total != expected:
        raise MaskError(f"the RLE holds {total} bytes, but {width} x {height} RGBA pixels are {expected}")
    ends, values, literals = _read_codes(data, sizes, total)
    begins = np.concatenate(([0], ends[:-1]))
    first = begins // CHANNELS  # bytes 3, 7, 11.. are alpha: before byte n there are n // 4 of them
    counts = ends // CHANNELS - first
    alpha = np.repeat(values.astype(np.uint8), counts)
    literal_runs = np.flatnonzero((literals >= 0) & (counts > 0))
    if literal_runs.size:
        pixel = concatenated_ranges(first[literal_runs], counts[literal_runs])
        at = np.repeat(literals[literal_runs] - WORD * begins[literal_runs], counts[literal_runs]) + WORD * (
            CHANNELS * pixel + 3
        )
        pair = np.append(data, np.uint8(0)).astype(np.uint16)
        alpha[pixel] = ((pair[at >> 3] << 8 | pair[(at >> 3) + 1]) >> (8 - (at & 7)).astype(np.uint16)) & 255
    return alpha.reshape(height, width)


def _header(total: int) -> NDArray[np.uint8]:
    """The header's bits, padded to whole bytes, (N,) uint8."""
    value = total << 5 | WORD - 1
    for size in RUN_SIZES:
        value = value << 4 | size - 1
    padding = -HEADER_BITS % 8
    return np.frombuffer((value << padding).to_bytes((HEADER_BITS + padding) // 8, "big"), np.uint8)


def _repeat_codes(lengths: NDArray[Any], values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Repeat codes of runs of at least 2 bytes, and their widths in bits.

    A run longer than 65536 is cut; its last part keeps the 16-bit length, however short it is.
    """
    longest = 1 << RUN_SIZES[3]
    small, middle, large = (lengths > 1 << size for size in RUN_SIZES[:3])
    index = small.view(np.uint8) + middle + large
    long = np.flatnonzero(lengths > longest)
    if long.size:
        parts = np.ones(lengths.size, np.int64)
        parts[long] = -(-lengths[long] // longest)  # only of the long ones: divisions are slow
        last = np.cumsum(parts) - 1
        length = np.full(last[-1] + 1, longest, np.int64)
        length[last] = lengths - (parts - 1) * longest
        lengths, index, values = length, np.repeat(index, parts), np.repeat(values, parts)
    size = np.asarray(RUN_SIZES)[index]
    codes = ((4 | index.astype(np.int64)) << size | lengths - 1) << WORD | values
    return codes, 3 + size + WORD


def _as_bytes(rle: Sequence[int]) -> NDArray[np.uint8]:
    if type(rle) is list:
        try:
            return np.frombuffer(bytes(rle), np.uint8)  # ten times faster than asarray
        except (TypeError, ValueError) as error:
            raise MaskError(f"an RLE must be a flat list of whole numbers from 0 to 255: {error}") from error
    try:
        numbers = np.asarray(rle)
    except ValueError as error:
        raise MaskError(f"an RLE must be a flat list of bytes: {error}") from error
    if numbers.shape == (0,):
        return np.zeros(0, np.uint8)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or (numbers < 0).any() or (numbers > 255).any():
        raise MaskError("an RLE must be a flat list of whole numbers from 0 to 255")
    return numbers.astype(np.uint8)


def _read_header(data: NDArray[np.uint8]) -> tuple[int, list[int]]:
    """The number of bytes encoded, and the four run sizes in bits."""
    length = -(-HEADER_BITS // 8)
    if data.size > MAX_BYTES:
        raise MaskError(f"the RLE has {data.size} bytes, more than {MAX_BYTES}; draw fewer or smoother strokes")
    if data.size < length:
        raise MaskError(f"the RLE is truncated: {data.size} bytes, its header alone has {length}")
    value = int.from_bytes(data[:length].tobytes(), "big") >> (8 * length - HEADER_BITS)
    if (value >> 16 & 31) + 1 != WORD:
        raise MaskError(f"the RLE has words of {(value >> 16 & 31) + 1} bits; only {WORD} are known")
    return value >> 21, [(value >> shift & 15) + 1 for shift in (12, 8, 4, 0)]


def _read_codes(
    data: NDArray[np.uint8], sizes: list[int], total: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The codes: where each run ends in the bytes of pixels, the value that it repeats, and where its words begin.

    The value is 0 where the run is literal; where its words begin is in bits from the beginning of `data`, -1
    where it repeats.
    """
    count, size_of = data.size, np.array(sizes)
    begins = _find_codes(data, sizes)
    padded = np.concatenate((data, np.zeros(5, np.uint8))).astype(np.int64)
    first = begins >> 3
    # Five bytes from the one where a code begins: one that repeats has at most 3 + 16 + 8 bits after at most 7.
    window = sum((padded[first + k] << (32 - 8 * k) for k in range(1, 5)), padded[first] << 32)
    code = window >> (13 - (begins & 7)) & 0x7FFFFFF
    size, repeats = size_of[code >> 24 & 3], code >> 26 == 1
    lengths = (code >> (24 - size) & (1 << size) - 1) + 1
    ends = np.cumsum(lengths)
    needed = int(np.searchsorted(ends, total)) + 1
    if needed > ends.size:
        length = int(ends[-1]) if ends.size else 0
        raise MaskError(f"the RLE is truncated: {count} bytes give {length} of {total} bytes of pixels")
    words = begins + 3 + size
    last = needed - 1
    at = int(words[last] + WORD * (1 if repeats[last] else lengths[last]))
    if at > 8 * count or ends[last] > total:
        raise MaskError(
            f"the RLE is damaged: its last run ends at bit {at} of {8 * count}, byte {ends[last]} of {total}"
        )
    values = np.where(repeats, code >> (16 - size) & 255, 0)
    return ends[:needed], values[:needed], np.where(repeats, -1, words)[:needed]


def _find_codes(data: NDArray[np.uint8], sizes: list[int]) -> NDArray[np.int64]:
    """The bits at which codes begin, perhaps with some in the padding of the last bytes."""
    bits = np.unpackbits(data)
    head = bits << 2  # three bits from every bit on
    head[:-1] |= bits[1:] << 1
    head[:-2] |= bits[2:]
    # The length of a code that begins at each bit, 0 if it is literal; bytes are indexed faster than arrays.
    widths = np.array([0] * 4 + [3 + size + WORD for size in sizes], np.uint8)[head].tobytes()
    raw, limit, at = data.tobytes() + bytes(5), len(widths), HEADER_BITS
    begins: list[int] = []
    add = begins.append
    while at < limit:
        add(at)
        width = widths[at]
        if not width:
            size = sizes[head[at]]
            window = int.from_bytes(raw[at >> 3 : (at >> 3) + 5], "big")
            width = 3 + size + WORD * ((window >> (37 - size - (at & 7)) & (1 << size) - 1) + 1)
        at += width
    return np.array(begins, np.int64)

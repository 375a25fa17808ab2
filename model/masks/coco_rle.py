"""COCO's run-length encoding of masks.

The runs go down the columns, one column after the other, and the first is of the background. Compressed, each number is
written in digits of 5 bits, the lowest first, as characters from "0" on, 32 more if another follows; the last digit's
highest bit is the sign, and from the fourth number on it is the difference to the one two before.
https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.model.masks.errors import MaskError
from skylight.model.masks.region import MaskRegion, StreamedRegion

MAX_DIGITS = 12  # of a compressed number, 60 bits


def encode_runs(region: MaskRegion | StreamedRegion, size: tuple[int, int]) -> list[int]:
    """The lengths of the uncompressed runs, px, of a region in an image of `size` (H, W)."""
    height, width = size
    begins: list[NDArray[np.int64]] = []
    ends: list[NDArray[np.int64]] = []
    above, bottom = np.zeros(region.width, bool), region.top
    for top, mask in region.strips():
        before = np.concatenate([above[None], mask[:-1]])
        for places, pixels in ((begins, mask & ~before), (ends, before & ~mask)):
            rows, columns = np.nonzero(pixels)
            places.append((columns + region.left) * height + rows + top)
        above, bottom = mask[-1], top + len(mask)
    ends.append((np.flatnonzero(above) + region.left) * height + bottom)
    begin, end = np.sort(np.concatenate(begins)), np.sort(np.concatenate(ends))
    apart = begin[1:] != end[:-1]  # a run to the bottom of a column may go on at the top of the next
    begin, end = begin[np.append(True, apart)], end[np.append(apart, True)]
    edges = np.concatenate([[0], np.stack([begin, end], 1).ravel(), [height * width]])
    return [int(length) for length in np.diff(edges)]


def decode_runs(counts: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The (H, W) bool mask of runs, compressed (a text) or not (a list of whole numbers).

    Raises MaskError if they are neither, or not of just as many pixels as `size` (H, W) has; then no array was made.
    """
    if isinstance(counts, str):
        counts = decompress(counts)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise MaskError("its counts must be a text, or whole numbers from 0 on")
    if sum(counts) != size[0] * size[1]:
        raise MaskError(f"its counts are of {sum(counts)} pixels, but {size[1]} x {size[0]} are {size[0] * size[1]}")
    return np.repeat(np.arange(len(counts)) % 2 > 0, counts).reshape(size[1], size[0]).T


def decompress(text: str) -> list[int]:
    """The numbers in a compressed run-length encoding. Raises MaskError if it breaks off or holds another character."""
    counts: list[int] = []
    number = digits = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or digits == MAX_DIGITS:
            raise MaskError(f"its counts are damaged after {len(counts)} numbers")
        number |= (code & 31) << 5 * digits
        digits += 1
        if code & 32:
            continue
        if code & 16:
            number -= 1 << 5 * digits
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number = digits = 0
    if digits:
        raise MaskError(f"its counts break off after {len(counts)} numbers")
    return counts

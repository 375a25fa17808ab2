"""Logits upsampled to a mask at the image's size, only where they may be above 0.

Bilinear interpolation of a part is that of the whole where both grids begin at the same place: every h / gcd(h, H) px
of h that become H. So the time depends on the object's size, and no array of the image's size is made but the mask:
logits of 4096 x 4096 px have 64 MB, which take 15 ms to allocate.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

BAND = 2**20  # px of the image interpolated at once: 4 MB, which stay in a processor's cache

Parts = tuple[int, int, int, int]  # number of parts along a side, px of the logits and of the image in each, and how
# many neighboring parts are interpolated with those wanted, since a pixel at a part's rim reads its neighbor


def upsample_mask(logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where logits (h, w) float32, interpolated to `size` (H, W), are above 0: (H, W) bool.

    As `cv2.resize(logits, size[::-1], interpolation=cv2.INTER_LINEAR) > 0`.
    """
    mask = np.zeros(size, bool)
    above = logits > 0
    rows, columns = (np.flatnonzero(above.any(axis)) for axis in (1, 0))
    if not len(rows):
        return mask
    down, across = (_parts(*sides) for sides in zip(logits.shape, size, strict=True))
    left, right = _covering_parts(columns, across)
    top, bottom = _covering_parts(rows, down)
    height = max(BAND // ((right - left) * across[2] * down[2]), 1)
    for first in range(top, bottom, height):
        _fill(mask, logits, (first, min(first + height, bottom), down), (left, right, across))
    return mask


def _parts(short: int, long: int) -> Parts:
    count = math.gcd(short, long)
    step = short // count
    return count, step, long // count, -(-2 // step)


def _covering_parts(indices: NDArray[np.intp], parts: Parts) -> tuple[int, int]:
    """The first and the end of the parts that the pixels with these indices may affect when interpolated."""
    count, step, _, _ = parts
    return max(int(indices[0]) - 1, 0) // step, min((int(indices[-1]) + 1) // step + 1, count)


def _fill(
    mask: NDArray[np.bool_],
    logits: NDArray[np.float32],
    rows: tuple[int, int, Parts],
    columns: tuple[int, int, Parts],
) -> None:
    """Interpolate the parts from the first to the end of both sides into the mask."""
    source, target, wanted = [], [], []
    for first, last, (count, step, large, beside) in (rows, columns):
        begin, end = max(first - beside, 0), min(last + beside, count)
        source.append(slice(begin * step, end * step))
        target.append((end - begin) * large)
        wanted.append((slice(first * large, last * large), slice((first - begin) * large, (last - begin) * large)))
    interpolated = cv2.resize(logits[source[0], source[1]], target[::-1], interpolation=cv2.INTER_LINEAR)
    (down, from_down), (across, from_across) = wanted
    np.greater(interpolated[from_down, from_across], 0, out=mask[down, across])

"""From logits to a mask at the image's size, only where there is something.

Bilinear interpolation of a part is that of the whole where both grids begin at the same place: every h / gcd(h, H) px
of h that become H. An object then costs what its own part of the image does, and no array as large as the image is
made but the mask: of 4096 x 4096 px logits have 64 MB, which the system hands out page by page, in 15 ms.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

BAND = 2**20  # px of the image interpolated at once: 4 MB, which stay in a processor's cache

Parts = tuple[int, int, int, int]  # number of parts along a side, px of the logits and of the image in each, and how
# many parts beside the wanted ones are interpolated along, since a pixel at the rim of a part reads its neighbour


def enlarge(logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where logits (h, w) float32, interpolated to `size` (H, W), are above 0: (H, W) bool.

    As `cv2.resize(logits, size[::-1], interpolation=cv2.INTER_LINEAR) > 0`.
    """
    mask = np.zeros(size, bool)
    above = logits > 0
    rows, columns = (np.flatnonzero(above.any(axis)) for axis in (1, 0))
    if not len(rows):
        return mask
    down, across = (_parts(*sides) for sides in zip(logits.shape, size, strict=True))
    left, right = _reach(columns, across)
    top, bottom = _reach(rows, down)
    each = max(BAND // ((right - left) * across[2] * down[2]), 1)
    for first in range(top, bottom, each):
        _fill(mask, logits, (first, min(first + each, bottom), down), (left, right, across))
    return mask


def _parts(short: int, long: int) -> Parts:
    count = math.gcd(short, long)
    step = short // count
    return count, step, long // count, -(-2 // step)


def _reach(there: NDArray[np.intp], parts: Parts) -> tuple[int, int]:
    """The parts, from and to, that may hold something when pixels from the first to the last `there` do."""
    count, step, _, _ = parts
    return max(int(there[0]) - 1, 0) // step, min((int(there[-1]) + 1) // step + 1, count)


def _fill(
    mask: NDArray[np.bool_],
    logits: NDArray[np.float32],
    rows: tuple[int, int, Parts],
    columns: tuple[int, int, Parts],
) -> None:
    """Interpolate the parts from and to of both sides."""
    source, target, wanted = [], [], []
    for first, last, (count, step, large, beside) in (rows, columns):
        begin, end = max(first - beside, 0), min(last + beside, count)
        source.append(slice(begin * step, end * step))
        target.append((end - begin) * large)
        wanted.append((slice(first * large, last * large), slice((first - begin) * large, (last - begin) * large)))
    found = cv2.resize(logits[source[0], source[1]], target[::-1], interpolation=cv2.INTER_LINEAR)
    (down, from_down), (across, from_across) = wanted
    np.greater(found[from_down, from_across], 0, out=mask[down, across])

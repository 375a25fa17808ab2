"""Tiles of large images: where they lie, how they are blended, and which one a prompt is answered in."""

import numpy as np
from numpy.typing import NDArray

from skylight.model.images.raster import Window

OVERLAP = 8  # neighbouring tiles are blended over one over this of a tile's side


def tile_starts(length: int, side: int) -> list[int]:
    """Where tiles of `side` px begin along `length` px: evenly, each overlapping the next by an eighth or more."""
    if length <= side:
        return [0]
    step = side - side // OVERLAP
    count = -(-(length - side) // step) + 1
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def tile_windows(size: tuple[int, int], side: int) -> list[Window]:
    """All tiles of an image of `size` (H, W), row by row."""
    height, width = min(side, size[0]), min(side, size[1])
    return [(row, column, height, width) for row in tile_starts(size[0], side) for column in tile_starts(size[1], side)]


def blend_weights(length: int, side: int) -> NDArray[np.float32]:
    """Each tile's weights along its side, (tiles, side) float32: they fall towards a neighbour, and add up to 1."""
    begins, side = tile_starts(length, side), min(side, length)
    out = np.zeros((len(begins), side), np.float32)
    total = np.zeros(length, np.float32)
    reach = max(side // OVERLAP, 1)
    inward = np.minimum(np.arange(side) + 0.5, reach) / reach
    for i, begin in enumerate(begins):
        rising = inward if i else 1.0
        falling = inward[::-1] if i < len(begins) - 1 else 1.0
        out[i] = rising * falling
        total[begin : begin + side] += out[i]
    for i, begin in enumerate(begins):
        out[i] /= total[begin : begin + side]
    return out


def nearest_window(size: tuple[int, int], side: int, low: NDArray[np.float32], high: NDArray[np.float32]) -> Window:
    """The window of an image of `size` (H, W) to answer a prompt in that lies between two corners, (2,) xy px each.

    The tile whose centre is nearest to it; if that does not hold all of it, a square around it of twice its extent.
    """
    x, y = ((low + high) / 2).tolist()
    window = min(
        tile_windows(size, side), key=lambda tile: abs(tile[0] + tile[2] / 2 - y) + abs(tile[1] + tile[3] / 2 - x)
    )
    row, column, height, width = window
    if low[0] >= column and low[1] >= row and high[0] < column + width and high[1] < row + height:
        return window
    return window_around(size, x, y, max(round(2 * float((high - low).max())), side))


def window_around(size: tuple[int, int], x: float, y: float, side: int) -> Window:
    """A square of `side` px around x, y, as far as the image of `size` (H, W) allows."""
    height, width = min(side, size[0]), min(side, size[1])
    row = min(max(round(y - height / 2), 0), size[0] - height)
    return row, min(max(round(x - width / 2), 0), size[1] - width), height, width


def enlarged_window(size: tuple[int, int], window: Window, mask: NDArray[np.bool_]) -> Window | None:
    """A window of twice the side around a mask (h, w) bool that touches its window's border; None if it does not."""
    row, column, height, width = window
    cut = (
        (mask[0].any() and row > 0)
        or (mask[-1].any() and row + height < size[0])
        or (mask[:, 0].any() and column > 0)
        or (mask[:, -1].any() and column + width < size[1])
    )
    if not cut:
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = column + (columns[0] + columns[-1]) / 2, row + (rows[0] + rows[-1]) / 2
    return window_around(size, float(x), float(y), 2 * max(height, width))

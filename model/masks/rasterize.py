"""Polygons and ellipses, to masks: a pixel is inside if its center is."""

import math
import reprlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skylight.model.masks.errors import EmptyMask, MaskError

MAX_VERTICES = 100_000  # of a polygon; the outline of a mask of 4096 x 4096 pixels, simplified, has some thousand
MAX_CROSSINGS = 4_000_000  # rows of pixels that a polygon's edges cross, in all; each takes 60 bytes
MAX_PERCENT = 1e6  # coordinates further out than this are nonsense, and would only cost precision


def polygon_mask(points_percent: ArrayLike, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels whose centre lies in a polygon, (H, W) bool; points are (N, 2) xy in percent of the image.

    The polygon is closed, may leave the image, and where it crosses itself counts as inside by the non-zero
    winding rule, as a canvas fills it. Neighbours that share an edge share no pixel. Raises EmptyMask for
    fewer than 3 points, MaskError for too many, or for numbers that are not finite.
    """
    points = _check_points(points_percent)
    x0, y0 = (points * (width / 100.0, height / 100.0)).T
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    top = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height).astype(np.int64)
    bottom = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height).astype(np.int64)
    crossings = int((bottom - top).sum())
    if crossings > MAX_CROSSINGS:
        raise MaskError(f"the polygon's edges cross {crossings} rows of pixels, more than {MAX_CROSSINGS}; simplify it")
    edge = np.repeat(np.arange(len(points)), bottom - top)
    mask = np.zeros((height, width), bool)
    if not edge.size:
        return mask
    row = concatenated_ranges(top, bottom - top)
    x = x0[edge] + (row + 0.5 - y0[edge]) / (y1 - y0)[edge] * (x1 - x0)[edge]
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    up, left = row.min(), column.min()
    winding = np.zeros((row.max() + 1 - up, column.max() + 1 - left), np.int32)
    np.add.at(winding, (row - up, column - left), np.where(y1 > y0, 1, -1)[edge])
    np.cumsum(winding, axis=1, out=winding)
    mask[up : row.max() + 1, left : column.max()] = winding[:, :-1] != 0
    return mask


def ellipse_mask(
    center: tuple[float, float], radii: tuple[float, float], rotation: float, height: int, width: int
) -> NDArray[np.bool_]:
    """The pixels whose center lies in an ellipse, (H, W) bool.

    `center` and `radii` are x, y px, and may leave the image; `rotation` is in degrees, clockwise, around the center.
    One without a radius covers nothing. Only the box around it is looked at.
    """
    mask = np.zeros((height, width), bool)
    (x, y), (a, b) = center, (abs(radii[0]), abs(radii[1]))
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    reach_x, reach_y = math.hypot(a * cos, b * sin), math.hypot(a * sin, b * cos)
    left, right = _pixel_range(x, reach_x, width)
    top, bottom = _pixel_range(y, reach_y, height)
    if not (a and b) or left >= right or top >= bottom:
        return mask
    dx = np.arange(left, right)[None] + (0.5 - x)
    dy = np.arange(top, bottom)[:, None] + (0.5 - y)
    mask[top:bottom, left:right] = ((dx * cos + dy * sin) / a) ** 2 + ((dy * cos - dx * sin) / b) ** 2 <= 1
    return mask


def _pixel_range(middle: float, reach: float, length: int) -> tuple[int, int]:
    """The first pixel that may be reached and the one after the last, cut to the image."""
    first, last = math.floor(middle - reach), math.ceil(middle + reach)
    return min(max(first, 0), length), min(max(last, 0), length)


def concatenated_ranges(first: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """first[0], first[0] + 1, .. (counts[0] of them), first[1], .., (sum of counts,) int64."""
    return np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())


def _check_points(points_percent: ArrayLike) -> NDArray[np.float64]:
    if isinstance(points_percent, list) and len(points_percent) > MAX_VERTICES:
        raise MaskError(f"a polygon of {len(points_percent)} points has more than {MAX_VERTICES}; simplify it")
    try:
        given = np.asarray(points_percent)
        if given.dtype.kind not in "iuf":  # "7" would pass for a number
            raise TypeError(f"these are not all numbers: {reprlib.repr(points_percent)}")
        points = given.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise MaskError(f"a polygon must be a list of [x, y] in percent: {error}") from error
    if points.shape != (0,) and (points.ndim != 2 or points.shape[1] != 2):
        raise MaskError(f"a polygon must be a list of points [x, y], not an array of shape {points.shape}")
    if not (np.abs(points) <= MAX_PERCENT).all():
        raise MaskError(f"a polygon's points must be finite percentages, not as far as {np.abs(points).max()}")
    if len(points) < 3:
        raise EmptyMask(f"a polygon needs at least 3 points, not {len(points)}")
    return points

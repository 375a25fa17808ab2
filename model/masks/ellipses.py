"""Ellipses, to masks."""

import math

import numpy as np
from numpy.typing import NDArray


def ellipse_mask(
    centre: tuple[float, float], radii: tuple[float, float], rotation: float, height: int, width: int
) -> NDArray[np.bool_]:
    """The pixels whose centre lies in an ellipse, (H, W) bool.

    `centre` and `radii` are x, y px, and may leave the image; `rotation` is in degrees, clockwise, around the centre.
    One without a radius covers nothing. Only the box around it is looked at.
    """
    mask = np.zeros((height, width), bool)
    (x, y), (a, b) = centre, (abs(radii[0]), abs(radii[1]))
    cos, sin = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    reach_x, reach_y = math.hypot(a * cos, b * sin), math.hypot(a * sin, b * cos)
    left, right = _range(x, reach_x, width)
    top, bottom = _range(y, reach_y, height)
    if not (a and b) or left >= right or top >= bottom:
        return mask
    dx = np.arange(left, right)[None] + (0.5 - x)
    dy = np.arange(top, bottom)[:, None] + (0.5 - y)
    mask[top:bottom, left:right] = ((dx * cos + dy * sin) / a) ** 2 + ((dy * cos - dx * sin) / b) ** 2 <= 1
    return mask


def _range(middle: float, reach: float, length: int) -> tuple[int, int]:
    """The first pixel that may be reached and the one after the last, cut to the image."""
    first, last = math.floor(middle - reach), math.ceil(middle + reach)
    return min(max(first, 0), length), min(max(last, 0), length)

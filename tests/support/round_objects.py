"""Masks and instance maps of round objects."""

import numpy as np
from numpy.typing import NDArray


def disc(y: float, x: float, radius: float, size: tuple[int, int] = (96, 96)) -> NDArray[np.bool_]:
    """The pixels within `radius` of y, x."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    return np.hypot(rows - y, columns - x) <= radius


def grains(size: tuple[int, int], pitch: int, seed: int = 0) -> NDArray[np.uint16]:
    """Round grains on a shaken lattice, of about 0.5 pitch radius: many touch."""
    rng = np.random.default_rng(seed)
    places = [(y, x) for y in range(pitch, size[0] - pitch, pitch) for x in range(pitch, size[1] - pitch, pitch)]
    out = np.zeros(size, np.uint16)
    for k, (y, x) in enumerate(places, 1):
        dy, dx = rng.uniform(-0.1, 0.1, 2) * pitch
        window = (slice(y - pitch, y + pitch), slice(x - pitch, x + pitch))
        out[window][disc(pitch + dy, pitch + dx, rng.uniform(0.42, 0.52) * pitch, (2 * pitch, 2 * pitch))] = k
    return out

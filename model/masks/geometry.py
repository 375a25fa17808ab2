"""Points inside of masks."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def interior_point(mask: NDArray[np.bool_], rng: np.random.Generator, central: bool) -> tuple[float, float]:
    """A point inside a (H, W) bool mask, xy px: the deepest one if `central`, else drawn with probability by depth."""
    rows, columns = np.nonzero(mask)
    y0, x0 = rows.min(), columns.min()
    window = np.pad(mask[y0 : rows.max() + 1, x0 : columns.max() + 1], 1)
    depth: NDArray[np.float64] = ndimage.distance_transform_edt(window)
    if central:
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    else:
        flat = depth.ravel()
        y, x = np.unravel_index(int(rng.choice(len(flat), p=flat / flat.sum())), depth.shape)
    return float(x + x0 - 1), float(y + y0 - 1)

"""Distances to the rims of objects: the target that a decoder learns in order to separate touching objects."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

FINEST = 8  # samples per cell: more cannot be seen in a cell's mean, and 16 would take 4 times as long


def distance_targets(instances: NDArray[np.uint16], rows: int, columns: int) -> NDArray[np.float32]:
    """Each cell's mean distance to its object's rim, (rows, columns) float32 in [0, 1], of an instance map (H, W).

    Before averaging it is 0 on each object's outermost pixels and 1 at its deepest; other objects and what lies beyond
    the image are outside. Distances are taken at the image's resolution and then averaged, so that a shift by less than
    a cell shows.
    """
    step = max(int(len(instances) / rows / FINEST), 1)
    distance = _normalized_distance(instances[::step, ::step])
    return np.array(Image.fromarray(distance).resize((columns, rows), Image.Resampling.BOX))


def _normalized_distance(instances: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Distance to the rim over the object's largest, (H, W) float32; 1 throughout an object that is all rim."""
    out = np.zeros(instances.shape, np.float32)
    for number, window in enumerate(ndimage.find_objects(instances), 1):
        if window is None:
            continue
        mask = instances[window] == number
        depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        deepest = depth.max()
        out[window][mask] = (depth[mask] - 1) / (deepest - 1) if deepest > 1 else 1
    return out

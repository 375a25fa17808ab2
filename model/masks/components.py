"""Connected components of masks."""

import cv2
import numpy as np
from numpy.typing import NDArray


def components(mask: NDArray[np.bool_], min_area: int) -> NDArray[np.int32]:
    """The 8-connected parts of a (H, W) bool mask that have `min_area` pixels or more, numbered from 1 on.

    (H, W) int32, 1 is the largest, 0 belongs to no part. One array for all parts, however many there are.
    """
    _, numbered = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    return sort_by_size(np.asarray(numbered, np.int32), min_area)


def sort_by_size(numbered: NDArray[np.int32], min_area: int) -> NDArray[np.int32]:
    """Numbered objects (H, W) int32 renumbered from 1 on by descending size; those below `min_area` px become 0."""
    areas = np.bincount(numbered.ravel())
    areas[0] = 0
    order = np.argsort(-areas, kind="stable")
    order = order[areas[order] >= max(min_area, 1)]
    renumbered = np.zeros(len(areas), np.int32)
    renumbered[order] = np.arange(1, len(order) + 1)
    renamed: NDArray[np.int32] = renumbered[numbered]
    return renamed

"""Several annotators' label maps of one image made into one."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skylight.model.masks.label_map import IGNORE


def majority(label_maps: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The class that most maps have at each pixel; `IGNORE` where two classes tie, or where every map ignores.

    `label_maps` (H, W) uint8 each, background 0 is a class too, a map's `IGNORE` (255) is no vote. So of two annotators
    only what they agree on is kept. Raises ValueError for no maps or maps of different shapes.
    """
    if not label_maps or len({each.shape for each in label_maps}) > 1:
        raise ValueError(f"a majority needs maps of one shape, not {[each.shape for each in label_maps]}")
    best = np.full(label_maps[0].shape, IGNORE, np.uint8)
    most = np.zeros(best.shape, np.int32)
    for k in sorted({int(value) for each in label_maps for value in np.unique(each)} - {IGNORE}):
        votes = np.sum([each == k for each in label_maps], axis=0, dtype=np.int32)
        best[votes == most] = IGNORE
        best[votes > most] = k
        most = np.maximum(most, votes)
    return best


def agreed_objects(
    agreed: NDArray[np.uint8], label_maps: Sequence[NDArray[np.uint8]], objects: Sequence[NDArray[np.uint16] | None]
) -> NDArray[np.uint16]:
    """Single objects within an agreed label map, (H, W) uint16, 0 where none is known.

    `label_maps` and `objects` belong to one annotator each, in the order in which they are believed. An object keeps
    the pixels that were agreed to have its label; it is left out where one taken before it already has some of them.
    """
    taken = np.zeros(agreed.shape, np.uint16)
    for drawn, numbers in zip(label_maps, objects, strict=True):
        if numbers is None:
            continue
        kept = np.where((drawn == agreed) & (agreed > 0) & (agreed != IGNORE), numbers, 0)
        free = np.setdiff1d(np.unique(kept), np.append(np.unique(kept[taken > 0]), 0))
        renumbered = np.zeros(int(kept.max()) + 1, np.uint16)
        renumbered[free] = np.arange(len(free)) + 1 + int(taken.max())
        taken = np.maximum(taken, renumbered[kept])
    return taken

"""Consensus of several annotators' label maps of one image."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skylight.model.masks.label_map import IGNORE


def majority(label_maps: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The majority class of each pixel, (H, W) uint8; `IGNORE` where two classes tie, or where every map ignores.

    `label_maps` (H, W) uint8 each; background 0 is a class, too, and `IGNORE` (255) is no vote. So of two annotators
    only the pixels they agree on are known. Raises ValueError for no maps or maps of different shapes.
    """
    if not label_maps or len({label_map.shape for label_map in label_maps}) > 1:
        raise ValueError(f"a majority needs maps of one shape, not {[label_map.shape for label_map in label_maps]}")
    best = np.full(label_maps[0].shape, IGNORE, np.uint8)
    most_votes = np.zeros(best.shape, np.int32)
    for k in sorted({int(value) for label_map in label_maps for value in np.unique(label_map)} - {IGNORE}):
        votes = np.sum([label_map == k for label_map in label_maps], axis=0, dtype=np.int32)
        best[votes == most_votes] = IGNORE
        best[votes > most_votes] = k
        most_votes = np.maximum(most_votes, votes)
    return best


def agreed_objects(
    agreed: NDArray[np.uint8], label_maps: Sequence[NDArray[np.uint8]], objects: Sequence[NDArray[np.uint16] | None]
) -> NDArray[np.uint16]:
    """The instance map (H, W) uint16 of an agreed label map, 0 where no object is known.

    `label_maps` and `objects` are of one annotator each, in order of priority. An object keeps the agreed pixels of its
    label; it is left out if an object before it already has some of them.
    """
    taken = np.zeros(agreed.shape, np.uint16)
    for label_map, numbers in zip(label_maps, objects, strict=True):
        if numbers is None:
            continue
        remaining = np.where((label_map == agreed) & (agreed > 0) & (agreed != IGNORE), numbers, 0)
        free = np.setdiff1d(np.unique(remaining), np.append(np.unique(remaining[taken > 0]), 0))
        renumbered = np.zeros(int(remaining.max()) + 1, np.uint16)
        renumbered[free] = np.arange(len(free)) + 1 + int(taken.max())
        taken = np.maximum(taken, renumbered[remaining])
    return taken

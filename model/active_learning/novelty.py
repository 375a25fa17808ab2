"""How like the annotated images another one is: a decoder may be sure of what it never saw the like of, and wrong.

In a pool of nuclei, a quarter of it stained tissue, an earlier score of sureness alone left one seed of five blind for
the tissue. As a factor of today's it costs where things are rare: whatever empty tile looks odd then comes first. With
15 % of the tiles of lesions holding any, mean IoU over 8 to 24 tiles is 0.07 above random order with it, 0.12 without.
"""

import numpy as np
from numpy.typing import NDArray

from skylight.model.sam.types import Embedding


def mean_feature(embedding: Embedding) -> NDArray[np.float32]:
    """An embedding's mean over the cells that the image fills, (256,) float32 of length 1."""
    rows, columns = embedding.extent(embedding.features.shape[-1])
    mean: NDArray[np.float32] = embedding.features[:, :rows, :columns].astype(np.float32).mean((1, 2))
    return mean / max(float(np.linalg.norm(mean)), 1e-6)


def familiarity(points: NDArray[np.float32], known: NDArray[np.float32], scale: float) -> NDArray[np.float64]:
    """How like annotated images each image is, (N,) in (0, 1], from pooled embeddings (N, D) and (K, D) of those.

    s / (s + d), d the distance to the nearest annotated image, s the `scale` of these: 1/2 for one that is as far from
    them as they are from each other (`spacing`). 1 without a scale.
    """
    if not scale or not len(known):
        return np.ones(len(points))
    distance = np.min([np.linalg.norm(points - each, axis=1) for each in known.astype(np.float64)], axis=0)
    shares: NDArray[np.float64] = scale / (scale + distance)
    return shares


def spacing(known: NDArray[np.float32]) -> float:
    """The median distance of points (K, D) to the nearest other; 0 for one."""
    if len(known) < 2:
        return 0.0
    nearest = []
    for i, point in enumerate(known.astype(np.float64)):
        distance = np.linalg.norm(known - point, axis=1)
        distance[i] = np.inf
        nearest.append(distance.min())
    return float(np.median(nearest))


def farthest_first(points: NDArray[np.float32]) -> list[int]:
    """An order of points (N, D): from the first one on, each is the farthest from all before it.

    The greedy 2-approximation of k-centre (Gonzalez 1985), as Sener & Savarese choose a core-set (arXiv 1708.00489).
    """
    order = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    while len(order) < len(points):
        distance[order] = -1
        order.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[order[-1]], axis=1))
    return order

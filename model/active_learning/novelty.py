"""Similarity of open images to annotated ones: a decoder may be confident, and wrong, on images unlike any it learned.

Only `mean_feature` serves the product, as the input of the clusters. What orders by novelty cost is in
docs/decisions/task-order.md.
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
    """Similarity of each image to the annotated ones, (N,) in (0, 1], from pooled embeddings (N, D) and (K, D).

    s / (s + d), where d is the distance to the nearest annotated image and s the `scale` (see `spacing`): 1/2 for one
    that is as far from them as they are from each other. 1 without a scale.
    """
    if not scale or not len(known):
        return np.ones(len(points))
    distance = np.min([np.linalg.norm(points - point, axis=1) for point in known.astype(np.float64)], axis=0)
    similarity: NDArray[np.float64] = scale / (scale + distance)
    return similarity


def spacing(known: NDArray[np.float32]) -> float:
    """The median distance of points (K, D) to their nearest neighbour; 0 for one point."""
    if len(known) < 2:
        return 0.0
    nearest = []
    for i, point in enumerate(known.astype(np.float64)):
        distance = np.linalg.norm(known - point, axis=1)
        distance[i] = np.inf
        nearest.append(distance.min())
    return float(np.median(nearest))


def farthest_first(points: NDArray[np.float32]) -> list[int]:
    """An order of points (N, D): after the first, each is the farthest from all before it.

    The greedy 2-approximation of k-centre (Gonzalez 1985), as Sener & Savarese choose a core-set (arXiv 1708.00489).
    """
    order = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    while len(order) < len(points):
        distance[order] = -1
        order.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[order[-1]], axis=1))
    return order

"""k-means, to tell apart the kinds of images among a project's open tasks."""

import numpy as np
from numpy.typing import NDArray

CLUSTERS = 8  # at most: as many images as an annotator does before the next version, or a few more
PER_CLUSTER = 2  # points, at least: of fewer points there are fewer clusters
ROUNDS = 50  # at most


def kinds(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centres (K, D) of the kinds of images among pooled embeddings (N, D) float32; K is 0 if they are too few."""
    count = min(CLUSTERS, len(points) // PER_CLUSTER)
    return kmeans(points, count) if count > 1 else points[:0]


def kmeans(points: NDArray[np.float32], k: int, seed: int = 0) -> NDArray[np.float32]:
    """Centres (K, D) float32 of `points` (N, D) float32, K <= k: fewer if there are fewer different points.

    Begun by k-means++ (Arthur & Vassilvitskii 2007), then Lloyd's iterations; the same points in the same order and the
    same seed give the same centres. Raises ValueError for no points or k < 1.
    """
    if not len(points) or k < 1:
        raise ValueError(f"k-means needs points and k >= 1, not {len(points)} points and k = {k}")
    centres = _spread(points, k, np.random.default_rng(seed))
    for _ in range(ROUNDS):
        owners = nearest(points, centres)
        sums = np.zeros(centres.shape, np.float64)
        np.add.at(sums, owners, points)
        counts = np.bincount(owners, minlength=len(centres))[:, None]
        moved = np.where(counts > 0, sums / np.maximum(counts, 1), centres).astype(np.float32)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def nearest(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.intp]:
    """The nearest of the centres (K, D) to each point (N, D), as (N,) indices; the first of equally near ones."""
    owners: NDArray[np.intp] = _squares(points, centres).argmin(1)
    return owners


def _spread(points: NDArray[np.float32], k: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Up to k points, each drawn with a chance that grows as its squared distance to those before it."""
    chosen = [int(rng.integers(len(points)))]
    while len(chosen) < k:
        distance = _squares(points, points[chosen]).min(1)
        if not distance.any():
            break
        chosen.append(int(rng.choice(len(points), p=distance / distance.sum())))
    return points[chosen]


def _squares(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared distances (N, K)."""
    return np.stack([np.square(points - centre, dtype=np.float64).sum(1) for centre in centres], axis=1)

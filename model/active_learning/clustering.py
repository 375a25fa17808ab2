"""Clusters of images, by k-means on their pooled embeddings."""

import warnings

import numpy as np
from numpy.typing import NDArray

MAX_CLUSTERS = 8  # as many images as an annotator does before the next version, or a few more
MIN_POINTS = 2  # per cluster: of fewer points there are fewer clusters
ITERATIONS = 50  # at most


def cluster_centres(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centres (K, D) float32 of up to `MAX_CLUSTERS` clusters of pooled embeddings (N, D) float32.

    K is 0 if the points are too few for two clusters.
    """
    count = min(MAX_CLUSTERS, len(points) // MIN_POINTS)
    return kmeans(points, count) if count > 1 else points[:0]


def kmeans(points: NDArray[np.float32], k: int, seed: int = 0) -> NDArray[np.float32]:
    """Centres (K, D) float32 of `points` (N, D) float32, K <= k: fewer if there are fewer different points.

    Initialized by k-means++ (Arthur & Vassilvitskii 2007); the same points in the same order and the same seed give the
    same centres. Raises ValueError for no points or k < 1.
    """
    if not len(points) or k < 1:
        raise ValueError(f"k-means needs points and k >= 1, not {len(points)} points and k = {k}")
    from scipy.cluster.vq import kmeans2  # here, as it takes 0.3 s to import

    k = min(k, len(np.unique(points, axis=0)))
    with warnings.catch_warnings(action="ignore"):  # a cluster that loses all points keeps its centre
        centres, _ = kmeans2(points, k, iter=ITERATIONS, minit="++", rng=np.random.default_rng(seed))
    return np.asarray(centres, np.float32)


def nearest_centres(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.intp]:
    """Index (N,) of the nearest of the centres (K, D) to each point (N, D); the first of equally near ones."""
    from scipy.cluster.vq import vq  # as above

    indices, _ = vq(points, centres)
    return np.asarray(indices, np.intp)

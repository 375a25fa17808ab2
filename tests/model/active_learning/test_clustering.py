"""k-means."""

import numpy as np
import pytest

from skylight.model.active_learning.clustering import MAX_CLUSTERS, cluster_centres, kmeans, nearest_centres


def heaps(seed: int) -> np.ndarray:
    """Three heaps of 20 points around corners 10 apart, (60, 2) float32, in order."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(corner, 0.5, (20, 2)) for corner in ((0, 0), (10, 0), (0, 10))]).astype("f4")


@pytest.mark.parametrize("seed", range(5))
def test_heaps_are_told_apart(seed: int) -> None:
    points = heaps(seed)
    owners = nearest_centres(points, kmeans(points, 3, seed)).reshape(3, 20)
    assert (owners == owners[:, :1]).all() and len(set(owners[:, 0].tolist())) == 3


def test_a_centre_is_the_mean_of_its_points() -> None:
    points = heaps(0)
    centres = kmeans(points, 3)
    owners = nearest_centres(points, centres)
    for k, centre in enumerate(centres):
        assert centre == pytest.approx(points[owners == k].mean(0), abs=1e-5)


def test_the_same_points_give_the_same_centres() -> None:
    assert np.array_equal(kmeans(heaps(1), 4), kmeans(heaps(1), 4))


def test_there_are_no_more_centres_than_different_points() -> None:
    assert kmeans(np.ones((6, 2), np.float32), 3).tolist() == [[1, 1]]
    assert len(kmeans(np.repeat(np.eye(2, dtype=np.float32), 3, 0), 5)) == 2


@pytest.mark.parametrize(("points", "k"), [(0, 2), (3, 0)])
def test_without_points_or_centres_it_says_so(points: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"not {points} points and k = {k}"):
        kmeans(np.zeros((points, 2), np.float32), k)


def test_few_images_are_of_few_clusters() -> None:
    points = heaps(0)
    assert [len(cluster_centres(points[:count])) for count in (0, 3, 4, 7)] == [0, 0, 2, 3]
    assert len(cluster_centres(points)) == MAX_CLUSTERS

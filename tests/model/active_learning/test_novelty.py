"""How like the annotated images another one is."""

import numpy as np
import pytest

from skylight.model.active_learning.novelty import familiarity, farthest_first, mean_feature, spacing
from tests.model.experiments.test_acquisition import POOL, embed

LINE = np.array([[0.0], [1.0], [3.0], [6.0]], np.float32)


def test_the_mean_feature_leaves_out_what_is_beyond_the_image() -> None:
    mean = mean_feature(embed(POOL[0]))
    assert mean.shape == (256,) and mean[2] == 0
    assert np.linalg.norm(mean) == pytest.approx(1, abs=1e-3)


def test_the_spacing_is_the_median_distance_to_the_nearest_other() -> None:
    assert spacing(LINE) == 1.5  # 1, 1, 2, 3
    assert spacing(LINE[:1]) == 0 and spacing(LINE[:0]) == 0


def test_familiarity_is_one_half_at_the_spacing_and_falls_beyond() -> None:
    points = np.array([[0.0], [7.5], [10.5]], np.float32)
    assert familiarity(points, LINE, 1.5).tolist() == [1, 0.5, 0.25]
    assert familiarity(points, LINE[:1], 0).tolist() == [1, 1, 1]  # a single image has no spacing
    assert familiarity(points, LINE[:0], 1.5).tolist() == [1, 1, 1]


def test_the_farthest_point_comes_next() -> None:
    points = np.array([[0.0], [1.0], [10.0], [4.0]], np.float32)
    assert farthest_first(points) == [0, 2, 3, 1]
    assert sorted(farthest_first(np.zeros((4, 1), np.float32))) == [0, 1, 2, 3]

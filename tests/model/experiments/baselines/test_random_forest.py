"""The forest's features, and that it leaves the process as it was."""

import warnings

import numpy as np
import pytest

from skylight.model.experiments.baselines.base import Example
from skylight.model.experiments.baselines.random_forest import Forest, ForestConfig, pixel_features
from skylight.model.sam.types import Embedding


def test_pixel_features_do_not_depend_on_how_the_picture_is_turned() -> None:
    image = np.random.default_rng(0).integers(256, size=(33, 33, 2), dtype=np.uint8)
    config = ForestConfig(sigma_max=5.0, sigmas=2)
    upright, turned = (pixel_features(each, config) for each in (image, np.rot90(image).copy()))
    assert upright.shape == (33 * 33, 2 * 2 * 4)
    middle = 33 * 16 + 16
    np.testing.assert_allclose(upright[middle], turned[middle], atol=1e-5)


def test_it_does_not_touch_the_filters_of_warnings() -> None:
    """Several of scikit-learn's threads each put them aside and back, and end with too few or none of them."""
    pytest.importorskip("sklearn", reason="the extra `simulate` is not installed")
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(48, 48, 3), dtype=np.uint8)
    embedding = Embedding(np.zeros((256, 4, 4), np.float16), (48, 48), np.zeros((16, 16, 3), np.uint8))
    forest = Forest(ForestConfig(trees=60, pixels=500))
    with warnings.catch_warnings():
        before = list(warnings.filters)
        forest.fit([Example(image, (image[..., 0] > 128).astype(np.uint8), embedding)], 1, seed=0)
        forest.predict(image, embedding)
        assert warnings.filters == before

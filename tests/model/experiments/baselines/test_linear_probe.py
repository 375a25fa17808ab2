"""How the probe parts its examples."""

import numpy as np

from skylight.model.experiments.baselines.linear_probe import folds


def test_a_label_that_only_one_image_has_is_not_left_out_with_it() -> None:
    none, some = np.zeros(10, np.uint8), np.repeat([0, 1], 5).astype(np.uint8)
    np.testing.assert_array_equal(folds([some, none, some]), np.repeat([0, 1, 2], 10))
    np.testing.assert_array_equal(folds([some, none]), np.tile(np.repeat(np.arange(5), 2), 2))

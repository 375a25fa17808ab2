"""Distances to the rims of objects."""

import time

import numpy as np
import pytest

from skylight.model.masks.distance_transform import distance_targets
from skylight.model.masks.instance_map import instance_map
from tests.support.round_objects import disc, grains

PAIR = [disc(48, 32, 16), disc(48, 62, 16)]  # the second covers a sliver of the first


TOUCHING = instance_map(PAIR)


def test_distances_run_from_0_on_the_rim_to_1_at_the_deepest() -> None:
    found = distance_targets(instance_map([disc(48, 48, 20), disc(10, 10, 5)]), 96, 96)
    assert found.dtype == np.float32 and found.min() == 0
    assert found[48, 48] == found[10, 10] == 1  # whatever the size
    assert found[48, 68] == found[48, 90] == 0
    assert found[48, 58] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("cells", [96, 48, 24])
def test_touching_objects_have_a_valley_between_them(cells: int) -> None:
    found = distance_targets(TOUCHING, cells, cells)
    line = found[cells // 2]
    valley = line[cells // 3 : cells * 2 // 3].min()
    assert line[: cells // 2].max() > 0.75 and line[cells // 2 :].max() > 0.75
    assert valley < 0.13


def test_the_picture_s_own_shape_and_a_finer_grid_are_kept() -> None:
    instances = np.zeros((30, 90), np.uint16)
    instances[5:25, 50:80] = 4
    for rows, columns in [(10, 30), (43, 128), (60, 180), (1, 3)]:
        found = distance_targets(instances, rows, columns)
        assert found.shape == (rows, columns)
        assert found.min() >= 0 and found.max() <= 1
        assert found[:, : columns // 2].max() == 0
        assert found[:, columns // 2 :].max() > 0.1


def test_a_cell_gets_the_mean_over_its_pixels_even_where_only_some_are_looked_at() -> None:
    scale = 32  # every fourth pixel is sampled
    instances = disc(512, 512, 400, (1024, 1024)).astype(np.uint16)
    exact = distance_targets(instances, 1024, 1024).reshape(32, scale, 32, scale).mean((1, 3))
    np.testing.assert_allclose(distance_targets(instances, 32, 32), exact, atol=0.02)


def test_an_object_without_any_inside_is_all_1() -> None:
    line = np.zeros((20, 20), np.uint16)
    line[10, 3:15] = 1
    found = distance_targets(line, 20, 20)
    np.testing.assert_array_equal(found, line)
    assert not distance_targets(np.zeros((20, 20), np.uint16), 10, 10).any()


def test_distances_of_hundreds_of_nuclei_are_quick() -> None:
    nuclei = grains((520, 696), 29)
    assert nuclei.max() > 350
    started = time.process_time()
    distance_targets(nuclei, 96, 128)
    assert time.process_time() - started < 1  # 0.04 s here

"""Touching objects told apart by the distance to their rims."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from skylight.model.decoder.watershed import separate
from skylight.model.evaluation.metrics import InstanceScores
from skylight.model.masks.components import components
from skylight.model.masks.distance_transform import distance_targets
from skylight.model.masks.instance_map import instance_map
from tests.support.round_objects import disc, grains
from tests.support.shapes import apart


def enlarged(cells: NDArray[np.float32], scale: int) -> NDArray[np.float32]:
    """A map of cells at the image's size, between them by straight lines, as the decoder's answers are."""
    size = cells.shape[0] * scale, cells.shape[1] * scale
    at = [(np.arange(n) + 0.5) / scale - 0.5 for n in size]
    grid = np.meshgrid(*at, indexing="ij")
    found: NDArray[np.float32] = ndimage.map_coordinates(cells, grid, order=1, mode="nearest").astype(np.float32)
    return found


PAIR = [disc(48, 32, 16), disc(48, 62, 16)]  # the second covers a sliver of the first


TOUCHING = instance_map(PAIR)


def test_two_touching_discs_come_apart_where_components_see_one() -> None:
    foreground = TOUCHING > 0
    found = apart(separate(foreground, distance_targets(TOUCHING, 96, 96), 20))
    assert len(apart(components(foreground, 20))) == 1
    scores = InstanceScores()
    scores.add(found, [1.0] * len(found), TOUCHING)
    assert len(found) == 2 and scores.panoptic_quality > 0.97
    np.testing.assert_array_equal(np.sum(found, axis=0), foreground)


def noisy_answer(
    instances: NDArray[np.uint16], scale: int, noise: float
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """A foreground and distances as a decoder with coarse cells and unsure of itself gives them."""
    size = instances.shape[0] // scale, instances.shape[1] // scale
    target = distance_targets(instances, *size)
    wobble = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=size), 0.8)
    blurred = ndimage.gaussian_filter(target, 0.6) + noise * wobble / wobble.std() * (target > 0)
    share = (instances > 0).reshape(size[0], scale, size[1], scale).mean((1, 3)).astype(np.float32)
    return enlarged(share, scale) > 0.5, enlarged(np.clip(blurred, 0, 1).astype(np.float32), scale)


@pytest.mark.parametrize("noise", [0.0, 0.08])
def test_coarse_noisy_distances_separate_most_grains(noise: float) -> None:
    truth = grains((256, 256), 26)
    foreground, distance = noisy_answer(truth, 4, noise)
    quality = {}
    for name, found in {
        "separate": apart(separate(foreground, distance, 20)),
        "parts": apart(components(foreground, 20)),
    }.items():
        scores = InstanceScores()
        scores.add(found, [1.0] * len(found), truth)
        quality[name] = scores.panoptic_quality
    assert quality["separate"] > 0.75
    assert quality["separate"] > quality["parts"] + 0.2


def test_one_object_with_two_bumps_stays_whole() -> None:
    bumps = np.maximum(1 - np.hypot(*np.ogrid[-30:30, -30:30]) / 30, 0).astype(np.float32)
    foreground = bumps > 0
    shallow, deep = bumps.copy(), bumps.copy()
    shallow[:, 29:32] *= 0.85
    deep[:, 28:33] *= 0.2
    assert len(apart(separate(foreground, shallow, 20))) == 1
    assert len(apart(separate(foreground, deep, 20))) == 2


def test_equally_high_tops_of_one_hill_are_no_two_objects() -> None:
    distance = np.full((20, 40), 0.5, np.float32)
    distance[8:12, 8:12] = distance[8:12, 28:32] = 0.55
    assert len(apart(separate(np.ones((20, 40), bool), distance, 1))) == 1


def test_the_contrast_is_a_share_of_the_hill_so_low_hills_part_too() -> None:
    distance = distance_targets(TOUCHING, 96, 96)
    for doubt in (1.0, 0.5, 0.3):
        assert len(apart(separate(TOUCHING > 0, distance * np.float32(doubt), 20))) == 2
    assert len(apart(separate(TOUCHING > 0, distance, 20, contrast=0.05))) == 1


def test_a_part_without_a_hill_stays_a_whole_component() -> None:
    foreground = disc(30, 30, 8) | disc(70, 70, 12)
    found = apart(separate(foreground, np.zeros((96, 96), np.float32), 20))
    np.testing.assert_array_equal(found, apart(components(foreground, 20)))


def test_hills_outside_the_foreground_count_for_nothing() -> None:
    distance = distance_targets(TOUCHING, 96, 96)
    only = TOUCHING == 1
    (found,) = apart(separate(only, distance, 20))
    np.testing.assert_array_equal(found, only)
    assert apart(separate(np.zeros((96, 96), bool), distance, 20)) == []


def test_objects_come_biggest_first_disjoint_and_none_under_min_area() -> None:
    instances = instance_map([disc(20, 20, 12), disc(20, 40, 9), disc(70, 30, 15), disc(70, 70, 3)])
    distance = distance_targets(instances, 96, 96)
    found = apart(separate(instances > 0, distance, 40))
    areas = [int(mask.sum()) for mask in found]
    assert len(found) == 3 and areas == sorted(areas, reverse=True)
    assert np.sum(found, axis=0).max() == 1
    assert all(mask.shape == (96, 96) and mask.dtype == bool for mask in found)
    assert len(apart(separate(instances > 0, distance, 0))) == 4


def test_a_hill_too_small_for_an_object_joins_its_neighbour() -> None:
    instances = instance_map([disc(40, 40, 20), disc(40, 63, 5)])
    foreground, distance = instances > 0, distance_targets(instances, 96, 96)
    assert len(apart(separate(foreground, distance, 20))) == 2
    (only,) = apart(separate(foreground, distance, 200))
    np.testing.assert_array_equal(only, foreground)


def test_400_objects_in_a_megapixel_are_quick() -> None:
    truth = grains((1024, 1024), 47)
    assert truth.max() >= 400
    foreground, distance = noisy_answer(truth, 8, 0.0)
    started = time.process_time()
    found = apart(separate(foreground, distance, 64))
    assert time.process_time() - started < 3  # 0.4 s here
    assert 350 < len(found) < 450


@pytest.mark.parametrize("contrast", [0.0, 1.5, float("nan")])
def test_what_cannot_be_separated_is_refused(contrast: float) -> None:
    with pytest.raises(ValueError, match=str(contrast)):
        apart(separate(TOUCHING > 0, np.zeros((96, 96), np.float32), 20, contrast))
    with pytest.raises(ValueError, match=r"\(96, 96\) and distance \(48, 48\)"):
        apart(separate(TOUCHING > 0, np.zeros((48, 48), np.float32), 20))

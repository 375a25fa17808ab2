"""Touching objects told apart by the distance to their rims, and what becomes of regions that are none."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from skylight.model.evaluation.metrics import InstanceScores
from skylight.model.masks.bitmask import components
from skylight.model.masks.instance_map import distance_targets, instance_map, separate, touching
from tests.support.shapes import apart


def disc(y: float, x: float, radius: float, size: tuple[int, int] = (96, 96)) -> NDArray[np.bool_]:
    """The pixels within `radius` of y, x."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    return np.hypot(rows - y, columns - x) <= radius


def enlarged(cells: NDArray[np.float32], scale: int) -> NDArray[np.float32]:
    """A map of cells at the image's size, between them by straight lines, as the decoder's answers are."""
    size = cells.shape[0] * scale, cells.shape[1] * scale
    at = [(np.arange(n) + 0.5) / scale - 0.5 for n in size]
    grid = np.meshgrid(*at, indexing="ij")
    found: NDArray[np.float32] = ndimage.map_coordinates(cells, grid, order=1, mode="nearest").astype(np.float32)
    return found


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


def grains(size: tuple[int, int], pitch: int, seed: int = 0) -> NDArray[np.uint16]:
    """Round grains on a shaken lattice, of about 0.5 pitch radius: many touch."""
    rng = np.random.default_rng(seed)
    places = [(y, x) for y in range(pitch, size[0] - pitch, pitch) for x in range(pitch, size[1] - pitch, pitch)]
    out = np.zeros(size, np.uint16)
    for k, (y, x) in enumerate(places, 1):
        dy, dx = rng.uniform(-0.1, 0.1, 2) * pitch
        window = (slice(y - pitch, y + pitch), slice(x - pitch, x + pitch))
        out[window][disc(pitch + dy, pitch + dx, rng.uniform(0.42, 0.52) * pitch, (2 * pitch, 2 * pitch))] = k
    return out


def test_distances_of_hundreds_of_nuclei_are_quick() -> None:
    nuclei = grains((520, 696), 29)
    assert nuclei.max() > 350
    started = time.process_time()
    distance_targets(nuclei, 96, 128)
    assert time.process_time() - started < 1  # 0.04 s here


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


def test_objects_touch_within_reach_of_each_other() -> None:
    instances = np.zeros((64, 64), np.uint16)
    instances[10:20, 10:20], instances[10:20, 22:32], instances[40:50, 40:50] = 1, 2, 9
    assert touching(instances, 1) == (3, 0)  # 2 px lie between the first two
    assert touching(instances, 2) == (3, 0) and touching(instances, 3) == (3, 2)
    instances[9, 9] = 9
    assert touching(instances, 1) == (3, 2)  # the first and the last, by a corner
    instances[:] = 0
    assert touching(instances, 1) == (0, 0)


def test_regions_become_objects_in_drawing_order() -> None:
    assert TOUCHING.dtype == np.uint16
    np.testing.assert_array_equal(TOUCHING == 2, PAIR[1])
    np.testing.assert_array_equal(TOUCHING == 1, PAIR[0] & ~PAIR[1])


def test_a_region_in_pieces_is_a_class_of_things_and_leaves_0() -> None:
    scattered = disc(20, 20, 9) | disc(20, 60, 9)
    speckled = disc(70, 50, 12)
    speckled[90, 90] = True  # a stroke's stray pixel, well under 10 %
    found = instance_map([disc(20, 20, 15), scattered, speckled])
    np.testing.assert_array_equal(found == 3, speckled)
    np.testing.assert_array_equal(found == 1, disc(20, 20, 15) & ~scattered)
    assert set(np.unique(found)) == {0, 1, 3}


def test_regions_may_come_one_at_a_time() -> None:
    np.testing.assert_array_equal(instance_map(mask for mask in PAIR), TOUCHING)
    assert instance_map(iter([]), (4, 7)).shape == (4, 7)


def test_pieces_that_meet_at_a_corner_are_one() -> None:
    corner = np.zeros((96, 96), bool)
    corner[10:20, 10:20] = corner[20:30, 20:30] = True
    assert (instance_map([corner]) == corner).all()


def test_empty_regions_and_no_regions_are_nothing() -> None:
    assert set(np.unique(instance_map([np.zeros((96, 96), bool), disc(20, 20, 5)]))) == {0, 2}
    assert instance_map([], (4, 7)).shape == (4, 7) and not instance_map([], (4, 7)).any()


def test_regions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        instance_map([])
    with pytest.raises(ValueError, match=r"\(96, 96\) and \(5, 5\)"):
        instance_map([disc(3, 3, 2), np.ones((5, 5), bool)])
    with pytest.raises(ValueError, match="65535"):
        instance_map([np.zeros((1, 1), bool)] * 65536)

"""Procedural scenes: the same from the same seed, with truth masks that fit what is drawn."""

import numpy as np
import pytest
from scipy import ndimage

from skylight.model.datasets.synthetic_scenes import KINDS, OBJECT_COUNTS, OBJECT_RADII, Scene, fractal_noise, scene

SIZE = 256  # px; half the default, a quarter of the time


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene(seed, SIZE) for seed in range(16)]


def test_the_same_seed_gives_the_same_scene(scenes: list[Scene]) -> None:
    again = scene(3, SIZE)
    np.testing.assert_array_equal(again.image, scenes[3].image)
    assert [item.kind for item in again.objects] == [item.kind for item in scenes[3].objects]
    for one, other in zip(again.objects, scenes[3].objects, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)


def test_other_seeds_give_other_scenes(scenes: list[Scene]) -> None:
    assert len({made.image.tobytes() for made in scenes}) == len(scenes)
    assert len({made.truth().tobytes() for made in scenes}) == len(scenes)


@pytest.mark.parametrize("size", [128, 512])
def test_a_scene_has_the_size_asked_for(size: int) -> None:
    made = scene(0, size)
    assert made.image.shape == (size, size, 3) and made.image.dtype == np.uint8
    assert all(item.mask.shape == (size, size) and item.mask.dtype == bool for item in made.objects)


def test_a_scene_holds_no_more_objects_of_a_kind_than_announced_and_at_least_one_pit(scenes: list[Scene]) -> None:
    for made in scenes:
        counts = {kind: sum(item.kind == kind for item in made.objects) for kind in KINDS}
        assert all(counts[kind] <= OBJECT_COUNTS[kind][1] for kind in KINDS)
        assert counts["pit"] >= OBJECT_COUNTS["pit"][0]


def test_no_two_objects_overlap(scenes: list[Scene]) -> None:
    for made in scenes:
        assert np.sum([item.mask for item in made.objects], axis=0).max() == 1


def test_masks_are_as_large_as_their_kind_allows(scenes: list[Scene]) -> None:
    for item in (item for made in scenes for item in made.objects):
        small, large = (radius * SIZE for radius in OBJECT_RADII[item.kind])
        area = np.count_nonzero(item.mask)
        assert 0 < area < np.pi * (1.1 * large) ** 2
        # A centre lies 0.7 radii or more from the picture's edge, which cuts away a sixth at most, twice in a corner.
        assert area > 0.35 * np.pi * small**2 - 4


def test_pits_are_darker_than_their_surroundings_and_craters_are_not(scenes: list[Scene]) -> None:
    contrast: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for made in scenes:
        gray = made.image.mean(2)
        for item in made.objects:
            ring = ndimage.binary_dilation(item.mask, iterations=6) & ~ndimage.binary_dilation(item.mask, iterations=2)
            contrast[item.kind].append(float(gray[item.mask].mean() - gray[ring].mean()))
    assert np.mean(contrast["pit"]) < -25
    assert np.mean(np.array(contrast["pit"]) < 0) > 0.8
    assert abs(np.mean(contrast["crater"])) < 15


def test_the_truth_of_a_kind_is_the_union_of_its_masks(scenes: list[Scene]) -> None:
    made = scenes[0]
    for kind in KINDS:
        union = np.zeros((SIZE, SIZE), bool)
        for item in made.objects:
            union |= item.mask & (item.kind == kind)
        np.testing.assert_array_equal(made.truth(kind), union)
    np.testing.assert_array_equal(made.truth(), made.truth("pit"))
    assert made.truth("volcano").shape == (SIZE, SIZE) and not made.truth("volcano").any()


def test_fractal_noise_has_mean_0_and_deviation_1_and_is_smoother_with_a_steeper_slope() -> None:
    rough, smooth = (fractal_noise(np.random.default_rng(0), 128, slope) for slope in (0.5, 2.0))
    for noise in (rough, smooth):
        assert noise.shape == (128, 128) and noise.dtype == np.float32
        assert abs(noise.mean()) < 1e-3 and noise.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(np.diff(smooth)).mean() < 0.5 * np.abs(np.diff(rough)).mean()

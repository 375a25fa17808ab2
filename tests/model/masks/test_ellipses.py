"""Ellipses become masks."""

import math

import numpy as np
import pytest

from skylight.model.masks.ellipses import ellipse_mask


@pytest.mark.parametrize("rotation", [0, 37, 90, 180, -300])
@pytest.mark.parametrize("centre", [(50.0, 40.0), (50.5, 39.25), (2.0, 78.0)])
def test_the_pixels_whose_centre_is_inside_are_the_mask(centre: tuple[float, float], rotation: float) -> None:
    turn = math.radians(rotation)
    y, x = np.mgrid[:80, :100] + 0.5
    dx, dy = x - centre[0], y - centre[1]
    along, across = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
    expected = (along / 31) ** 2 + (across / 9.5) ** 2 <= 1
    np.testing.assert_array_equal(ellipse_mask(centre, (31, 9.5), rotation, 80, 100), expected)
    np.testing.assert_array_equal(ellipse_mask(centre, (-31, 9.5), rotation, 80, 100), expected)


def test_its_area_is_pi_times_the_radii_and_a_turn_by_a_quarter_swaps_them() -> None:
    mask = ellipse_mask((200, 200), (150, 60), 0, 400, 400)
    assert mask.sum() == pytest.approx(math.pi * 150 * 60, rel=0.001)
    assert (ellipse_mask((200, 200), (60, 150), 90, 400, 400) == mask).all()


@pytest.mark.parametrize("radii", [(0, 5), (5, 0), (0, 0)])
def test_one_without_a_radius_covers_nothing(radii: tuple[float, float]) -> None:
    assert not ellipse_mask((10, 10), radii, 0, 20, 20).any()


@pytest.mark.parametrize("centre", [(-100.0, 5.0), (5.0, 1e6), (1e6, -1e6)])
def test_one_beyond_the_image_covers_nothing_of_it(centre: tuple[float, float]) -> None:
    assert not ellipse_mask(centre, (9, 9), 20, 20, 20).any()

"""Polygons and ellipses as masks."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from skylight.model.masks.errors import MaskError
from skylight.model.masks.rasterize import ellipse_mask, polygon_mask

RNG = np.random.default_rng(20230513)


def test_a_rectangle_as_polygon_covers_exactly_its_pixels() -> None:
    expected = np.zeros((40, 50), bool)
    expected[4:12, 10:25] = True
    points = [[20, 10], [50, 10], [50, 30], [20, 30]]
    for turned in (points, points[::-1], points[2:] + points[:2]):
        np.testing.assert_array_equal(polygon_mask(turned, 40, 50), expected)


def centres_inside(points: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels from whose centre a ray to the right crosses an odd number of edges, one edge after the other."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), bool)
    corners = points / 100 * (width, height)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def test_polygons_agree_with_a_point_in_polygon_test_at_pixel_centres() -> None:
    for _ in range(60):
        height, width = RNG.integers(3, 70, 2)
        count = int(RNG.integers(3, 12))
        angle = np.sort(RNG.random(count)) * 2 * np.pi
        radius = RNG.random(count) * 60 + 3
        points = 50 + RNG.normal(0, 15, 2) + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        np.testing.assert_array_equal(polygon_mask(points, height, width), centres_inside(points, height, width))


def test_a_polygon_that_crosses_itself_is_filled_as_on_a_canvas() -> None:
    angle = np.arange(5) * 4 * np.pi / 5  # a pentagram: its middle is wound around twice
    mask = polygon_mask(np.stack([50 + 45 * np.cos(angle), 50 + 45 * np.sin(angle)], axis=1), 100, 100)
    assert mask[50, 50]
    assert ndimage.label(mask)[1] == 1


def test_polygons_that_share_an_edge_share_no_pixel_and_leave_none_out() -> None:
    corner, far = RNG.random(2) * 60 + 20, [[0, 0], [100, 0], [100, 100], [0, 100]]
    parts = [polygon_mask([corner, far[k], far[(k + 1) % 4]], 83, 97) for k in range(4)]
    np.testing.assert_array_equal(np.sum(parts, axis=0), 1)


def test_a_polygon_outside_the_image_or_without_area_is_empty() -> None:
    assert not polygon_mask([[120, 10], [140, 10], [130, 50]], 20, 30).any()
    assert not polygon_mask([[10, -40], [40, -10], [20, -5]], 20, 30).any()
    assert not polygon_mask([[10, 10], [90, 10], [50, 10]], 20, 30).any()
    assert polygon_mask([[-50, -50], [150, -50], [150, 150], [-50, 150]], 20, 30).all()


@pytest.mark.parametrize(
    "points",
    [[], [[1, 2], [3, 4]], [[1, 2, 3]] * 3, [[1, 2], [3]], "abc", [[1, 2], [3, float("nan")], [5, 6]], None],
)
def test_what_is_not_a_polygon_is_refused(points: object) -> None:
    with pytest.raises(MaskError):
        polygon_mask(points, 10, 10)  # type: ignore[arg-type]


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

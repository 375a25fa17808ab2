"""Polygons of masks: near, of few points, with their holes, and read back as the same mask."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import approximate_polygon

from skylight.model.datasets import synthetic_scenes
from skylight.model.evaluation.metrics import iou
from skylight.model.masks.components import components
from skylight.model.masks.contours import find_components, outlines
from skylight.model.masks.polygon_simplification import simplify
from skylight.model.masks.polygonize import COMPONENT_SHARE, MIN_IOU, TOLERANCE, bounding_box, polygons
from skylight.model.masks.rasterize import polygon_mask
from tests.support.shapes import apart

Mask = NDArray[np.bool_]
Ring = NDArray[np.float64]
Y, X = np.mgrid[:120, :160] + 0.5


def disc(x: float, y: float, radius: float) -> Mask:
    found: Mask = np.hypot(X - x, Y - y) < radius
    return found


def drawn(rings: list[Ring], shape: tuple[int, int] = (120, 160)) -> Mask:
    out = np.zeros(shape, bool)
    for ring in rings:
        out |= polygon_mask(ring * (100 / shape[1], 100 / shape[0]), *shape)
    return out


def along(ring: Ring, step: float = 0.05) -> Ring:
    """Points on a ring, at most `step` px apart."""
    parts = [
        a + (b - a) * np.linspace(0, 1, int(np.hypot(*(b - a)) / step) + 2)[:, None]
        for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True)
    ]
    return np.concatenate(parts)


def hausdorff(a: Ring, b: Ring) -> float:
    one, other = along(a), along(b)
    return float(max(cKDTree(one).query(other)[0].max(), cKDTree(other).query(one)[0].max()))


@pytest.mark.parametrize("radius", [4, 9, 20, 50])
def test_a_polygon_is_within_a_pixel_of_the_masks_outline(radius: float) -> None:
    mask = disc(80, 60, radius)
    (ring,), (outline,) = polygons(mask), outlines(mask)
    assert hausdorff(ring, outline) <= 1.0 + 0.025  # the points compared are 0.05 px apart
    assert iou(drawn([ring]), mask) >= MIN_IOU


def test_a_polygon_has_fewer_points_than_douglas_and_peucker_would_leave() -> None:
    ours = theirs = 0
    for seed in range(6):
        for each in synthetic_scenes.scene(seed).objects:
            ring = outlines(each.mask)[0] if each.mask.sum() > 100 else None
            if ring is not None:
                ours += len(simplify(ring, TOLERANCE))
                theirs += len(approximate_polygon(np.vstack([ring, ring[:1]]), TOLERANCE)) - 1
    assert ours <= 0.92 * theirs  # 0.89 was measured


def test_an_outline_encloses_just_the_mask() -> None:
    mask = np.random.default_rng(0).random((30, 40)) < 0.6
    for piece in apart(components(mask, 1)):
        found = sum(polygon_mask(ring * (100 / 40, 100 / 30), 30, 40).astype(int) for ring in outlines(piece)[1:])
        outer = polygon_mask(outlines(piece)[0] * (100 / 40, 100 / 30), 30, 40)
        np.testing.assert_array_equal(outer & (found == 0), piece)


def test_no_fewer_points_would_do() -> None:
    """Against every choice of points, on a small ring."""
    (ring,) = outlines(disc(80, 60, 5.4) | disc(86, 60, 3.1))
    found, points = simplify(ring, TOLERANCE), range(len(ring))
    too_far = {(a, b): _farthest(ring, a, b) > TOLERANCE for a in points for b in range(a + 1, a + len(ring))}
    for count in range(3, len(found)):
        for chosen in itertools.combinations(points, count):
            assert any(too_far[pair] for pair in zip(chosen, [*chosen[1:], chosen[0] + len(ring)], strict=True))


def _farthest(ring: Ring, start: int, end: int) -> float:
    """Of the points between two from the segment that joins these."""
    a, b = ring[start], ring[end % len(ring)]
    between = ring[np.arange(start, end + 1) % len(ring)] - a
    share = np.clip(between @ (b - a) / max(float((b - a) @ (b - a)), 1e-12), 0, 1)
    return float(np.hypot(*(between - share[:, None] * (b - a)).T).max())


def test_a_rectangle_needs_four_points() -> None:
    mask = (X > 20) & (X < 90) & (Y > 30) & (Y < 70)
    (ring,) = polygons(mask)
    assert len(ring) == 4
    np.testing.assert_array_equal(drawn([ring]), mask)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (1, 30), (3, 3), (120, 160)])
@pytest.mark.parametrize("corner", [(0, 0), (40, 60)])
def test_small_and_thin_things_stay_what_they_are(shape: tuple[int, int], corner: tuple[int, int]) -> None:
    mask = np.zeros((120, 160), bool)
    mask[corner[0] : corner[0] + shape[0], corner[1] : corner[1] + shape[1]] = True
    rings = polygons(mask)
    assert len(rings) == 1 and len(rings[0]) >= 3
    assert iou(drawn(rings), mask) >= MIN_IOU


def test_a_hole_is_cut_and_a_pinhole_is_filled() -> None:
    mask = disc(80, 60, 50) & ~disc(70, 50, 12) & ~disc(100, 70, 8) & ~disc(80, 90, 2)
    rings = polygons(mask)
    assert len(rings) == 1
    found = drawn(rings)
    assert not found[50, 70] and not found[70, 100]
    assert found[90, 80]
    assert iou(found, mask) > 0.96


def test_pieces_get_a_polygon_each_and_specks_none() -> None:
    big, small, speck = disc(40, 60, 30), disc(120, 60, 12), disc(150, 10, 3)
    assert small.sum() > COMPONENT_SHARE * big.sum() > speck.sum()
    rings = polygons(big | small | speck)
    assert len(rings) == 2
    assert iou(drawn(rings[:1]), big) > 0.95 and iou(drawn(rings[1:]), small) > 0.9


def test_parts_that_touch_by_a_corner_are_one_polygon() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:8, 2:8] = mask[8:14, 8:14] = True
    rings = polygons(mask)
    assert len(rings) == 1
    assert iou(drawn(rings, (20, 20)), mask) >= MIN_IOU


def test_nothing_has_no_polygon_and_no_box() -> None:
    assert polygons(np.zeros((5, 5), bool)) == []
    with pytest.raises(ValueError, match="empty"):
        bounding_box(np.zeros((5, 5), bool))


def test_the_box_is_around_the_pieces_without_specks() -> None:
    mask = disc(40, 60, 30) | disc(150, 10, 2)
    assert bounding_box(mask) == (10, 30, 70, 90)


def test_an_outline_of_ten_thousand_points_is_done_soon() -> None:
    y, x = np.mgrid[:1200, :1200] - 600
    angle = np.arctan2(y, x)
    mask = np.hypot(y, x) < 450 + 60 * np.sin(40 * angle) + 8 * np.sin(400 * angle)
    outline = outlines(mask)[0]
    found = simplify(outline, TOLERANCE)
    assert len(outline) > 5000 and len(found) < len(outline) / 3
    assert iou(drawn([found], mask.shape), mask) > 0.99


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(2, 40), st.floats(0.05, 0.95))
def test_any_mask_is_drawn_again_by_its_polygons(seed: int, height: int, width: int, density: float) -> None:
    """Noise: pieces, holes, thin parts and corners of every kind; only specks and pinholes may be lost."""
    mask = np.random.default_rng(seed).random((height, width)) < density
    rings = polygons(mask)
    assert bool(rings) == bool(mask.any())
    for ring in rings:
        assert len(ring) >= 3 and np.isfinite(ring).all()
        assert (ring >= 0).all() and (ring <= (width, height)).all()
    found = drawn(rings, (height, width))
    near = ndimage.binary_dilation(ndimage.binary_fill_holes(mask), np.ones((3, 3)), 2)
    assert not (found & ~near).any()
    if mask.any():
        low, high = np.concatenate(rings).min(axis=0), np.concatenate(rings).max(axis=0)
        x0, y0, x1, y1 = bounding_box(mask)
        assert (low >= (x0 - 1, y0 - 1)).all() and (high <= (x1 + 1, y1 + 1)).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30), st.floats(0.05, 0.95))
def test_a_piece_has_as_many_pixels_as_its_outlines_enclose(seed: int, height: int, width: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    found, expected = find_components(mask), apart(components(mask, 1))
    assert [piece.area for piece in found] == [int(each.sum()) for each in expected]
    for piece in found:
        drawn_again = sum(
            polygon_mask(ring * (100 / width, 100 / height), height, width).astype(int) * (-1 if i else 1)
            for i, ring in enumerate(piece.outlines())
        )
        assert int(np.sum(drawn_again)) == piece.area

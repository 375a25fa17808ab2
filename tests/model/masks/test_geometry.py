"""A mask's interior points."""

import numpy as np
import pytest
from numpy.typing import NDArray

from skylight.model.masks.geometry import interior_point


def rectangle(y0: int, x0: int, y1: int, x1: int, shape: tuple[int, int] = (60, 80)) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_a_central_click_is_at_the_deepest_point() -> None:
    mask = rectangle(10, 20, 31, 41) | rectangle(5, 0, 8, 80)  # a square of 21 px and a thin stripe
    assert interior_point(mask, np.random.default_rng(0), central=True) == (30, 20)


def test_the_picture_s_edge_counts_as_the_object_s_edge() -> None:
    assert interior_point(rectangle(0, 0, 11, 80), np.random.default_rng(0), central=True)[1] == 5


@pytest.mark.parametrize("mask", [rectangle(3, 70, 60, 80), rectangle(59, 79, 60, 80), rectangle(0, 0, 60, 80)])
def test_any_click_is_inside_its_mask(mask: NDArray[np.bool_]) -> None:
    rng = np.random.default_rng(1)
    clicks = [interior_point(mask, rng, central=False) for _ in range(50)]
    assert all(mask[int(y), int(x)] for x, y in clicks)
    assert len(set(clicks)) > min(25, mask.sum() / 2)


def test_clicks_that_are_not_central_prefer_deep_places() -> None:
    mask, rng = rectangle(0, 0, 60, 60), np.random.default_rng(2)
    clicks = np.array([interior_point(mask, rng, central=False) for _ in range(300)])
    depth = np.minimum(clicks, 59 - clicks).min(1)
    assert depth.mean() > 12  # 9.5 if every pixel were as likely, 14.5 for this pyramid

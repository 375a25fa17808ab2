"""Connected components, the biggest first."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from skylight.model.masks.components import components
from tests.support.shapes import apart


def drawing(*boxes: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    picture = Image.new("1", (60, 40))
    for box in boxes:
        ImageDraw.Draw(picture).rectangle(box, fill=1)
    return np.asarray(picture)


def test_components_come_apart_biggest_first() -> None:
    boxes = [(0, 0, 2, 2), (10, 10, 29, 29), (40, 5, 49, 9)]
    parts = apart(components(drawing(*boxes), min_area=1))
    assert [int(part.sum()) for part in parts] == [400, 50, 9]
    np.testing.assert_array_equal(parts[0], drawing(boxes[1]))
    np.testing.assert_array_equal(np.sum(parts, axis=0), drawing(*boxes))
    assert all(part.dtype == bool for part in parts)


def test_components_below_the_least_area_are_left_out() -> None:
    mask = drawing((0, 0, 2, 2), (40, 5, 49, 9))
    assert [len(apart(components(mask, area))) for area in (9, 10, 50, 51)] == [2, 1, 1, 0]
    assert apart(components(np.zeros((5, 5), bool), 0)) == []


def test_pixels_that_touch_by_a_corner_are_one_component() -> None:
    assert len(apart(components(np.eye(6, dtype=bool), 1))) == 1

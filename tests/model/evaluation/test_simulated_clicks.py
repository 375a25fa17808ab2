"""The clicks and boxes of a simulated annotator."""

import numpy as np
import pytest
from numpy.typing import NDArray

from skylight.model.evaluation.simulated_clicks import any_point, correction_click, loose_box


def rectangle(y0: int, x0: int, y1: int, x1: int, shape: tuple[int, int] = (60, 80)) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_a_click_anywhere_falls_on_every_pixel_alike() -> None:
    mask, rng = rectangle(0, 0, 60, 60) | rectangle(20, 75, 30, 80), np.random.default_rng(7)
    clicks = np.array([any_point(mask, rng) for _ in range(2000)]).astype(int)
    assert mask[clicks[:, 1], clicks[:, 0]].all()
    square = clicks[clicks[:, 0] < 60]
    assert np.minimum(square, 59 - square).min(1).mean() == pytest.approx(
        9.5, abs=0.7
    )  # 14.5 if deep ones are likelier
    assert len(square) / 2000 == pytest.approx(3600 / 3650, abs=0.01)
    assert any_point(rectangle(59, 79, 60, 80), rng) == (79, 59)


def test_a_loose_box_is_off_by_a_few_pixels_and_percent() -> None:
    mask, rng = rectangle(10, 20, 51, 71), np.random.default_rng(3)
    boxes = np.array([loose_box(mask, rng) for _ in range(500)])
    outside = (boxes - [20, 10, 70, 50]) * [-1, -1, 1, 1]  # > 0 where a side lies outside the object
    allowed = np.array([50, 40, 50, 40])
    assert (outside <= 0.08 * allowed + 3).all() and (outside >= -0.04 * allowed - 2).all()
    assert (outside.max(0) > 4).all() and (outside.min(0) < -2).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (40, 2), (3, 3)])
def test_a_loose_box_of_a_thin_object_is_never_inside_out(size: tuple[int, int]) -> None:
    mask, rng = rectangle(10, 10, 10 + size[0], 10 + size[1]), np.random.default_rng(4)
    for _ in range(200):
        x0, y0, x1, y1 = loose_box(mask, rng)
        assert x1 - x0 >= (size[1] - 1) / 2 and y1 - y0 >= (size[0] - 1) / 2


def test_a_correction_falls_into_the_largest_error_with_its_sign() -> None:
    rng = np.random.default_rng(5)
    truth = rectangle(10, 10, 40, 40)
    missed = truth & ~rectangle(10, 10, 20, 40)
    assert correction_click(missed | rectangle(50, 60, 55, 65), truth, rng) == (pytest.approx(25, abs=15), 14, True)
    too_much = truth | rectangle(0, 50, 60, 71)
    assert correction_click(too_much, truth, rng) == (60, pytest.approx(30, abs=20), False)


def test_every_correction_is_on_a_wrong_pixel() -> None:
    rng = np.random.default_rng(6)
    for _ in range(30):
        found, truth = (rng.random((20, 30)) < 0.3 for _ in range(2))
        click = correction_click(found, truth, rng, central=False)
        assert click is not None
        at = int(click[1]), int(click[0])
        assert found[at] != truth[at] and truth[at] == click[2]


def test_nothing_wrong_needs_no_correction() -> None:
    mask = rectangle(1, 2, 3, 4)
    assert correction_click(mask, mask.copy(), np.random.default_rng(0)) is None

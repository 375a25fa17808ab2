"""Prompts, and the part of an embedding that its image fills."""

import numpy as np
import pytest
from numpy.typing import NDArray

from skylight.model.sam.types import Embedding, Prompt


def test_a_prompt_is_made_of_points_and_a_box() -> None:
    prompt = Prompt.of([(1, 2, True), (3.5, 4, False)], box=(0, 1, 5, 6))
    assert prompt.points.tolist() == [[1, 2], [3.5, 4]] and prompt.points.dtype == np.float32
    assert prompt.positive.tolist() == [True, False] and prompt.positive.dtype == bool
    assert prompt.box is not None and prompt.box.tolist() == [0, 1, 5, 6] and prompt.box.dtype == np.float32
    assert Prompt.of(box=(0, 0, 1, 1)).points.shape == (0, 2)
    assert Prompt.of([(1, 2, True)]).box is None


@pytest.mark.parametrize(
    ("points", "positive", "box", "reason"),
    [
        (np.zeros((0, 2)), np.zeros(0, bool), None, "at least one point or a box"),
        (np.zeros((2, 2)), np.ones(1, bool), None, r"points \(N, 2\) with positive \(N,\)"),
        (np.zeros((1, 3)), np.ones(1, bool), None, r"points \(N, 2\)"),
        (np.zeros((1, 2)), np.ones(1, bool), np.zeros(3), r"a box \(4,\)"),
        (np.array([[1, np.nan]]), np.ones(1, bool), None, "finite"),
        (np.zeros((0, 2)), np.zeros(0, bool), np.array([0, 0, np.inf, 1]), "finite"),
    ],
)
def test_a_prompt_that_makes_no_sense_is_refused(
    points: NDArray[np.float64], positive: NDArray[np.bool_], box: NDArray[np.float64] | None, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        Prompt(points.astype(np.float32), positive, None if box is None else box.astype(np.float32))


@pytest.mark.parametrize(
    ("size", "extent"), [((100, 100), (32, 32)), ((50, 100), (16, 32)), ((100, 33), (32, 11)), ((1, 900), (1, 32))]
)
def test_the_extent_is_the_part_of_the_grid_that_the_image_fills(
    size: tuple[int, int], extent: tuple[int, int]
) -> None:
    embedding = Embedding(np.zeros((256, 32, 32), np.float16), size, np.zeros((256, 256, 3), np.uint8))
    assert embedding.extent(32) == extent

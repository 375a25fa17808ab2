"""Scaling to SAM's square against segment-anything's own."""

import numpy as np
import pytest

from skylight.model.sam.resize import scale_image, scale_points, scaled_size
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Prompt


@pytest.mark.parametrize("size", [(40, 60), (61, 33), (512, 512), (700, 1300), (1, 9)])
def test_it_is_what_segment_anything_does_to_the_last_bit(size: tuple[int, int]) -> None:
    from segment_anything.utils.transforms import ResizeLongestSide  # with it comes torchvision, for seconds

    rng = np.random.default_rng(0)
    theirs, side = ResizeLongestSide(512), 512
    image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    np.testing.assert_array_equal(scale_image(image, side), theirs.apply_image(image))
    points = rng.uniform(0, 50, (7, 2)).astype(np.float32)
    np.testing.assert_array_equal(scale_points(points, size, side), theirs.apply_coords(points, size))
    box = points[:2].reshape(1, 4)
    np.testing.assert_array_equal(
        scale_points(box.reshape(2, 2), size, side).reshape(1, 4), theirs.apply_boxes(box, size)
    )
    assert scaled_size(size, side) == theirs.get_preprocess_shape(*size, side)


@pytest.mark.parametrize("size", [(1, 1100), (5000, 2), (2, 5000), (1, 100_000)])
def test_a_narrow_picture_keeps_a_pixel(size: tuple[int, int], segmenter: Segmenter) -> None:
    assert min(scaled_size(size, 512)) == 1 and max(scaled_size(size, 512)) == 512
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    embedding = segmenter.embed(image)
    at = (size[1] / 2, size[0] / 2)
    for prompt in (Prompt.of([(*at, True)]), Prompt.of([], (0, 0, *size[::-1]))):
        found = segmenter.segment(embedding, prompt)
        assert found.masks.shape[1:] == size

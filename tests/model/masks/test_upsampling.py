"""A part of the image interpolated is the whole interpolated, there."""

import cv2
import numpy as np
import pytest

from skylight.model.masks.upsampling import BAND, upsample_mask


def whole(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(logits, size[::-1], interpolation=cv2.INTER_LINEAR)


def smooth(shape: tuple[int, int], seed: int, sigma: float = 5.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), sigma) * 30


SIZES = [(1024, 1024), (2048, 2048), (1500, 2000), (1001, 997), (300, 400), (77, 513), (1024, 512), (64, 64), (1, 3)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(512, 512), (384, 512), (512, 341), (1, 2)])
def test_it_is_opencv_s_interpolation(shape: tuple[int, int], size: tuple[int, int]) -> None:
    logits = smooth(shape, sum(size))
    found, expected = upsample_mask(logits, size), whole(logits, size)
    # Coordinates are rounded a little differently: what differs must lie at the very threshold.
    assert np.abs(expected[found != (expected > 0)]).max(initial=0) < 1e-3


@pytest.mark.parametrize("corner", [(0, 0), (0, 480), (480, 0), (480, 480), (200, 231)])
@pytest.mark.parametrize("size", [(2048, 2048), (1500, 2000), (600, 555)])
def test_a_small_object_is_found_wherever_it_lies(corner: tuple[int, int], size: tuple[int, int]) -> None:
    logits = np.full((512, 512), -4, np.float32)
    logits[corner[0] : corner[0] + 32, corner[1] : corner[1] + 32] = smooth((32, 32), 1) + 2
    found, expected = upsample_mask(logits, size), whole(logits, size)
    assert found.any()
    assert np.abs(expected[found != (expected > 0)]).max(initial=0) < 1e-3


def test_nothing_above_zero_is_an_empty_mask() -> None:
    assert not upsample_mask(np.full((8, 8), -1, np.float32), (100, 90)).any()


def test_a_large_image_is_interpolated_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    resize = cv2.resize

    def watched(*args: object, **kwargs: object) -> np.ndarray:
        made.append(resize(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(cv2, "resize", watched)
    assert upsample_mask(smooth((256, 256), 0), (4096, 4096)).any()
    assert max(each.size for each in made) < 2 * BAND

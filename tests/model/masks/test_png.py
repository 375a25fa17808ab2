"""Masks as PNG files, read by others."""

import base64
import io
import tracemalloc

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from skylight.model.masks import png
from skylight.model.masks.bitmask import DATA_URL, encode_png, encode_png_in
from skylight.model.masks.errors import MaskError

RNG = np.random.default_rng(20261130)


def picture_in(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix(DATA_URL))))


def alpha(url: str) -> NDArray[np.uint8]:
    return np.asarray(picture_in(url).convert("RGBA").getchannel("A"))


@pytest.fixture(params=[png.BLOCK, 100])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "BLOCK", request.param)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("density", [0, 0.1, 0.9, 1])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (33, 1), (20, 30), (97, 51)])
def test_a_mask_anywhere_in_a_picture_is_read_by_others(shape: tuple[int, int], density: float) -> None:
    mask = RNG.random(shape) < density
    np.testing.assert_array_equal(alpha(encode_png(mask)), 255 * mask)
    for top, left, below, right in ((0, 0, 0, 0), (7, 0, 0, 13), (0, 5, 90, 0), (31, 2, 3, 1)):
        whole = np.pad(mask, ((top, below), (left, right)))
        np.testing.assert_array_equal(alpha(encode_png_in(mask, top, left, whole.shape)), 255 * whole)


def test_opencv_reads_it_as_well() -> None:
    mask = np.zeros((1500, 1100), bool)  # more than one piece of zeros before and after
    mask[700:760, 500:560] = RNG.random((60, 60)) < 0.5
    file = np.frombuffer(base64.b64decode(encode_png(mask).removeprefix(DATA_URL)), np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(file, cv2.IMREAD_UNCHANGED)[..., 3], 255 * mask)


def test_a_picture_of_any_size_takes_no_memory_but_for_its_rows() -> None:
    tracemalloc.start()
    url = encode_png_in(np.ones((2, 3), bool), 29_000, 17, (30_000, 30_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert url.startswith(DATA_URL) and peak < 50e6  # its pixels have 900 MB


def test_a_mask_that_does_not_fit_is_refused() -> None:
    for top, left in ((-1, 0), (0, -1), (7, 0), (0, 7)):
        with pytest.raises(MaskError, match="does not fit"):
            encode_png_in(np.ones((4, 4), bool), top, left, (10, 10))
    with pytest.raises(MaskError):
        encode_png(np.ones((0, 4), bool))

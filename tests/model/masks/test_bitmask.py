"""Label Studio's bitmasks, written and read."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from skylight.model.masks.bitmask import decode_png, encode_png
from skylight.model.masks.errors import MaskError

CAPTURES = Path(__file__).parents[2] / "captures"


RNG = np.random.default_rng(20230513)


def url_of(picture: Image.Image, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (257, 130)])
def test_a_bitmask_comes_back_as_it_went(shape: tuple[int, int]) -> None:
    for density in (0.0, 0.4, 1.0):
        mask = RNG.random(shape) < density
        np.testing.assert_array_equal(decode_png(encode_png(mask)), mask)


def test_a_bitmask_is_black_on_a_transparent_background() -> None:
    mask = RNG.random((20, 30)) < 0.5
    head, _, body = encode_png(mask).partition(",")
    picture = Image.open(io.BytesIO(base64.b64decode(body)))
    rgba = np.asarray(picture)
    assert (head, picture.format, picture.mode, picture.size) == (
        "data:image/png;base64",
        "PNG",
        "RGBA",
        (30, 20),
    )
    assert not rgba[..., :3].any()
    np.testing.assert_array_equal(rgba[..., 3], mask * 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "1", "RGB", "P"])
def test_bitmasks_of_every_kind_are_read(mode: str) -> None:
    values = RNG.integers(0, 256, (13, 17)).astype(np.uint8)
    values[0, :3] = 0, 127, 128
    if mode in ("RGBA", "LA"):
        picture = Image.new("L", (17, 13), 90).convert(mode)
        picture.putalpha(Image.fromarray(values))
    elif mode == "P":
        picture = Image.fromarray(values).convert("P")
    elif mode == "1":
        picture = Image.fromarray(values > 127)
    else:
        picture = Image.fromarray(values).convert(mode)
    assert picture.mode == mode
    np.testing.assert_array_equal(decode_png(url_of(picture)), values > 127)


def test_a_palette_with_transparency_is_read_by_its_transparency() -> None:
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    picture.putpalette([255, 255, 255, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(
        decode_png(url_of(picture, transparency=bytes([0, 255, 100]))), [[False, True, False]]
    )


def test_recorded_bitmasks_are_the_disc_that_was_drawn() -> None:
    result = json.loads((CAPTURES / "25_webhook_ANNOTATION_CREATED_all_tags.json").read_text())["body"]["annotation"]
    regions = {region["id"]: region for region in result["result"]}
    for name in ("bitm1", "bitmG"):  # RGBA, and greyscale
        mask = decode_png(regions[name]["value"]["imageDataURL"])
        assert mask.shape == (534, 800)
        assert ndimage.label(mask)[1] == 1
        assert 0.005 < mask.mean() < 0.2


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://127.0.0.1/mask.png",
        "data:image/jpeg;base64,AAAA",
        "data:image/png;base64,***",
        "data:image/png;base64,",
        encode_png(np.ones((50, 50), bool))[:90],
    ],
)
def test_what_is_not_a_bitmask_is_refused(url: str) -> None:
    with pytest.raises(MaskError):
        decode_png(url)


def test_a_bitmask_with_too_many_pixels_is_refused() -> None:
    url = encode_png(np.ones((11, 10), bool))
    assert decode_png(url, max_pixels=110).all()
    with pytest.raises(MaskError, match="10 x 11"):
        decode_png(url, max_pixels=109)

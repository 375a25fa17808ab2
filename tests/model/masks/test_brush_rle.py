import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from skylight.model.masks.brush_rle import decode_rle, encode_rle
from skylight.model.masks.errors import MaskError
from tests.support.sdk_brush import brush

CAPTURES = Path(__file__).parents[2] / "captures"
RNG = np.random.default_rng(20230513)


def disc(height: int, width: int, radius: float) -> NDArray[np.bool_]:
    y, x = np.mgrid[:height, :width]
    return np.hypot(y - height / 2, x - width / 2) < radius


def editor_rle(pixels: NDArray[np.uint8]) -> list[int]:
    """What the editor writes by thi.ng's rle-pack: single bytes in literal runs, others in repeat runs."""
    words = [int(x) for x in pixels.ravel()]
    bits = io.StringIO()
    bits.write(f"{len(words):032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}")

    def code(repeat: int, count: int, values: list[int]) -> None:
        index = next(k for k, size in enumerate((3, 4, 8, 16)) if count <= 1 << size)
        bits.write(f"{repeat}{index:02b}{count - 1:0{(3, 4, 8, 16)[index]}b}" + "".join(f"{v:08b}" for v in values))

    literal: list[int] = []
    start = 0
    while start < len(words):
        end = start
        while end < len(words) and words[end] == words[start] and end - start < 1 << 16:
            end += 1
        last_alone = start == len(words) - 1 and not literal
        if end - start == 1 and not last_alone:
            literal.append(words[start])
        if literal and (end - start > 1 or len(literal) == 1 << 16 or end == len(words)):
            code(0, len(literal), literal)
            literal = []
        if end - start > 1 or last_alone:
            code(1, end - start, [words[start]])
        start = end
    stream = bits.getvalue()
    stream += "0" * (-len(stream) % 8)
    return [int(stream[k : k + 8], 2) for k in range(0, len(stream), 8)]


def stroke(height: int, width: int) -> NDArray[np.uint8]:
    """A black stroke as a canvas holds it, (H, W, 4) uint8: alpha falls off at the edge, colour is 0."""
    y, x = np.mgrid[:height, :width]
    distance = np.abs((y - height / 2) * 0.8 - (x - width / 2) * 0.6)
    rgba = np.zeros((height, width, 4), np.uint8)
    rgba[..., 3] = np.rint(255 * np.clip(6.3 - distance, 0, 1))
    return rgba


MASKS = {
    "one clear pixel": np.zeros((1, 1), bool),
    "one opaque pixel": np.ones((1, 1), bool),
    "row": np.arange(17)[None] % 3 == 0,
    "column": np.arange(19)[:, None] % 2 == 0,
    "all clear, over one run of 65536": np.zeros((257, 255), bool),
    "all opaque, just two runs of 65536": np.ones((128, 256), bool),
    "all opaque, a last run of 4": np.ones((29, 565), bool),  # 16385 pixels
    "checkerboard": np.indices((61, 67)).sum(axis=0) % 2 == 0,
    "noise": RNG.random((256, 256)) < 0.5,
    "sparse": RNG.random((1024, 640)) < 0.001,
    "disc": disc(1024, 1024, 300.5),
    "disc that leaves the image": disc(333, 511, 240),
}


@pytest.mark.parametrize("name", MASKS)
def test_encode_gives_the_bytes_of_the_sdk(name: str) -> None:
    mask = MASKS[name]
    assert encode_rle(mask) == brush.mask2rle(mask.astype(np.uint8) * 255)


def test_encode_gives_the_bytes_of_the_sdk_on_masks_of_all_shapes_and_densities() -> None:
    lengths = set()
    for _ in range(150):
        shape = RNG.integers(1, 60, 2)
        mask = RNG.random(shape) < RNG.choice([0.003, 0.05, 0.5, 0.95, 0.999])
        rle = encode_rle(mask)
        assert rle == brush.mask2rle(mask.astype(np.uint8) * 255), mask.shape
        assert all(type(value) is int for value in rle[:10])
        lengths.add(len(rle) % 8)
    assert len(lengths) > 4  # several ways of ending a byte were met


def test_a_view_that_is_not_contiguous_is_encoded_in_reading_order() -> None:
    mask = RNG.random((40, 60)) < 0.3
    assert encode_rle(mask.T[::2, ::-1]) == encode_rle(np.ascontiguousarray(mask.T[::2, ::-1]))


@pytest.mark.parametrize("name", MASKS)
def test_decode_gives_the_mask_back(name: str) -> None:
    mask = MASKS[name]
    alpha = decode_rle(encode_rle(mask), *mask.shape)
    assert alpha.dtype == np.uint8
    np.testing.assert_array_equal(alpha, mask * np.uint8(255))


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 96), (301, 257)])
def test_decode_reads_anti_aliased_strokes_with_literal_runs(shape: tuple[int, int]) -> None:
    rgba = stroke(*shape)
    rle = editor_rle(rgba)
    np.testing.assert_array_equal(brush.decode_rle(rle).reshape(rgba.shape), rgba)  # the SDK agrees on the stream
    np.testing.assert_array_equal(decode_rle(rle, *shape), rgba[..., 3])


def test_decode_reads_any_mix_of_literal_and_repeat_runs() -> None:
    for _ in range(40):
        height, width = RNG.integers(1, 30, 2)
        rgba = RNG.integers(0, RNG.choice([2, 4, 256]), (height, width, 4)).astype(np.uint8)
        rgba[RNG.random((height, width)) < RNG.random()] = 0
        rle = editor_rle(rgba)
        np.testing.assert_array_equal(brush.decode_rle(rle).reshape(rgba.shape), rgba)
        np.testing.assert_array_equal(decode_rle(rle, height, width), rgba[..., 3])


def test_decode_reads_a_literal_run_of_the_greatest_length() -> None:
    pixels = np.arange(200 * 200 * 4).reshape(200, 200, 4) % 251
    rle = editor_rle(pixels.astype(np.uint8))
    np.testing.assert_array_equal(decode_rle(rle, 200, 200), pixels[..., 3])


def test_decode_agrees_with_the_sdk_on_recorded_regions() -> None:
    seen = 0
    for path in sorted(CAPTURES.glob("2[235]_*.json")):
        for region in json.loads(path.read_text())["body"]["annotation"]["result"]:
            if region["type"] == "brushlabels":
                height, width = region["original_height"], region["original_width"]
                expected = brush.decode_rle(region["value"]["rle"]).reshape(height, width, 4)[..., 3]
                alpha = decode_rle(region["value"]["rle"], height, width)
                np.testing.assert_array_equal(alpha, expected)
                assert 0.01 < (alpha > 127).mean() < 0.5
                seen += 1
    assert seen == 4


@pytest.mark.parametrize(("height", "width"), [(31, 20), (20, 31), (30, 21), (0, 600), (-30, -20)])
def test_decode_refuses_another_size(height: int, width: int) -> None:
    rle = encode_rle(disc(30, 20, 8))
    with pytest.raises(MaskError, match=re.escape(f"{width} x {height}")):
        decode_rle(rle, height, width)


def test_decode_refuses_every_truncation_that_loses_a_code() -> None:
    for rle in (encode_rle(disc(30, 20, 8)), editor_rle(stroke(30, 20))):
        for length in range(len(rle) - 1):  # the last byte may be padding
            with pytest.raises(MaskError, match="truncated|damaged|empty"):
                decode_rle(rle[:length], 30, 20)


def test_decode_of_damaged_bytes_gives_a_mask_or_a_mask_error() -> None:
    good = np.array(editor_rle(stroke(30, 20)))
    refused = 0
    for _ in range(300):
        rle = good.copy()
        rle[RNG.integers(0, len(rle), 3)] = RNG.integers(0, 256, 3)
        try:
            assert decode_rle(rle.tolist(), 30, 20).shape == (30, 20)
        except MaskError:
            refused += 1
    assert refused > 100


def test_decode_refuses_a_run_over_the_end() -> None:
    rle = np.array(encode_rle(np.zeros((100, 100), bool)))
    rle[3] -= 4  # the header then says one pixel less than the only run has
    with pytest.raises(MaskError, match="damaged"):
        decode_rle(rle.tolist(), 9999, 1)


@pytest.mark.parametrize("rle", [None, "abc", [1.5] * 20, [256] * 20, [-1] * 20, [[1, 2], [3]], [[1, 2]], [2**80], {}])
def test_decode_refuses_what_is_not_a_list_of_bytes(rle: object) -> None:
    with pytest.raises(MaskError):
        decode_rle(rle, 1, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("mask", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 1), bool), np.zeros((0, 4), bool)])
def test_encode_refuses_what_is_not_a_mask(mask: NDArray[np.bool_]) -> None:
    with pytest.raises(MaskError):
        encode_rle(mask)

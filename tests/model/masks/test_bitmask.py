import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from skylight.model.masks.bitmask import MaskError, components, decode_png, encode_png, polygon_mask
from tests.support.shapes import apart

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


def test_a_rectangle_as_polygon_covers_exactly_its_pixels() -> None:
    expected = np.zeros((40, 50), bool)
    expected[4:12, 10:25] = True
    points = [[20, 10], [50, 10], [50, 30], [20, 30]]
    for turned in (points, points[::-1], points[2:] + points[:2]):
        np.testing.assert_array_equal(polygon_mask(turned, 40, 50), expected)


def centres_inside(points: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels from whose centre a ray to the right crosses an odd number of edges, one edge after the other."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), bool)
    corners = points / 100 * (width, height)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def test_polygons_agree_with_a_point_in_polygon_test_at_pixel_centres() -> None:
    for _ in range(60):
        height, width = RNG.integers(3, 70, 2)
        count = int(RNG.integers(3, 12))
        angle = np.sort(RNG.random(count)) * 2 * np.pi
        radius = RNG.random(count) * 60 + 3
        points = 50 + RNG.normal(0, 15, 2) + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        np.testing.assert_array_equal(polygon_mask(points, height, width), centres_inside(points, height, width))


def test_a_polygon_that_crosses_itself_is_filled_as_on_a_canvas() -> None:
    angle = np.arange(5) * 4 * np.pi / 5  # a pentagram: its middle is wound around twice
    mask = polygon_mask(np.stack([50 + 45 * np.cos(angle), 50 + 45 * np.sin(angle)], axis=1), 100, 100)
    assert mask[50, 50]
    assert ndimage.label(mask)[1] == 1


def test_polygons_that_share_an_edge_share_no_pixel_and_leave_none_out() -> None:
    corner, far = RNG.random(2) * 60 + 20, [[0, 0], [100, 0], [100, 100], [0, 100]]
    parts = [polygon_mask([corner, far[k], far[(k + 1) % 4]], 83, 97) for k in range(4)]
    np.testing.assert_array_equal(np.sum(parts, axis=0), 1)


def test_a_polygon_outside_the_image_or_without_area_is_empty() -> None:
    assert not polygon_mask([[120, 10], [140, 10], [130, 50]], 20, 30).any()
    assert not polygon_mask([[10, -40], [40, -10], [20, -5]], 20, 30).any()
    assert not polygon_mask([[10, 10], [90, 10], [50, 10]], 20, 30).any()
    assert polygon_mask([[-50, -50], [150, -50], [150, 150], [-50, 150]], 20, 30).all()


@pytest.mark.parametrize(
    "points",
    [[], [[1, 2], [3, 4]], [[1, 2, 3]] * 3, [[1, 2], [3]], "abc", [[1, 2], [3, float("nan")], [5, 6]], None],
)
def test_what_is_not_a_polygon_is_refused(points: object) -> None:
    with pytest.raises(MaskError):
        polygon_mask(points, 10, 10)  # type: ignore[arg-type]


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

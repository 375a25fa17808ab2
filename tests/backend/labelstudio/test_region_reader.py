"""Masks of regions of every type, through the label map that holds one."""

import math
from typing import Any

import numpy as np
import pytest

from skylight.backend.errors import BadRequest
from skylight.backend.labelstudio.label_config import Labeling, parse_config
from skylight.backend.labelstudio.label_map import label_map
from skylight.model.masks.bitmask import encode_png
from skylight.model.masks.brush_rle import encode_rle
from tests.support.editor import CONFIG, RNG, SIZE, box, brushed, item, polygon, vector
from tests.support.sdk_brush import brush


@pytest.fixture
def labeling() -> Labeling:
    return parse_config(CONFIG)


def test_anti_aliased_alpha_is_cut_at_half(labeling: Labeling) -> None:
    alpha = RNG.integers(0, 256, SIZE).astype(np.uint8)
    region = item("brushlabels", "brush", {"format": "rle", "rle": brush.mask2rle(alpha)})
    np.testing.assert_array_equal(label_map([region], labeling, SIZE).array, alpha > 127)


def test_a_mask_of_another_size_is_refused(labeling: Labeling) -> None:
    region = brushed(np.ones(SIZE, bool))
    with pytest.raises(BadRequest, match="drawn on 80 x 60 pixels, but the image has 60 x 80"):
        label_map([region], labeling, (80, 60))
    bitmask = item("bitmasklabels", "b", {"imageDataURL": encode_png(np.ones((60, 79), bool))})
    with pytest.raises(BadRequest, match="79 x 60"):
        label_map([bitmask], labeling, SIZE)


@pytest.mark.parametrize(
    "value",
    [{}, {"rle": None}, {"rle": [1, 2, 3]}, {"rle": encode_rle(np.ones((60, 79), bool))}, {"rle": "abc"}],
)
def test_a_damaged_mask_is_refused_by_the_id_of_its_region(value: dict[str, Any], labeling: Labeling) -> None:
    with pytest.raises(BadRequest, match="region 'r1'"):
        label_map([item("brushlabels", "brush", value)], labeling, SIZE)


def test_closed_vectors_are_masks_and_open_ones_are_not(labeling: Labeling) -> None:
    found = label_map([vector((0, 0), (50, 0), (50, 50), (0, 50))], labeling, SIZE)
    assert (found.array[:30, :40] == 1).all() and found.array.sum() == 30 * 40
    line = label_map([vector((0, 0), (50, 0), (50, 50), closed=False)], labeling, SIZE)
    assert (line.regions, line.ignored) == (0, ("region 'r1': an open line has no inside",))


def test_a_vectors_curves_are_followed(labeling: Labeling) -> None:
    reach = 4 / 3 * (math.sqrt(2) - 1)  # of the handles of a quarter circle
    corners = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    vertices = [
        {"x": 50 + 25 * x, "y": 50 + 100 / 3 * y, "isBezier": True}  # 20 px both
        | {
            f"controlPoint{n}": {"x": 50 + 25 * (x - s * reach * y), "y": 50 + 100 / 3 * (y + s * reach * x)}
            for n, s in ((1, -1), (2, 1))
        }
        for x, y in corners
    ]
    y, x = np.mgrid[:60, :80] + 0.5
    disc = np.hypot(x - 40, y - 30) < 20
    found = label_map([vector(*vertices)], labeling, SIZE)
    assert np.count_nonzero((found.array == 1) ^ disc) <= 16
    straight = label_map([vector(*({**each, "isBezier": False} for each in vertices))], labeling, SIZE)
    assert np.count_nonzero(straight.array) == pytest.approx(800, abs=45)  # the square on its corner


@pytest.mark.parametrize(
    "vertices",
    [[(0, 0), ("x", 3)], [(0, 0), (9, 9), ("x", 3)], [(0, 0), (9, 9), {"x": 1}], [(0, 0), (9, 9), (0, 10**400)]],
)
def test_a_damaged_vector_is_refused_by_its_id(vertices: list[Any], labeling: Labeling) -> None:
    with pytest.raises(BadRequest, match="region 'r1'"):
        label_map([vector(*vertices)], labeling, SIZE)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_region_drawn_on_a_turned_view_is_where_it_is_unturned(rotation: int, labeling: Labeling) -> None:
    mask = RNG.random(SIZE) < 0.3
    found = label_map([brushed(mask, image_rotation=rotation)], labeling, SIZE)
    np.testing.assert_array_equal(found.array, mask)


LENS = [
    {"x": 25, "y": 50, "isBezier": True, "controlPoint1": {"x": 25, "y": 20}, "controlPoint2": {"x": 25, "y": 80}},
    {"x": 75, "y": 50, "isBezier": True, "controlPoint1": {"x": 75, "y": 80}, "controlPoint2": {"x": 75, "y": 20}},
]


@pytest.mark.parametrize(
    "empty",
    [
        polygon(),
        polygon((10, 10)),
        polygon((10, 10), (60, 60)),
        item("polygonlabels", "p", {"closed": True}),
        item("polygonlabels", "p", {"points": None}),
        vector(),
        vector((10, 10)),
        vector((10, 10), (60, 60)),
        item("vectorlabels", "v", {"closed": True}),
        item("brushlabels", "brush", {"format": "rle", "rle": []}),
        item("bitmasklabels", "b", {"imageDataURL": ""}),
        polygon((10, 10), (60, 60), label="Cat"),
    ],
)
def test_a_region_without_a_shape_is_named_and_the_others_are_learned(
    empty: dict[str, Any], labeling: Labeling
) -> None:
    left = np.zeros(SIZE, bool)
    left[:, :40] = True
    found = label_map([empty | {"id": "slip"}, brushed(left)], labeling, SIZE)
    assert (found.array == left).all() and (found.instances == left).all() and found.regions == 1
    assert any(line.startswith("region 'slip' covers nothing: ") for line in found.ignored)
    assert label_map([empty], labeling, SIZE).regions == 0


def test_a_closed_vector_of_two_vertices_has_an_inside_if_it_is_curved(labeling: Labeling) -> None:
    found = label_map([vector(*LENS)], labeling, SIZE)
    assert found.regions == 1 and found.array[30, 40] == 1 and not found.array[:5].any()


def ellipse(x: float, y: float, across: float, down: float, rotation: float = 0, **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "radiusX": across, "radiusY": down, "rotation": rotation}
    return item("ellipselabels", more.pop("control", "ell"), value, **more)


@pytest.mark.parametrize("rotation", [0, 30, 90, 215, -45])
def test_an_ellipse_is_its_label_turned_around_its_centre_clockwise(rotation: float, labeling: Labeling) -> None:
    found = label_map([ellipse(50, 50, 30, 20, rotation, label="Object")], labeling, SIZE)
    turned = np.radians(rotation)
    y, x = np.mgrid[:60, :80] + 0.5
    along = (x - 40) * np.cos(turned) + (y - 30) * np.sin(turned)
    across = (y - 30) * np.cos(turned) - (x - 40) * np.sin(turned)
    expected = (along / 24) ** 2 + (across / 12) ** 2 <= 1
    np.testing.assert_array_equal(found.array, 2 * expected)
    assert (found.regions, found.ignored) == (1, ()) and (found.instances == expected).all()


@pytest.mark.parametrize("value", [{"x": 50, "y": 50}, {"x": 50, "y": 50, "radiusX": "a", "radiusY": 3}])
def test_a_damaged_ellipse_is_refused_by_its_id(value: dict[str, Any], labeling: Labeling) -> None:
    with pytest.raises(BadRequest, match="region 'r1' has radius"):
        label_map([item("ellipselabels", "ell", value)], labeling, SIZE)


def test_an_ellipse_partly_or_wholly_beyond_the_image_or_of_no_size_is_cut(labeling: Labeling) -> None:
    corner = label_map([ellipse(0, 0, 25, 25)], labeling, SIZE).array
    assert corner[0, 0] == 1 and np.flatnonzero(corner[0]).max() == 19 and np.flatnonzero(corner[:, 0]).max() == 14
    for empty in (ellipse(150, 50, 9, 9), ellipse(50, 50, 0, 9), ellipse(50, 50, 1e6, 0)):
        assert not label_map([empty], labeling, SIZE).array.any()
    assert label_map([ellipse(50, 50, 1e6, 1e6)], labeling, SIZE).array.all()


@pytest.mark.parametrize(
    "sizes",
    [
        {"original_width": 80.0, "original_height": 60.0},
        {"original_width": None, "original_height": None},
        {},
        {"original_width": 80},
        {"original_height": 60.0, "original_width": None},
        {"original_width": "80", "original_height": "60"},
    ],
)
@pytest.mark.parametrize(
    "region",
    [
        brushed(np.arange(80)[None] * np.ones((60, 1)) < 40),
        item("bitmasklabels", "b", {"imageDataURL": encode_png(np.arange(80)[None] * np.ones((60, 1)) < 40)}),
        polygon((0, 0), (50, 0), (50, 100), (0, 100)),
        vector((0, 0), (50, 0), (50, 100), (0, 100)),
        box(0, 0, 50, 100, control="plain"),
        ellipse(0, 50, 50, 50),
    ],
    ids=lambda region: str(region["type"]),
)
def test_sizes_may_be_missing_or_of_another_type_of_number(
    region: dict[str, Any], sizes: dict[str, Any], labeling: Labeling
) -> None:
    whole = label_map([region], labeling, SIZE)
    bare = {key: value for key, value in region.items() if not key.startswith("original_")}
    found = label_map([bare | sizes], labeling, SIZE)
    assert found.regions == 1 and found.array.any() and (found.array == whole.array).all()


def test_sizes_that_are_another_are_refused_and_a_brush_knows_its_own(labeling: Labeling) -> None:
    for sizes in ({"original_width": 80.5}, {"original_width": 0}, {"original_height": True}, {"original_width": "x"}):
        with pytest.raises(BadRequest, match="not whole pixels"):
            label_map([brushed(np.ones(SIZE, bool)) | sizes], labeling, SIZE)
    with pytest.raises(BadRequest, match="drawn on 81 x 60"):
        label_map([polygon((0, 0), (50, 0), (50, 100)) | {"original_width": 81.0}], labeling, SIZE)
    small = {k: v for k, v in brushed(np.ones((60, 79), bool)).items() if not k.startswith("original_")}
    with pytest.raises(BadRequest, match="region 'r1' cannot be read"):
        label_map([small], labeling, SIZE)

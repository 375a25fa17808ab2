import math
import weakref
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter import brush
from numpy.typing import NDArray

from backend import regions as regions_module
from backend.errors import BadRequest
from backend.labeling import Labeling, parse_config
from backend.regions import label_map
from model.masks import encode_png, encode_rle

from .editor import CONFIG, LABELS, RNG, SIZE, box, brushed, item, point, polygon, vector
from .studio import capture as body


@pytest.fixture
def labeling() -> Labeling:
    return parse_config(CONFIG)


def test_later_regions_cover_earlier_ones(labeling: Labeling) -> None:
    left, top = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    left[:, :40], top[:30] = True, True
    found = label_map([brushed(left), brushed(top, label="Object")], labeling, SIZE)
    np.testing.assert_array_equal(found.array, np.where(top, 2, np.where(left, 1, 0)))
    assert found.regions == 2


def test_single_objects_are_kept_beside_the_label_map_later_over_earlier(labeling: Labeling) -> None:
    left, top, apart = np.zeros((3, *SIZE), bool)
    left[:, :40], top[:30] = True, True
    apart[40:50, 50:55], apart[40:50, 70:75] = True, True  # two things in one region: which pixel is whose is unknown
    ellipse = item("ellipselabels", "ell", {"x": 50, "y": 50, "radiusX": 9, "radiusY": 9})
    regions = [brushed(left), ellipse, point(5, 5), brushed(top, label="Object"), brushed(apart)]
    found = label_map(regions, labeling, SIZE)
    assert found.instances.dtype == np.uint16
    np.testing.assert_array_equal(found.instances, np.where(top, 2, np.where(left, 1, 0)))
    assert (found.array[apart] == 1).all()


def test_the_masks_of_many_regions_are_not_in_memory_at_once(labeling: Labeling, monkeypatch: Any) -> None:
    living: list[weakref.ref[NDArray[np.bool_]]] = []
    most = [0]
    read = regions_module.read_mask

    def watched(region: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
        mask = read(region, size)
        living.append(weakref.ref(mask))
        most.append(sum(each() is not None for each in living))
        return mask

    monkeypatch.setattr(regions_module, "read_mask", watched)
    found = label_map([brushed(RNG.random(SIZE) < 0.9) for _ in range(20)], labeling, SIZE)
    assert found.regions == len(living) == 20
    assert max(most) <= 3


def test_polygons_and_plain_rectangles_are_masks(labeling: Labeling) -> None:
    square = polygon((0, 0), (50, 0), (50, 50), (0, 50))
    turned = box(50, 50, 25, 20, rotation=90, control="plain", label="Object")  # 20 x 12 px about 40, 30
    found = label_map([square, turned], labeling, SIZE)
    expected = np.zeros(SIZE, np.uint8)
    expected[:30, :40] = 1
    expected[30:50, 28:40] = 2
    np.testing.assert_array_equal(found.array, expected)


def test_prompts_are_not_masks_and_not_worth_a_remark(labeling: Labeling) -> None:
    found = label_map([point(50, 50), box(10, 10, 50, 50)], labeling, SIZE)
    assert (found.array.any(), found.regions, found.ignored) == (False, 0, ())


def test_what_is_left_out_is_reported(labeling: Labeling) -> None:
    everywhere = np.ones(SIZE, bool)
    ellipse = item("ellipselabels", "ell", {"x": 50, "y": 50, "radiusX": 9, "radiusY": 9}, id="e")
    regions = [
        ellipse,
        brushed(everywhere, label="Cat", id="c"),
    ]
    found = label_map(regions, labeling, SIZE)
    for line, words in zip(found.ignored, ("'e': ellipselabels", "'c': label 'Cat'"), strict=True):
        assert words in line


def test_pixels_of_a_label_that_is_gone_are_neither_that_label_nor_background(labeling: Labeling) -> None:
    left, all_ = np.zeros(SIZE, bool), np.ones(SIZE, bool)
    left[:, :9] = True
    known = labeling.labels[0]
    found = label_map([brushed(all_, label=known), brushed(left, label="Cat")], labeling, SIZE)
    assert (found.regions, found.parked) == (1, ("Cat",))
    assert (found.array == np.where(left, 255, 1)).all() and not found.instances[left].any()
    assert (label_map([brushed(left, label="Cat"), brushed(all_, label=known)], labeling, SIZE).array == 1).all()


def test_a_mask_on_an_image_tag_that_is_gone_is_refused(labeling: Labeling) -> None:
    with pytest.raises(BadRequest, match="Image tag 'other', which the configuration does not have"):
        label_map([brushed(np.ones(SIZE, bool), to_name="other")], labeling, SIZE)


def test_a_prompt_of_a_rectangle_control_that_was_renamed_is_still_no_mask(labeling: Labeling) -> None:
    value = {"x": 10, "y": 10, "width": 50, "height": 50}
    region = item("rectanglelabels", "renamed", value, label=labeling.labels[0])
    assert not label_map([region], labeling, SIZE).array.any()


def test_regions_of_another_image_of_the_task_are_left_alone(labeling: Labeling) -> None:
    regions = [brushed(np.ones(SIZE, bool), item_index=1), brushed(np.zeros(SIZE, bool), item_index=0)]
    assert not label_map(regions, labeling, SIZE).array.any()
    assert label_map(regions, labeling, SIZE, item_index=1).array.all()


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


def test_the_recorded_annotation_with_every_tag() -> None:
    recorded = body("25")
    labeling = parse_config(recorded["project"]["label_config"])
    assert (labeling.control, labeling.prompts) == ("brush", ("rect", "kp"))
    found = label_map(recorded["annotation"]["result"], labeling, (534, 800))
    assert found.regions == 6  # brush, two bitmasks, polygon, two vectors
    assert found.ignored == ("region 'ell1': ellipselabels is not a mask",)
    assert np.unique(found.array).tolist() == [0, 1, 2]
    polygon = found.array[30:170, 430:570] == 1  # 16 corners, 60 px around 500, 100
    assert polygon.sum() == pytest.approx(8 * 60**2 * math.sin(math.pi / 8), rel=0.01)


def test_the_recorded_annotation_of_the_editor_has_both_its_masks() -> None:
    recorded = body("22")
    labeling = parse_config(recorded["project"]["label_config"])
    found = label_map(recorded["annotation"]["result"], labeling, (534, 800))
    assert (found.regions, found.ignored) == (2, ())
    each = [label_map([region], labeling, (534, 800)).array for region in recorded["annotation"]["result"]]
    np.testing.assert_array_equal(found.array, np.maximum(*each))


def test_the_recorded_prompt_left_in_an_annotation_is_no_mask() -> None:
    recorded = body("23")
    labeling = parse_config(recorded["project"]["label_config"])
    found = label_map(recorded["annotation"]["result"], labeling, (256, 256))
    assert (found.regions, found.ignored) == (1, ())


def test_the_recorded_skipped_annotation_is_empty() -> None:
    recorded = body("26")
    labeling = parse_config(recorded["project"]["label_config"])
    found = label_map(recorded["annotation"]["result"], labeling, (10, 10))
    assert (found.regions, found.instances.shape, found.instances.any()) == (0, (10, 10), False)


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
    [[], [(0, 0), (9, 9)], [(0, 0), (9, 9), ("x", 3)], [(0, 0), (9, 9), {"x": 1}], [(0, 0), (9, 9), (0, 10**400)]],
)
def test_a_damaged_vector_is_refused_by_its_id(vertices: list[Any], labeling: Labeling) -> None:
    with pytest.raises(BadRequest, match="region 'r1'"):
        label_map([vector(*vertices)], labeling, SIZE)


def test_a_smart_rectangle_is_a_mask_where_its_label_has_nothing_else() -> None:
    rectangles = f'<View><Image name="image" value="$image"/><RectangleLabels name="rect" toName="image">{LABELS}'
    labeling = parse_config(rectangles + "</RectangleLabels></View>")
    assert label_map([box(0, 0, 50, 50)], labeling, SIZE).array.sum() == 30 * 40


def test_a_smart_rectangle_is_a_mask_where_it_is_preferred() -> None:
    config = CONFIG[: CONFIG.index('<RectangleLabels name="plain"')] + "</View>"
    assert label_map([box(0, 0, 50, 50)], parse_config(config, "rectangle"), SIZE).regions == 1
    assert label_map([box(0, 0, 50, 50)], parse_config(config), SIZE).regions == 0


def test_regions_of_several_controls_are_in_one_map() -> None:
    polygons = '<PolygonLabels name="p" toName="image"><Label value="Dune"/><Label value="dog"/></PolygonLabels></View>'
    labeling = parse_config(CONFIG.replace("</View>", polygons))
    assert labeling.labels == ("Dog", "Object", "Dune")
    left = np.zeros(SIZE, bool)
    left[:, :20] = True
    corners = (50, 0), (100, 0), (100, 100), (50, 100)
    found = label_map([brushed(left), polygon(*corners, label="Dune")], labeling, SIZE)
    assert np.unique(found.array[:, 40:]).tolist() == [3] and np.unique(found.array[:, :20]).tolist() == [1]
    assert label_map([polygon(*corners, label="dog")], labeling, SIZE).array.max() == 1


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_region_drawn_on_a_turned_view_is_where_it_is_unturned(rotation: int, labeling: Labeling) -> None:
    mask = RNG.random(SIZE) < 0.3
    found = label_map([brushed(mask, image_rotation=rotation)], labeling, SIZE)
    np.testing.assert_array_equal(found.array, mask)

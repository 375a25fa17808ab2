"""The label map of an annotation: which regions are in it, which are left out, and why."""

import math
import weakref
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skylight.backend.errors import BadRequest
from skylight.backend.labelstudio import label_map as label_map_module
from skylight.backend.labelstudio.label_config import Labeling, parse_config
from skylight.backend.labelstudio.label_map import label_map
from skylight.model.masks.brush_rle import encode_rle
from tests.support.editor import CONFIG, LABELS, RNG, SIZE, box, brushed, item, point, polygon
from tests.support.label_studio_double import capture as body


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
    choice = item("choices", "q", {"choices": ["good"]}, label="")
    regions = [brushed(left), choice, point(5, 5), brushed(top, label="Object"), brushed(apart)]
    found = label_map(regions, labeling, SIZE)
    assert found.instances.dtype == np.uint16
    np.testing.assert_array_equal(found.instances, np.where(top, 2, np.where(left, 1, 0)))
    assert (found.array[apart] == 1).all()


def test_the_masks_of_many_regions_are_not_in_memory_at_once(labeling: Labeling, monkeypatch: Any) -> None:
    living: list[weakref.ref[NDArray[np.bool_]]] = []
    most = [0]
    read = label_map_module.read_mask

    def watched(region: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
        mask = read(region, size)
        living.append(weakref.ref(mask))
        most.append(sum(each() is not None for each in living))
        return mask

    monkeypatch.setattr(label_map_module, "read_mask", watched)
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
    choice = item("choices", "q", {"choices": ["good"]}, label="", id="q")
    regions = [
        choice,
        brushed(everywhere, label="Cat", id="c"),
    ]
    found = label_map(regions, labeling, SIZE)
    for line, words in zip(found.ignored, ("'q': choices is not a mask", "'c': label 'Cat'"), strict=True):
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


def test_the_recorded_annotation_with_every_tag() -> None:
    recorded = body("25")
    labeling = parse_config(recorded["project"]["label_config"])
    assert (labeling.control, labeling.prompts) == ("brush", ("rect", "kp"))
    found = label_map(recorded["annotation"]["result"], labeling, (534, 800))
    assert found.regions == 7  # brush, two bitmasks, polygon, two vectors, ellipse
    assert found.ignored == ()
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


def ellipse(x: float, y: float, across: float, down: float, rotation: float = 0, **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "radiusX": across, "radiusY": down, "rotation": rotation}
    return item("ellipselabels", more.pop("control", "ell"), value, **more)


def test_an_ellipse_of_any_control_beside_other_masks_is_never_background(labeling: Labeling) -> None:
    left = np.zeros(SIZE, bool)
    left[:, :20] = True
    regions = [brushed(left), ellipse(75, 50, 20, 20, control="gone"), ellipse(50, 50, 10, 10, label="Cat")]
    found = label_map(regions, labeling, SIZE)
    assert (found.array[30, 60], found.array[30, 40], found.array[30, 10], found.array[0, 79]) == (1, 255, 1, 0)
    assert found.parked == ("Cat",)


SHAPES = {
    "ellipse": {"x": 75, "y": 50, "radiusX": 10, "radiusY": 10},
    "polygon": {"points": [[60, 10], [90, 10], [90, 90], [60, 90]]},
    "rectangle": {"x": 60, "y": 10, "width": 30, "height": 80},
    "vector": {"vertices": [{"x": 60, "y": 10}, {"x": 90, "y": 10}, {"x": 90, "y": 90}], "closed": True},
    "brush": {"format": "rle", "rle": encode_rle(np.arange(80)[None] * np.ones((60, 1)) > 50)},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_shape_without_a_label_is_unknown_where_nothing_else_is(kind: str, labeling: Labeling) -> None:
    top = np.zeros(SIZE, bool)
    top[:20] = True
    found = label_map([brushed(top), item(kind, "s", SHAPES[kind], label="", id="s")], labeling, SIZE)
    assert (found.array[top] == 1).all() and (found.array[~top] == 255).any() and not (found.array[~top] == 1).any()
    assert found.ignored == (f"region 's': {kind} has no label; its pixels are learned from neither way",)
    assert label_map([item(kind, "s", SHAPES[kind], label="")], labeling, SIZE).regions == 0

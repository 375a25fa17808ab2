import json
import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter import brush
from numpy.typing import NDArray

from backend import regions as regions_module
from backend.errors import BadRequest, ConfigError
from backend.regions import (
    Labeling,
    context_index,
    context_size,
    label_map,
    make_region,
    parse_config,
    read_prompt,
)
from model.masks import decode_png, encode_png, encode_rle

CAPTURES = Path(__file__).parent / "captures"
RNG = np.random.default_rng(20230513)
LABELS = '<Label value="Dog"/><Label value="Object"/>'
CONFIG = f"""<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image" smart="false">{LABELS}</BrushLabels>
<KeyPointLabels name="kp" toName="image" smart="true">{LABELS}</KeyPointLabels>
<RectangleLabels name="rect" toName="image" smart="true">{LABELS}</RectangleLabels>
<RectangleLabels name="plain" toName="image" smart="false">{LABELS}</RectangleLabels></View>"""
SIZE = (60, 80)


@pytest.fixture
def labeling() -> Labeling:
    return parse_config(CONFIG)


def body(name: str) -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads(next(CAPTURES.glob(f"{name}_*.json")).read_text())["body"]
    return recorded


def item(type: str, control: str, value: dict[str, Any], label: str = "Dog", **more: Any) -> dict[str, Any]:
    value = {**value, type: [label]} if label else value
    size = {"original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0}
    return {
        "id": "r1",
        "from_name": control,
        "to_name": "image",
        "type": type,
        "value": value,
        **size,
        **more,
    }


def point(x: float, y: float, **more: Any) -> dict[str, Any]:
    return item("keypointlabels", "kp", {"x": x, "y": y, "width": 0.3}, **more)


def box(x: float, y: float, width: float, height: float, rotation: float = 0, **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation}
    return item("rectanglelabels", more.pop("control", "rect"), value, **more)


def brushed(mask: NDArray[np.bool_], **more: Any) -> dict[str, Any]:
    return item("brushlabels", "brush", {"format": "rle", "rle": encode_rle(mask)}, **more)


def test_three_recorded_clicks_are_one_prompt() -> None:
    request = body("14")
    found = read_prompt(request["params"]["context"], parse_config(request["label_config"]))
    assert found is not None
    prompt, label = found
    assert label == "Dog"
    np.testing.assert_allclose(prompt.points, [[239.71, 374.15], [319.64, 426.85], [480.36, 107.15]], atol=0.01)
    assert prompt.points.dtype == np.float32
    assert prompt.positive.tolist() == [True, True, False]
    assert prompt.box is None


def test_a_recorded_rectangle_is_a_box() -> None:
    request = body("15")
    found = read_prompt(request["params"]["context"]["result"], parse_config(request["label_config"]))
    assert found is not None
    prompt, label = found
    assert label == "Dog"
    assert prompt.box is not None and prompt.box.dtype == np.float32
    np.testing.assert_allclose(prompt.box, [159.79, 213.42, 439.96, 480.42], atol=0.01)
    assert prompt.points.shape == (0, 2) and prompt.positive.shape == (0,)


def test_a_recorded_click_by_rest_is_read_and_its_size() -> None:
    request = body("05")
    assert context_size(request["params"]["context"]) == (534, 800)
    found = read_prompt(request["params"]["context"], parse_config(request["label_config"]))
    assert found is not None
    assert found[0].points.tolist() == [[320, 267]]


@pytest.mark.parametrize("context", [None, {}, {"result": None}, {"result": []}, []])
def test_an_empty_context_gives_no_prompt(context: object, labeling: Labeling) -> None:
    assert read_prompt(context, labeling) is None
    assert context_size(context) is None
    assert context_index(context) is None


def test_regions_that_are_no_prompts_are_passed_over(labeling: Labeling) -> None:
    strange = [brushed(np.ones(SIZE, bool)), {"type": "relation"}, {}, point(1, 1, to_name="other")]
    assert read_prompt({"result": strange}, labeling) is None
    found = read_prompt({"result": [point(50, 50), *strange]}, labeling)
    assert found is not None and found[0].points.tolist() == [[40, 30]]


def test_a_click_without_a_sign_is_positive(labeling: Labeling) -> None:
    signs = [{}, {"is_positive": True}, {"is_positive": False}, {"is_positive": None}]
    found = read_prompt([point(5, 5, **sign) for sign in signs], labeling)
    assert found is not None
    assert found[0].positive.tolist() == [True, True, False, True]


def test_points_and_the_last_rectangle_are_one_prompt_under_the_last_label(labeling: Labeling) -> None:
    found = read_prompt([box(0, 0, 10, 10), point(50, 50), box(25, 50, 50, 25, label="Object")], labeling)
    assert found is not None
    prompt, label = found
    assert (prompt.points.tolist(), label) == ([[40, 30]], "Object")
    assert prompt.box is not None and prompt.box.tolist() == [20, 30, 60, 45]


def test_a_rotated_rectangle_becomes_the_box_around_it(labeling: Labeling) -> None:
    found = read_prompt([box(50, 10, 25, 40, rotation=90)], labeling)  # 20 x 24 px, turned clockwise about 40, 6
    assert found is not None and found[0].box is not None
    np.testing.assert_allclose(found[0].box, [16, 6, 40, 26], atol=1e-4)


def test_any_rotated_rectangle_is_inside_its_box_and_touches_its_sides(labeling: Labeling) -> None:
    for _ in range(50):
        turn, (width, height) = RNG.uniform(-180, 360), RNG.uniform(5, 15, 2)
        found = read_prompt([box(50, 50, width, height, rotation=turn)], labeling)
        assert found is not None and found[0].box is not None
        wide, high, angle = width * 0.8, height * 0.6, math.radians(turn)
        sides = found[0].box[2:] - found[0].box[:2]
        cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
        np.testing.assert_allclose(sides, [wide * cos + high * sin, wide * sin + high * cos], rtol=1e-4)


def test_prompts_are_cut_to_the_image(labeling: Labeling) -> None:
    found = read_prompt([box(-10, 80, 60, 60), point(100, 100), point(-3, 120)], labeling)
    assert found is not None
    assert found[0].points.tolist() == [[79, 59], [0, 59]]
    assert found[0].box is not None and found[0].box.tolist() == [0, 48, 40, 60]


def test_only_the_image_clicked_last_counts(labeling: Labeling) -> None:
    clicks = [point(10, 10, item_index=0), point(50, 50, item_index=1), point(25, 25, item_index=1)]
    found = read_prompt(clicks, labeling)
    assert found is not None and found[0].points.tolist() == [[40, 30], [20, 15]]
    assert context_index(clicks) == 1


def test_the_label_is_found_in_labels_or_by_another_case(labeling: Labeling) -> None:
    plain = item("keypointlabels", "kp", {"x": 1, "y": 1, "labels": ["Object"]}, label="")
    for click in (plain, point(1, 1, label="OBJECT")):
        found = read_prompt([click], labeling)
        assert found is not None and found[1] == "Object"


def test_a_label_the_masks_cannot_have_is_named(labeling: Labeling) -> None:
    with pytest.raises(ConfigError, match="'brush' has no label 'Cat', only Dog, Object"):
        read_prompt([point(1, 1, label="Cat")], labeling)


@pytest.mark.parametrize(
    "context",
    [
        "text",
        {"result": "text"},
        [7],
        [point(1, 1, label="")],
        [{**point(1, 1), "value": None}],
        [point(float("nan"), 1)],
        [point(10**400, 1)],
        [point("1", 1)],  # type: ignore[arg-type]
        [box(1, 1, None, 1)],  # type: ignore[arg-type]
        [point(1, 1, original_width=None)],
        [point(1, 1, original_height=0)],
    ],
)
def test_a_context_that_cannot_be_read_is_the_callers_fault(context: object, labeling: Labeling) -> None:
    with pytest.raises(BadRequest) as error:
        read_prompt(context, labeling)
    assert error.value.status == 400


def test_a_brush_region_has_exactly_what_label_studio_keeps(labeling: Labeling) -> None:
    mask = RNG.random(SIZE) < 0.4
    region = make_region(labeling, mask, "Object", np.float32(0.876543), "abc")
    rle = brush.mask2rle(mask.astype(np.uint8) * 255)
    assert region == {
        "id": "abc",
        "from_name": "brush",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": 80,
        "original_height": 60,
        "image_rotation": 0,
        "score": 0.8765,
        "origin": "prediction",
        "value": {"format": "rle", "rle": rle, "brushlabels": ["Object"]},
    }
    assert json.loads(json.dumps(region)) == region
    assert make_region(labeling, mask, "Object", 1, "abc", item_index=2)["item_index"] == 2


def test_a_bitmask_region_holds_a_png() -> None:
    labeling = parse_config(CONFIG.replace("BrushLabels", "BitmaskLabels"))
    mask = RNG.random(SIZE) < 0.4
    region = make_region(labeling, mask, "Dog", 0.5, "abc")
    assert (region["type"], region["value"]["bitmasklabels"]) == ("bitmasklabels", ["Dog"])
    assert set(region["value"]) == {"imageDataURL", "bitmasklabels"}
    np.testing.assert_array_equal(decode_png(region["value"]["imageDataURL"]), mask)


@pytest.mark.parametrize(
    ("mask", "label", "score"),
    [
        (np.ones(SIZE, np.uint8), "Dog", 0.5),
        (np.ones((1, *SIZE), bool), "Dog", 0.5),
        (np.ones(SIZE, bool), "Cat", 0.5),
        (np.ones(SIZE, bool), "Dog", 1.01),
        (np.ones(SIZE, bool), "Dog", float("nan")),
    ],
)
def test_a_region_that_would_lock_the_annotation_is_not_made(
    mask: NDArray[np.bool_], label: str, score: float, labeling: Labeling
) -> None:
    with pytest.raises(ValueError):
        make_region(labeling, mask, label, score, "abc")


@pytest.mark.parametrize("output", ["BrushLabels", "BitmaskLabels"])
def test_a_region_made_is_read_back_as_its_label(output: str) -> None:
    labeling = parse_config(CONFIG.replace("BrushLabels", output))
    mask = RNG.random(SIZE) < 0.4
    found = label_map([make_region(labeling, mask, "Object", 0.5, "abc")], labeling, SIZE)
    np.testing.assert_array_equal(found.array, mask * np.uint8(2))
    assert (found.array.dtype, found.regions, found.ignored) == (np.uint8, 1, ())


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
    read = regions_module._read_mask

    def watched(region: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
        mask = read(region, size)
        living.append(weakref.ref(mask))
        most.append(sum(each() is not None for each in living))
        return mask

    monkeypatch.setattr(regions_module, "_read_mask", watched)
    found = label_map([brushed(RNG.random(SIZE) < 0.9) for _ in range(20)], labeling, SIZE)
    assert found.regions == len(living) == 20
    assert max(most) <= 3


def test_polygons_and_plain_rectangles_are_masks(labeling: Labeling) -> None:
    polygon = item("polygonlabels", "poly", {"points": [[0, 0], [50, 0], [50, 50], [0, 50]], "closed": True})
    turned = box(50, 50, 25, 20, rotation=90, control="plain", label="Object")  # 20 x 12 px about 40, 30
    found = label_map([polygon, turned], labeling, SIZE)
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
        brushed(everywhere, to_name="other", id="o"),
    ]
    found = label_map(regions, labeling, SIZE)
    assert (found.array.any(), found.regions) == (False, 0)
    for line, words in zip(found.ignored, ("'e': ellipselabels", "'c': label 'Cat'", "'o': .*'other'"), strict=True):
        assert words.split(".*")[0] in line and words.split(".*")[-1] in line


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
    assert found.regions == 4  # brush, two bitmasks, polygon
    assert len(found.ignored) == 3  # two vectors and the ellipse
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

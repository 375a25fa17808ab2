"""Prompts as Label Studio was recorded to send them, and as it might."""

import math

import numpy as np
import pytest

from skylight.backend.errors import BadRequest, ConfigError
from skylight.backend.labelstudio.label_config import Labeling, Output, parse_config
from skylight.backend.labelstudio.prompts import read_prompt
from tests.support.editor import CONFIG, LABELS, RNG, SIZE, box, brushed, item, point
from tests.support.label_studio_double import capture as body


@pytest.fixture
def labeling() -> Labeling:
    return parse_config(CONFIG)


def test_three_recorded_clicks_are_one_prompt() -> None:
    request = body("14")
    found = read_prompt(request["params"]["context"], parse_config(request["label_config"]))
    assert found is not None
    prompt, label = found.prompt, found.label
    assert label == "Dog"
    np.testing.assert_allclose(prompt.points, [[239.71, 374.15], [319.64, 426.85], [480.36, 107.15]], atol=0.01)
    assert prompt.points.dtype == np.float32
    assert prompt.positive.tolist() == [True, True, False]
    assert prompt.box is None


def test_a_recorded_rectangle_is_a_box() -> None:
    request = body("15")
    found = read_prompt(request["params"]["context"]["result"], parse_config(request["label_config"]))
    assert found is not None
    prompt, label = found.prompt, found.label
    assert label == "Dog"
    assert prompt.box is not None and prompt.box.dtype == np.float32
    np.testing.assert_allclose(prompt.box, [159.79, 213.42, 439.96, 480.42], atol=0.01)
    assert prompt.points.shape == (0, 2) and prompt.positive.shape == (0,)


def test_a_recorded_click_by_rest_is_read_and_its_size() -> None:
    request = body("05")
    found = read_prompt(request["params"]["context"], parse_config(request["label_config"]))
    assert found is not None
    assert (found.prompt.points.tolist(), found.size, found.index) == ([[320, 267]], (534, 800), None)


@pytest.mark.parametrize("context", [None, {}, {"result": None}, {"result": []}, []])
def test_an_empty_context_gives_no_prompt(context: object, labeling: Labeling) -> None:
    assert read_prompt(context, labeling) is None


def test_regions_that_are_no_prompts_are_passed_over(labeling: Labeling) -> None:
    strange = [brushed(np.ones(SIZE, bool)), {"type": "relation"}, {}, point(1, 1, to_name="other")]
    assert read_prompt({"result": strange}, labeling) is None
    found = read_prompt({"result": [point(50, 50), *strange]}, labeling)
    assert found is not None and found.prompt.points.tolist() == [[40, 30]]


def test_a_click_without_a_sign_is_positive(labeling: Labeling) -> None:
    signs = [{}, {"is_positive": True}, {"is_positive": False}, {"is_positive": None}]
    found = read_prompt([point(5, 5, **sign) for sign in signs], labeling)
    assert found is not None
    assert found.prompt.positive.tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("inside", "outside", "positive"),
    [
        ({"positive": False}, {}, False),
        ({"positive": True}, {}, True),
        ({"positive": 0}, {}, False),
        ({"positive": None}, {}, True),
        ({"positive": False}, {"is_positive": None}, False),
        ({"positive": False}, {"is_positive": True}, False),
        ({"positive": True}, {"is_positive": False}, False),
    ],
)
def test_the_sign_of_a_click_may_be_in_its_value(
    inside: dict[str, object], outside: dict[str, object], positive: bool, labeling: Labeling
) -> None:
    click = point(5, 5, **outside)
    click["value"].update(inside)
    found = read_prompt([point(1, 1), click], labeling)
    assert found is not None and found.prompt.positive.tolist() == [True, positive]
    opposite = read_prompt([point(5, 5, is_positive=not positive)], labeling)
    assert opposite is not None and opposite.points != found.points[1:]  # another prompt than that


def test_points_and_the_last_rectangle_are_one_prompt_under_the_last_label(labeling: Labeling) -> None:
    found = read_prompt([box(0, 0, 10, 10), point(50, 50), box(25, 50, 50, 25, label="Object")], labeling)
    assert found is not None
    prompt, label = found.prompt, found.label
    assert (prompt.points.tolist(), label) == ([[40, 30]], "Object")
    assert prompt.box is not None and prompt.box.tolist() == [20, 30, 60, 45]


def test_a_rotated_rectangle_becomes_the_box_around_it(labeling: Labeling) -> None:
    found = read_prompt([box(50, 10, 25, 40, rotation=90)], labeling)  # 20 x 24 px, turned clockwise about 40, 6
    assert found is not None and found.prompt.box is not None
    np.testing.assert_allclose(found.prompt.box, [16, 6, 40, 26], atol=1e-4)


def test_any_rotated_rectangle_is_inside_its_box_and_touches_its_sides(labeling: Labeling) -> None:
    for _ in range(50):
        turn, (width, height) = RNG.uniform(-180, 360), RNG.uniform(5, 15, 2)
        found = read_prompt([box(50, 50, width, height, rotation=turn)], labeling)
        assert found is not None and found.prompt.box is not None
        wide, high, angle = width * 0.8, height * 0.6, math.radians(turn)
        sides = found.prompt.box[2:] - found.prompt.box[:2]
        cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
        np.testing.assert_allclose(sides, [wide * cos + high * sin, wide * sin + high * cos], rtol=1e-4)


def test_prompts_are_cut_to_the_image(labeling: Labeling) -> None:
    found = read_prompt([box(-10, 80, 60, 60), point(100, 100), point(-3, 120)], labeling)
    assert found is not None
    assert found.prompt.points.tolist() == [[79, 59], [0, 59]]
    assert found.prompt.box is not None and found.prompt.box.tolist() == [0, 48, 40, 60]


def test_only_the_image_clicked_last_counts(labeling: Labeling) -> None:
    clicks = [point(10, 10, item_index=0), point(50, 50, item_index=1), point(25, 25, item_index=1)]
    found = read_prompt(clicks, labeling)
    assert found is not None and found.prompt.points.tolist() == [[40, 30], [20, 15]]
    assert found.index == 1


def test_the_label_is_found_in_labels_or_by_another_case(labeling: Labeling) -> None:
    plain = item("keypointlabels", "kp", {"x": 1, "y": 1, "labels": ["Object"]}, label="")
    for click in (plain, point(1, 1, label="OBJECT")):
        found = read_prompt([click], labeling)
        assert found is not None and found.label == "Object"


def test_a_label_the_masks_cannot_have_is_named(labeling: Labeling) -> None:
    with pytest.raises(ConfigError, match="no control for masks of 'image' has label 'Cat', only Dog, Object"):
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


def test_points_of_several_smart_controls_are_one_prompt() -> None:
    other = f'<KeyPointLabels name="kp2" toName="image" smart="true">{LABELS}</KeyPointLabels></View>'
    labeling = parse_config(CONFIG.replace("</View>", other))
    found = read_prompt([point(50, 50), point(25, 25, control="kp2", is_positive=False)], labeling)
    assert found is not None
    assert (found.prompt.points.tolist(), found.prompt.positive.tolist()) == ([[40, 30], [20, 15]], [True, False])


def test_the_answer_goes_to_the_control_that_has_the_label_for_the_image_clicked() -> None:
    labeling = parse_config(
        """<View><Image name="left" value="$l"/><Image name="right" value="$r"/>
        <BrushLabels name="b" toName="left"><Label value="Pit"/></BrushLabels>
        <PolygonLabels name="p" toName="right"><Label value="pit"/><Label value="Dune"/></PolygonLabels>
        <KeyPointLabels name="k" toName="right"><Label value="Pit"/></KeyPointLabels></View>"""
    )
    found = read_prompt(
        [point(9, 9, label="Pit", to_name="left"), point(50, 50, label="Pit", to_name="right")], labeling
    )
    assert found is not None
    assert (found.output.name, found.label, found.output.data_key) == ("p", "pit", "r")
    assert found.prompt.points.tolist() == [[40, 30]]
    with pytest.raises(ConfigError, match="'left' has label 'Dune'"):
        read_prompt([point(9, 9, label="Dune", to_name="left")], labeling)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_turned_view_moves_no_point_and_is_repeated(rotation: int, labeling: Labeling) -> None:
    found = read_prompt([point(50, 10, image_rotation=rotation)], labeling)
    assert found is not None
    assert (found.prompt.points.tolist(), found.size, found.rotation) == ([[40, 6]], SIZE, rotation)


def test_prompts_are_told_apart_by_id_place_and_sign(labeling: Labeling) -> None:
    clicks = [point(5, 5), point(5, 5, id="r2"), point(6, 5), point(5, 5, is_positive=False)]
    found = [read_prompt([each], labeling) for each in clicks]
    assert len({each.points for each in found if each is not None}) == 4
    drawn, moved = (read_prompt([box(x, 1, 9, 9)], labeling) for x in (1, 2))
    assert drawn is not None and moved is not None and drawn.box != moved.box


@pytest.mark.parametrize("value", [{}, {"x": 5}, {"y": 5}, {"x": None, "y": 5}, {"x": 5, "y": None, "width": 0.3}])
def test_a_point_without_coordinates_is_left_out_wherever_it_stands(
    value: dict[str, object], labeling: Labeling
) -> None:
    bad = {**item("keypointlabels", "kp", {}, label="Object"), "value": {**value, "keypointlabels": ["Object"]}}
    for context in ([bad, point(50, 50)], [point(50, 50), bad], [bad, point(50, 50), bad]):
        found = read_prompt({"result": context}, labeling)
        assert found is not None and found.prompt.points.tolist() == [[40, 30]]
        assert (found.label, len(found.points)) == ("Dog", 1)
    with pytest.raises(BadRequest, match="has no coordinates"):
        read_prompt([bad], labeling)


def test_a_box_without_coordinates_is_left_out_beside_points(labeling: Labeling) -> None:
    found = read_prompt([box(1, 1, None, 1), point(50, 50)], labeling)  # type: ignore[arg-type]
    assert found is not None and found.prompt.box is None and found.prompt.points.tolist() == [[40, 30]]


def test_a_click_may_lack_its_size_or_have_it_as_a_float(labeling: Labeling) -> None:
    asked: list[tuple[str, int | None]] = []

    def picture_size(output: Output, index: int | None) -> tuple[int, int]:
        asked.append((output.name, index))
        return SIZE

    found = read_prompt([point(50, 50, original_width=80.0, original_height=60.0)], labeling, picture_size)
    assert found is not None and (found.size, asked) == (SIZE, [])
    bare = {k: v for k, v in point(50, 50, item_index=1).items() if not k.startswith("original_")}
    for click in (bare, bare | {"original_width": None, "original_height": 60}):
        found = read_prompt([click], labeling, picture_size)
        assert found is not None and found.prompt.points.tolist() == [[40, 30]] and found.size == SIZE
    assert asked == [("brush", 1)] * 2

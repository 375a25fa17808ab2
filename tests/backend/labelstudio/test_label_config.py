from collections.abc import Callable

import pytest

from skylight.backend.errors import ConfigError
from skylight.backend.labelstudio.label_config import Control, controls, parse_config

RECOMMENDED = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="brush" toName="image" smart="false">
    <Label value="Pit"/><Label value="Crater"/>
  </BrushLabels>
  <KeyPointLabels name="kp" toName="image" smart="true" smartOnly="true"><Label value="Pit"/></KeyPointLabels>
  <RectangleLabels name="rect" toName="image" smart="true"><Label value="Pit"/></RectangleLabels>
</View>"""


def view(*tags: str, image: str = '<Image name="image" value="$image"/>') -> str:
    return f"<View>{image}{''.join(tags)}</View>"


def control(kind: str, name: str, labels: str = "Pit,Crater", image: str = "image", more: str = "") -> str:
    inside = "".join(f'<Label value="{label}"/>' for label in labels.split(",") if label)
    return f'<{kind} name="{name}" toName="{image}" {more}>{inside}</{kind}>'


def test_the_recommended_configuration_is_read() -> None:
    labeling = parse_config(RECOMMENDED)
    assert (labeling.image, labeling.data_key) == ("image", "image")
    assert (labeling.control, labeling.type, labeling.labels) == ("brush", "brushlabels", ("Pit", "Crater"))
    assert labeling.prompts == ("kp", "rect")


KINDS = ("BrushLabels", "BitmaskLabels", "PolygonLabels", "VectorLabels", "RectangleLabels")


def every_kind(first: int = 0) -> list[str]:
    """Controls of all kinds from one on, the least preferred first."""
    return [control(kind, kind[:4], more='smart="false" closable="true"') for kind in KINDS[first:]][::-1]


@pytest.mark.parametrize(("first", "kind"), list(enumerate(KINDS)))
def test_masks_go_to_the_first_kind_of_control_that_there_is(first: int, kind: str) -> None:
    labeling = parse_config(view(*every_kind(first)))
    assert (labeling.type, labeling.control) == (kind.lower(), kind[:4])
    assert len(labeling.outputs) == 5 - first


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_asked_for_goes_first_where_there_is_one(kind: str) -> None:
    wanted = kind.removesuffix("Labels").lower()
    assert parse_config(view(*every_kind()), wanted).type == kind.lower()
    assert parse_config(view(control("BrushLabels", "b")), wanted).type == "brushlabels"


def test_each_label_goes_to_a_control_that_has_it_and_all_are_learned() -> None:
    brushes = control("BrushLabels", "one", "B,C"), control("BrushLabels", "two", "D,b")
    labeling = parse_config(view(control("BitmaskLabels", "bitmask", "A,B"), *brushes))
    assert labeling.labels == ("A", "B", "C", "D")
    found = [labeling.output(label) for label in ("A", "B", "C", "D", "b")]
    assert [each.name for each in found] == ["bitmask", "one", "one", "two", "one"]
    with pytest.raises(ConfigError, match="no control for masks of 'image' has label 'E', only A, B, C, D, b"):
        labeling.output("E")


def test_each_image_has_its_own_controls() -> None:
    images = '<Image name="left" value="$l"/><Image name="right" value="$r"/>'
    controls = control("PolygonLabels", "p", "A", "left"), control("BrushLabels", "b", "B", "right")
    labeling = parse_config(view(*controls, image=images))
    assert (labeling.image, labeling.data_key, labeling.labels) == ("right", "r", ("B",))
    assert (labeling.output("A", "left").name, labeling.output("A", "left").data_key) == ("p", "l")
    with pytest.raises(ConfigError, match="'left' has label 'B', only A"):
        labeling.output("B", "left")


def test_an_image_that_shows_no_field_of_the_task_costs_its_controls_only() -> None:
    images = '<Image name="logo" value="http://x/y.png"/><Image name="image" value="$image"/>'
    controls = control("BrushLabels", "a", image="logo"), control("PolygonLabels", "b")
    assert [each.name for each in parse_config(view(*controls, image=images)).outputs] == ["b"]


def test_a_smart_rectangle_takes_masks_only_where_nothing_else_does_or_it_is_asked_for() -> None:
    rectangle = control("RectangleLabels", "r", "Pit,Rock")
    assert parse_config(view(rectangle)).control == "r"
    both = parse_config(view(rectangle, control("PolygonLabels", "p", "Pit")))
    assert [both.output(label).name for label in ("Pit", "Rock")] == ["p", "r"]
    assert [both.takes("r", label) for label in ("Pit", "Rock")] == [False, True]
    assert both.labels == ("Pit", "Rock")
    asked = parse_config(view(rectangle, control("PolygonLabels", "p", "Pit")), "rectangle")
    assert asked.output("Pit").name == "r" and asked.takes("r", "Pit")
    assert asked.labels == both.labels


def test_a_label_goes_by_its_predicted_values_too() -> None:
    labels = '<Label value="Vehicle" predicted_values="car, Truck"/><Label value="Car"/>'
    labeling = parse_config(view(f'<BrushLabels name="b" toName="image">{labels}</BrushLabels>'))
    assert [labeling.number(name) for name in ("car", "truck", "Car", "vehicle")] == [1, 1, 2, 1]
    assert labeling.output("car").own_label("TRUCK") == "Vehicle"


def test_the_image_of_the_output_control_counts() -> None:
    images = '<Image name="left" value="$l"/><Image name="right" value="$r"/>'
    brush, points = control("BrushLabels", "b", image="right"), control("KeyPointLabels", "kp", image="left")
    labeling = parse_config(view(brush, points, image=images))
    assert (labeling.image, labeling.data_key, labeling.prompts) == ("right", "r", ())


def test_the_field_of_a_list_of_images_is_read() -> None:
    labeling = parse_config(view(control("BrushLabels", "b"), image='<Image name="image" valueList="$pages"/>'))
    assert labeling.data_key == "pages"


def test_a_label_goes_by_its_alias_as_in_results() -> None:
    labels = '<Label value="Lava tube" alias="tube"/><Label value="Pit"/>'
    labeling = parse_config(view(f'<BrushLabels name="b" toName="image">{labels}</BrushLabels>'))
    assert (labeling.labels, labeling.other_names) == (("tube", "Pit"), (("Lava tube",), ()))
    assert [labeling.number(name) for name in ("tube", "Lava tube", "Pit", "pit", "Dune")] == [1, 1, 2, 2, 0]


def test_labels_that_differ_only_by_case_are_two() -> None:
    labeling = parse_config(view(control("BrushLabels", "b", "pit,Pit")))
    assert [labeling.number(name) for name in ("pit", "Pit", "PIT")] == [1, 2, 1]


@pytest.mark.parametrize(
    ("more", "smart"),
    [("", True), ('smart="true"', True), ('smart="false"', False), ('smart="false" smartOnly="true"', True)],
)
def test_controls_are_smart_unless_said_otherwise(more: str, smart: bool) -> None:
    labeling = parse_config(view(control("BrushLabels", "b"), control("RectangleLabels", "r", more=more)))
    assert labeling.prompts == (("r",) if smart else ())


def test_nested_labels_comments_declarations_and_other_controls_are_no_obstacle() -> None:
    brush = '<!-- b --><BrushLabels name="b" toName="image"><View><Label value="Pit"/></View></BrushLabels>'
    choices = '<Choices name="c" toName="image"><Choice value="Good"/></Choices>'
    for declaration in ("", '<?xml version="1.0"?>', '<?xml version="1.0" encoding="UTF-8"?>\n'):
        assert parse_config(declaration + view(choices, "<?style x?>", brush)).labels == ("Pit",)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "not valid XML"),
        ("<View>", "not valid XML"),
        ("<View>&undefined;</View>", "not valid XML"),
        ("<View></View>", "add <Image"),
        (view(), "add <BrushLabels"),
        (view(control("EllipseLabels", "e")), "add <BrushLabels"),
        (view(control("VectorLabels", "v")), "VectorLabels .closable.*add <BrushLabels"),
        (view(control("BrushLabels", "b", image="other")), "add <BrushLabels"),
        (view(control("BrushLabels", "b", labels="")), "'b' has 0 labels"),
        (view(control("BrushLabels", "b", labels=",".join(map(str, range(255))))), "'b' has 255 labels"),
        (
            view(control("BrushLabels", "b"), image='<Image name="image" value="http://x/y.png"/>'),
            "http://x/y.png",
        ),
        (view(control("BrushLabels", "b"), image='<Image name="image"/>'), "not a field of the task's data"),
    ],
)
def test_a_configuration_that_will_not_do_is_refused_with_the_remedy(xml: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse_config(xml)
    assert error.value.status == 422


def test_entities_that_multiply_are_refused() -> None:
    levels = "".join(f'<!ENTITY e{k} "{f"&e{k - 1};" * 10}">' for k in range(1, 10))
    bomb = f'<!DOCTYPE v [<!ENTITY e0 "xxxxxxxxxx">{levels}]><View>&e9;</View>'
    with pytest.raises(ConfigError, match="DOCTYPE or entities"):
        parse_config(bomb)


def test_files_are_not_read_through_entities() -> None:
    with pytest.raises(ConfigError):
        parse_config('<!DOCTYPE v [<!ENTITY f SYSTEM "file:///etc/hostname">]><View>&f;</View>')


def test_all_controls_are_read_with_what_they_are_for() -> None:
    choices = '<Choices name="q" toName="image"><Choice value="good"/><Choice value="bad"/></Choices>'
    found = controls(view(control("BrushLabels", "brush"), choices, '<TextArea name="note" toName="image"/>'))
    assert found == {
        "brush": Control("brushlabels", ("image",), ("Pit", "Crater")),
        "q": Control("choices", ("image",), ("good", "bad")),
        "note": Control("textarea", ("image",), ()),
    }


SMALL = """<view>
  <image name="image" value="$image"/>
  <{brush} name="mask" {to}="image" {smart}="false">
    <{label} value="Pit" {alias}="pit"/><{label} value="Crater"/>
  </{brush}>
  <{point} name="point" {to}="image" {only}="true"><{label} value="Pit"/></{point}>
</view>"""
WORDS = {"brush": "BrushLabels", "point": "KeyPointLabels", "label": "Label", "to": "toName", "smart": "smart"}
WORDS |= {"alias": "alias", "only": "smartOnly"}


@pytest.mark.parametrize("spell", [str, str.lower, str.upper, str.title, str.swapcase])
def test_tags_and_attributes_may_be_in_any_case(spell: Callable[[str], str]) -> None:
    labeling = parse_config(SMALL.format(**{key: spell(word) for key, word in WORDS.items()}))
    assert (labeling.labels, labeling.control, labeling.type) == (("pit", "Crater"), "mask", "brushlabels")
    assert labeling.prompts == ("point",) and labeling.outputs[0].other_names == (("Pit",), ())


def test_choices_in_small_letters_are_a_controls_labels() -> None:
    xml = '<view><image name="i" value="$i"/><choices name="q" toname="i"><choice value="good"/></choices></view>'
    assert controls(xml) == {"q": Control("choices", ("i",), ("good",))}


def test_an_attribute_given_in_two_cases_is_the_one_as_documented() -> None:
    brush = '<BrushLabels name="b" toname="other" toName="image"><Label value="Pit"/></BrushLabels>'
    assert parse_config(view(brush)).image == "image"


@pytest.mark.parametrize("value", ["meta.url", "images[0].url", "a.b[1]", "a b", "my-image"])
def test_the_image_may_be_at_a_path_into_the_data(value: str) -> None:
    labeling = parse_config(view(control("BrushLabels", "b"), image=f'<Image name="image" value="${value}"/>'))
    assert labeling.data_key == value


@pytest.mark.parametrize("value", ["$host/$file", "/data/upload/1/$file", "$dir/a.png", "$a$b", "$"])
def test_a_text_with_fields_in_it_is_refused_by_name(value: str) -> None:
    with pytest.raises(ConfigError, match="not a field of the task's data") as error:
        parse_config(view(control("BrushLabels", "b"), image=f'<Image name="image" value="{value}"/>'))
    assert repr(value) in str(error.value)


REPEATER = """<Repeater on="$images" indexFlag="{{idx}}"><Image name="page_{{idx}}" value="$images[{{idx}}].url"/>
<BrushLabels name="mask_{{idx}}" toName="page_{{idx}}"><Label value="Pit"/></BrushLabels></Repeater>"""


def test_a_repeater_is_refused_by_name_unless_there_are_masks_outside_of_it() -> None:
    with pytest.raises(ConfigError, match=r"'mask_\{\{idx\}\}' is in a Repeater, which is not read; .*valueList"):
        parse_config(f"<View>{REPEATER}</View>")
    labeling = parse_config(view(REPEATER, control("BrushLabels", "b")))
    assert [each.name for each in labeling.outputs] == ["b"]


def test_a_label_is_found_however_its_accents_are_encoded() -> None:
    composed, apart = "Kr\u00e4ter", "Kra\u0308ter"
    for own, other in ((composed, apart), (apart, composed)):
        labeling = parse_config(view(control("BrushLabels", "b", f"Pit,{own}")))
        assert [labeling.number(name) for name in (own, other, other.upper())] == [2, 2, 2]
        assert labeling.output(other).own_label(other) == own
    both = parse_config(view(control("BrushLabels", "b", f"{composed},{apart}")))
    assert [both.number(name) for name in (composed, apart)] == [1, 2]

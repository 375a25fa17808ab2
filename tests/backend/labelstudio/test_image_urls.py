"""Where the address of a picture is in a task's data."""

import pytest

from skylight.backend.labelstudio.image_urls import browser_address, value_at

DATA = {
    "image": "a.png",
    "meta": {"url": "b.png", "x y": {"deep": ["c.png"]}},
    "images": [{"url": "d.png"}, {"url": "e.png", "a.b": "f.png"}],
    "rows": [["g.png", "h.png"]],
    "meta.url.literal": "i.png",
    "images[7].url": "j.png",
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("image", "a.png"),
        ("meta.url", "b.png"),
        ("meta['url']", "b.png"),
        ('meta["x y"].deep[0]', "c.png"),
        ("images[0].url", "d.png"),
        ("images.1.url", "e.png"),
        ('images[1]["a.b"]', "f.png"),
        ("rows[0][1]", "h.png"),
        ("meta.url.literal", "i.png"),  # a key of just this name comes first
        ("images[7].url", "j.png"),
        ("images[2].url", None),
        ("images[-1].url", None),
        ("image.url", None),
        ("meta.none", None),
        ("none", None),
        ("..", None),
    ],
)
def test_a_path_is_looked_up_as_the_editor_does(path: str, value: object) -> None:
    assert value_at(DATA, path) == value


def test_a_file_that_came_before_the_configuration_is_found() -> None:
    assert value_at({"$undefined$": "a.png"}, "image") == "a.png"
    assert value_at({"$undefined$": "a.png"}, "meta.url") == "a.png"
    assert value_at({"$undefined$": "a.png", "image": "b.png"}, "image") == "b.png"
    assert value_at({"$undefined$": "a.png", "meta": "x"}, "meta.url") == "a.png"


@pytest.mark.parametrize("data", [None, [], "text", 7])
def test_data_that_is_no_object_has_nothing(data: object) -> None:
    assert value_at(data, "image") is None


@pytest.mark.parametrize("around", [" ", "\t", "\n", "\r\n", " \t\r\n ", "\x00\x1f"])
def test_white_space_around_an_address_is_no_part_of_it(around: str) -> None:
    for text in (f"{around}/data/a b.png", f"/data/a b.png{around}", f"{around}/data/a b.png{around}"):
        assert browser_address(text) == "/data/a b.png"


def test_line_ends_in_an_address_are_dropped_and_spaces_are_not() -> None:
    assert browser_address("http://host/a\n \tb.png") == "http://host/a b.png"
    assert browser_address("/a\u00a0.png\u00a0") == "/a\u00a0.png\u00a0"

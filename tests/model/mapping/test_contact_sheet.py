"""The contact sheet leads a browser to every picture."""

import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import pytest

from skylight.model.mapping.contact_sheet import write_page


class Sources(HTMLParser):
    """The addresses of a page's pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found += [value for name, value in attrs if name == "src"]


@pytest.mark.parametrize(
    "name",
    [
        "plain/scene.png",
        "run #1/scene.png",
        "what?/scene.png",
        "100%25 cloud/scene%20.png",
        "50%/a&b<c>\"d'.png",
        "süß/e\u0301.png",
        "a:b/c\\d.png",
        os.fsdecode(b"latin-\xe9.png"),
    ],
)
def test_every_address_on_the_page_names_a_file_beside_it(tmp_path: Path, name: str) -> None:
    thumbnail = f"thumbnails/{name}.jpg"
    (tmp_path / thumbnail).parent.mkdir(parents=True)
    (tmp_path / thumbnail).write_bytes(b"picture")
    kept = {"input": name, "thumbnail": thumbnail, "size": (9, 9), "confidence": 0.5, "counts": {}}
    write_page(tmp_path / "index.html", "t", [kept])
    parser = Sources()
    parser.feed((tmp_path / "index.html").read_text())
    (source,) = parser.found
    path = os.fsdecode(unquote_to_bytes(urlsplit(source).path))
    assert "\\" not in source and (tmp_path / path).read_bytes() == b"picture"

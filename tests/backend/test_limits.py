"""What is too much gets a 4xx with a sentence, before it costs anything; in an event, a line in the log."""

import base64
import io
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from skylight.backend import limits
from skylight.backend.errors import BadRequest, ConfigError
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.labelstudio.label_map import label_map
from skylight.backend.settings import MEGABYTE
from skylight.backend.web.app import create_app
from skylight.model.images.decoding import ImageError, decode
from skylight.model.masks import brush_rle, rasterize
from skylight.model.masks.bitmask import decode_png
from skylight.model.masks.brush_rle import decode_rle, encode_rle
from skylight.model.masks.errors import MaskError
from skylight.model.masks.rasterize import polygon_mask
from tests.support.label_studio_double import capture

SIZE = (40, 50)


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * depth + b"]" * depth + b"}"


def click(prompts: int = 1, tasks: int = 1) -> dict[str, Any]:
    """A recorded click with more of everything."""
    body = capture("05")
    body["params"]["context"]["result"] = body["params"]["context"]["result"][:1] * prompts
    return body | {"tasks": body["tasks"] * tasks}


@pytest.mark.parametrize("path", ["/predict", "/webhook", "/setup"])
def test_a_body_that_is_too_large_is_413(service, path):
    client = create_app(replace(service.settings, max_body_mb=1), service).test_client()
    answer = client.post(path, data=b'{"a": "' + b"x" * MEGABYTE + b'"}', content_type="application/json")
    assert answer.status_code == 413
    assert answer.get_json()["error"] == "the body is larger than 1 MB; send less, or raise SKYLIGHT_MAX_BODY_MB"


def test_a_body_without_a_length_is_read_no_further_than_allowed(service, served):
    sent = 0

    def chunks():
        nonlocal sent
        for _ in range(200):
            sent += 1
            yield b"[" * MEGABYTE

    try:
        answer = requests.post(f"{served}/webhook", data=chunks(), timeout=30)
        assert answer.status_code in (400, 413)
    except requests.ConnectionError:
        pass  # it hung up while we were sending: as good
    assert requests.get(f"{served}/health", timeout=5).ok


@pytest.mark.parametrize("path", ["/predict", "/webhook", "/setup"])
@pytest.mark.parametrize("depth", [64, 500, 1000, 100_000])
def test_a_body_nested_deeply_is_400(client, path, depth):
    answer = client.post(path, data=nested(depth), content_type="application/json")
    assert answer.status_code == 400
    assert "deep" in answer.get_json()["error"] or "not JSON" in answer.get_json()["error"]


def test_the_depth_of_label_studios_bodies_is_far_from_the_limit():
    limits.check_depth(capture("25"))
    limits.check_depth([[1, 2], {"a": [{}]}])


def test_too_many_tasks_and_prompts_are_400(client, monkeypatch):
    monkeypatch.setattr(limits, "MAX_TASKS", 3)
    many = capture("05") | {"params": {"context": None}, "tasks": [{}] * 4}
    for body, what in (
        (click(limits.MAX_PROMPTS + 1), "prompts"),
        (click(tasks=2), "one after the other"),
        (many, "select fewer"),
    ):
        answer = client.post("/predict", json=body)
        assert answer.status_code == 400
        assert what in answer.get_json()["error"]
    assert client.post("/predict", json=many | {"tasks": [{}] * 3}).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"id": 2**63},
        {"id": -1},
        {"id": 1e300},
        {"id": [1]},
        {"task": 10**30},
        {"updated_at": "zzzz"},
        {"updated_at": 5},
    ],
)
def test_an_event_with_an_id_or_a_time_that_is_none_is_400(client, service, change):
    body = capture("21")
    assert client.post("/webhook", json=body | {"annotation": body["annotation"] | change}).status_code == 400
    assert service.queue.projects() == []


@pytest.mark.parametrize("project", [{"id": 1e308}, {"created_at": "0001-01-01"}, {"created_at": []}, {"id": {}}])
def test_a_project_that_is_none_is_400(client, project):
    body = capture("21")
    assert client.post("/webhook", json=body | {"project": body["project"] | project}).status_code == 400


def test_keys_that_cannot_be_looked_up_are_no_error_of_ours(client):
    body = capture("21") | {"action": "ANNOTATIONS_CREATED"}
    body |= {"annotation": [body["annotation"] | {"task": {}}], "task": [{"id": {}}]}
    assert client.post("/webhook", json=body).status_code == 400
    body = click()
    body["params"]["context"]["result"][0] |= {"to_name": {}, "type": "keypointlabels"}
    assert client.post("/predict", json=body).status_code == 200


NAMES = ",".join(map(str, range(100)))
MANY_LABELS = "".join(
    f'<BrushLabels name="{k}" toName="image"><Label value="{k}" predicted_values="{NAMES}"/></BrushLabels>'
    for k in range(40)
)


@pytest.mark.parametrize(
    "xml",
    [
        '<!DOCTYPE v [<!ENTITY a "aa">]><View>&a;</View>',
        '<!DOCTYPE v SYSTEM "file:///etc/passwd"><View/>',
        '<!DOCTYPE v [<!ENTITY a SYSTEM "file:///etc/passwd">]><View>&a;</View>',
        "<View>" * 200 + "</View>" * 200,
        "<a>" * 100_000 + "</a>" * 100_000,
        "<View>" + "<Label/>" * 6000 + "</View>",
        "<View>" + " " * limits.MAX_CONFIG + "</View>",
        '<View><Image name="a"/></View>',
        '<View><Image value="$a"/></View>',
        f'<View><Image name="image" value="$image"/>{MANY_LABELS}</View>',
        "\x00",
        "<View a='\ud800'/>",
    ],
)
def test_a_configuration_that_would_cost_too_much_is_refused_in_a_sentence(xml):
    with pytest.raises(ConfigError, match="configuration"):
        parse_config(xml)


def test_an_endless_configuration_is_not_kept(client, service):
    xml = " " * (limits.MAX_CONFIG + 1)
    assert client.post("/setup", json={"project": "1.1", "schema": xml}).status_code == 400
    body = capture("33")
    assert client.post("/webhook", json=body | {"project": body["project"] | {"label_config": xml}}).status_code == 400
    assert service.queue.projects() == []


def png_header(width: int, height: int, end: bytes = b"") -> bytes:
    """A PNG that says it is that large, and has next to no pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 99))]
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        whole += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return whole + end


def as_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def test_a_bitmask_of_another_size_is_refused_by_its_header():
    with pytest.raises(MaskError, match="20000 x 20000 pixels, more than"):
        decode_png(as_url(png_header(20_000, 20_000)))
    with pytest.raises(MaskError, match="has 9000 x 9000 pixels, not 50 x 40"):
        decode_png(as_url(png_header(9000, 9000)), SIZE)


def test_an_rle_is_refused_by_its_header_or_its_length():
    good = encode_rle(np.zeros(SIZE, bool))
    with pytest.raises(MaskError, match="are 32000000000"):
        decode_rle(good, 80_000, 100_000)
    with pytest.raises(MaskError, match="more than 4194304"):
        decode_rle([0] * (brush_rle.MAX_BYTES + 1), *SIZE)


@pytest.mark.parametrize(
    ("points", "what"),
    [
        ([[0, 0]] * (rasterize.MAX_VERTICES + 1), "more than 100000"),
        ([[0, 0], [1, 100]] * 40_000, "cross 80000000 rows"),
        ([["1", "2"], ["3", "4"], ["5", "6"]], "not all numbers"),
        ([[1, 2], [3, 10**400], [5, 6]], "not all numbers"),
        ([[1, 2], [3, None], [5, 6]], "not all numbers"),
        ([[1, 2], [3, float("nan")], [5, 6]], "finite"),
        ([[1, 2], [3, float("inf")], [5, 6]], "finite"),
        ([[True, False]] * 3, "not all numbers"),
    ],
)
def test_a_polygon_that_is_too_much_or_no_numbers_is_refused(points, what):
    with pytest.raises(MaskError, match=what):
        polygon_mask(points, 1000, 10)


CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="b" toName="image" smart="false"><Label value="A"/>'
    '</BrushLabels><PolygonLabels name="p" toName="image"><Label value="A"/></PolygonLabels></View>'
)


def test_too_many_regions_of_an_annotation_are_refused():
    with pytest.raises(BadRequest, match="more than 10000"):
        label_map([{}] * (limits.MAX_REGIONS + 1), parse_config(CONFIG), SIZE)


def tiff(*sizes: tuple[int, int]) -> bytes:
    """A TIFF of 16-bit colours whose directory says several sizes."""
    entries = [(tag, value) for size in sizes for tag, value in zip((256, 257), size, strict=True)]
    entries += [(258, 16), (259, 1), (262, 2), (273, 8), (277, 3), (278, 1), (279, 6)]
    body = b"".join(struct.pack("<HHII", tag, 4 if tag in (256, 257) else 3, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", len(entries)) + body + bytes(4)


def scans(count: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    return buffer.getvalue()[:-2] + b"\xff\xda" * count


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (png_header(20_000, 20_000), "more than"),
        (png_header(50, 40), "not a whole"),
        (tiff((60_000, 60_000)), "more than"),
        (tiff((60_000, 60_000), (1, 1)), "says its size twice|more than"),
        (scans(200), "scans"),
    ],
)
def test_a_picture_that_would_unfold_is_refused(data, what):
    with pytest.raises(ImageError, match=what):
        decode(data, 10**6)


def test_a_text_chunk_that_unfolds_is_refused():
    text = b"k\0\0" + zlib.compress(bytes(10**8))
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    with pytest.raises(ImageError):
        decode(png_header(50, 40, chunk))

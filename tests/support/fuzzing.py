"""Inputs nobody would send, made of those that Label Studio does send, and what is to be done with each.

A target takes a generator of random numbers, makes one input, gives it to a parser, and returns if the parser answered
or refused it with its own error; anything else that comes out is a crash.
"""

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from skylight.backend.errors import SkylightError
from skylight.backend.labelstudio import events
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.labelstudio.label_map import label_map
from skylight.backend.labelstudio.prompts import read_prompt
from skylight.backend.limits import check_depth
from skylight.model.images.decoding import ImageError
from skylight.model.images.opening import load_raster
from skylight.model.masks.bitmask import decode_png, encode_png
from skylight.model.masks.brush_rle import decode_rle, encode_rle
from skylight.model.masks.errors import MaskError
from skylight.model.masks.rasterize import polygon_mask
from tests.support.label_studio_double import CAPTURES

SIZE = (30, 20)
MAX_PIXELS = 10**6
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64 - 1, 10**400, 0.5, -0.0, 1e308, 5e-324, float("nan"),
    float("inf"), "", "0", "1e9", "x" * 300, "\x00", "\u202e", "../..", "$image", [], [[]], {}, {"a": []}, [None],
    [1, 2], [[1, 2]] * 4, [0] * 50, {"x": 1, "y": 2}, [[[[[[[[]]]]]]]],
)  # fmt: skip
BYTES = (0, 1, 4, 127, 128, 254, 255)

Random = np.random.Generator
Target = Callable[[Random], None]


def mutated(data: bytes, rng: Random) -> bytes:
    """Some bytes changed, doubled, cut out, or all that follows cut off."""
    found = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(found) + 1))
        span = int(rng.integers(1, 9))
        match int(rng.integers(6)):
            case 0:
                found[at : at + 1] = bytes([int(rng.integers(256))])
            case 1:
                found[at : at + 1] = bytes([BYTES[int(rng.integers(len(BYTES)))]])
            case 2:
                del found[at : at + span]
            case 3:
                found[at:at] = found[max(at - span, 0) : at]
            case 4:
                found[at : at + span] = rng.bytes(span)
            case 5 if rng.random() < 0.2:
                del found[at:]
    return bytes(found)


def changed(value: Any, rng: Random) -> Any:
    """A JSON value with an odd one somewhere in it, or something left out or doubled; the rest is shared with it."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.12:
        return ODD[int(rng.integers(len(ODD)))]
    keys = list(value) if isinstance(value, dict) else range(len(value))
    where = keys[int(rng.integers(len(keys)))]
    copy = value.copy()
    match int(rng.integers(12)):
        case 0:
            del copy[where]
        case 1 if isinstance(copy, list):
            copy += copy[: 1 + where]
        case _:
            copy[where] = changed(value[where], rng)
    return copy


def _captures() -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted(CAPTURES.glob("*.json"))]
    return [each["body"] for each in found if each["method"] == "POST"]


BODIES = _captures()
EVENTS = [body for body in BODIES if "action" in body]
CLICKS = [body for body in BODIES if (body.get("params") or {}).get("context")]
CONFIGS = sorted({str(config) for body in CLICKS for config in [body["label_config"]]})
LABELINGS = [parse_config(config) for config in CONFIGS]
MASK = np.hypot(*np.ogrid[-15:15, -10:10]) < 8
RLE, PNG = bytes(encode_rle(MASK)), base64.b64decode(encode_png(MASK).partition(",")[2])


def _pictures() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    made = []
    for mode, name, options in (
        ("RGB", "JPEG", {}), ("RGB", "JPEG", {"progressive": True}), ("RGB", "PNG", {}), ("P", "PNG", {}),
        ("P", "GIF", {}), ("RGB", "BMP", {}), ("RGB", "TIFF", {}), ("RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("RGB", "WEBP", {}), ("RGB", "JPEG2000", {}), ("I;16", "PNG", {}), ("F", "TIFF", {}), ("L", "PNG", {}),
    ):  # fmt: skip
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(pixels)
        buffer = io.BytesIO()
        (picture if mode == "I;16" else picture.convert(mode)).save(buffer, name, **options)
        made.append(buffer.getvalue())
    return made


PICTURES = _pictures()


def pick(values: list[Any], rng: Random) -> Any:
    return values[int(rng.integers(len(values)))]


def rle(rng: Random) -> None:
    data: Any = list(mutated(RLE, rng))
    if rng.random() < 0.02:
        data = changed(data, rng)
    try:
        assert decode_rle(data, *SIZE).shape == SIZE
    except MaskError:
        return


def bitmask(rng: Random) -> None:
    url: Any = "data:image/png;base64," + base64.b64encode(mutated(PNG, rng)).decode()
    if rng.random() < 0.1:
        url = mutated(url.encode(), rng).decode("latin-1")
    try:
        assert decode_png(url, SIZE, MAX_PIXELS).shape == SIZE
    except MaskError:
        return


def polygon(rng: Random) -> None:
    points: Any = rng.normal(50, 10 ** rng.uniform(0, 5), (int(rng.integers(1, 9)), 2)).tolist()
    if rng.random() < 0.7:
        points = changed(points, rng)
    try:
        assert polygon_mask(points, *SIZE).shape == SIZE
    except MaskError:
        return


def config(rng: Random) -> None:
    text = mutated(pick(CONFIGS, rng).encode(), rng).decode("latin-1")
    try:
        parse_config(text)
    except SkylightError:
        return


def image(rng: Random) -> None:
    try:
        load_raster(mutated(pick(PICTURES, rng), rng), MAX_PIXELS)
    except ImageError:
        return


def event(rng: Random) -> None:
    """As /webhook reads it, and a worker after it."""
    body = changed(pick(EVENTS, rng), rng)
    if not isinstance(body, dict):
        return
    try:
        check_depth(body)
        events.project_key(body.get("project"))
        for each in events.webhook_events(body):
            json.dumps(each)
            if each["what"] == "annotation":
                label_map(each["result"], pick(LABELINGS, rng), SIZE)
    except SkylightError:
        return


def regions(rng: Random) -> None:
    """An annotation's regions alone, of the image's size, so that their insides are read."""
    found = pick([body for body in EVENTS if (body.get("annotation") or {}).get("result")], rng)
    result = [{**each, "original_width": SIZE[1], "original_height": SIZE[0]} for each in found["annotation"]["result"]]
    result = [
        {**each, "value": {**each["value"], "rle": list(RLE)}} if "rle" in each["value"] else each for each in result
    ]
    try:
        label_map(changed(result, rng), pick(LABELINGS, rng), SIZE)
    except SkylightError:
        return


def prompt(rng: Random) -> None:
    try:
        read_prompt(changed(pick(CLICKS, rng)["params"]["context"], rng), pick(LABELINGS, rng))
    except SkylightError:
        return


# How many inputs `make torture` gives each.
TARGETS: dict[str, tuple[Target, int]] = {
    "RLE": (rle, 300_000),
    "bitmask": (bitmask, 150_000),
    "polygon": (polygon, 200_000),
    "event": (event, 150_000),
    "regions of an annotation": (regions, 60_000),
    "prompt": (prompt, 60_000),
    "labeling configuration": (config, 40_000),
    "picture": (image, 60_000),
}

"""Checks of every region before it is sent: Label Studio checks nothing, and a wrong region locks the annotation."""

import base64
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from skylight.backend.errors import InvalidRegion
from skylight.backend.labelstudio.label_config import Labeling
from skylight.backend.labelstudio.region_fields import Region, Size
from skylight.model.masks.bitmask import DATA_URL

PNG_HEADER = 24  # bytes of a PNG up to its size: signature 8, length 4, "IHDR" 4, width 4, height 4
ROUNDING = 1e-4  # percent by which a side may reach beyond the image, as start and length are rounded each
PIXEL_BYTES = 4  # of an RLE's picture: red, green, blue, alpha


def check_regions(regions: Iterable[Region], labeling: Labeling, size: Size) -> None:
    """Raise InvalidRegion, which says why, if one may not be sent for an image of `size` (H, W) px.

    A control of the configuration must take it, with this type, for this image and this label; the size must be the
    image's, also inside an RLE or a PNG; every number must be finite, coordinates in [0, 100], the score in [0, 1];
    the id must be no other region's.
    """
    ids: set[str] = set()
    for region in regions:
        if problem := _problem(region, labeling, size):
            raise InvalidRegion(f"region {region.get('id')!r} is not sent: {problem}")
        if region["id"] in ids:
            raise InvalidRegion(f"two regions are called {region['id']!r}; neither is sent")
        ids.add(region["id"])


def _problem(region: Region, labeling: Labeling, size: Size) -> str:
    """What is wrong with a region, "" if nothing is."""
    kind, value = region.get("type"), region.get("value")
    control, image = region.get("from_name"), region.get("to_name")
    candidates = (
        output for output in labeling.outputs if (output.name, output.type, output.image) == (control, kind, image)
    )
    output = next(candidates, None)
    if not isinstance(region.get("id"), str) or not region["id"]:
        return "it has no id"
    if output is None or not isinstance(value, Mapping):
        return f"{control!r} takes no {kind} of {image!r}"
    labels = value.get(output.type)
    if not isinstance(labels, list) or not labels or not set(labels) <= set(output.labels):
        return f"{control!r} has no label {labels!r}"
    drawn = region.get("original_height"), region.get("original_width")
    if drawn != size:
        return f"it is of (height, width) {drawn} px, the image of {size}"
    score = region.get("score")
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        return f"its score is {score!r}, not between 0 and 1"
    index = region.get("item_index", 0)
    if not isinstance(index, int) or index < 0:
        return f"its item_index is {index!r}"
    return _SHAPES[output.type](value, size)


def _rle(value: Mapping[str, Any], size: Size) -> str:
    total = int.from_bytes(bytes(value["rle"][:4]), "big")
    return "" if total == PIXEL_BYTES * size[0] * size[1] else f"its RLE holds {total} bytes, the image {size} px"


def _png(value: Mapping[str, Any], size: Size) -> str:
    url = value["imageDataURL"]
    head = base64.b64decode(url.removeprefix(DATA_URL)[: PNG_HEADER * 4 // 3])
    own = int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")
    return "" if own == size else f"its PNG has (height, width) {own} px, the image {size}"


def _points(value: Mapping[str, Any], _: Size) -> str:
    return _shape([number for point in value["points"] for number in point], len(value["points"]))


def _vertices(value: Mapping[str, Any], _: Size) -> str:
    vertices = value["vertices"]
    if len({vertex["id"] for vertex in vertices}) < len(vertices):
        return "two of its vertices have the same id"
    return _shape([vertex[axis] for vertex in vertices for axis in "xy"], len(vertices))


def _box(value: Mapping[str, Any], _: Size) -> str:
    x, y, width, height = (value[key] for key in ("x", "y", "width", "height"))
    if not (width > 0 and height > 0):
        return f"its sides are {width} and {height} %"
    return _shape([x, y, x + width - ROUNDING, y + height - ROUNDING], 4)


def _shape(numbers: list[float], points: int) -> str:
    wrong = [number for number in numbers if not math.isfinite(number) or not 0 <= number <= 100]
    if points < 3:
        return f"it has {points} points"
    return f"it is at {wrong[0]} % of the image" if wrong else ""


_SHAPES: Mapping[str, Callable[[Mapping[str, Any], Size], str]] = {
    "brushlabels": _rle,
    "bitmasklabels": _png,
    "polygonlabels": _points,
    "vectorlabels": _vertices,
    "rectanglelabels": _box,
}

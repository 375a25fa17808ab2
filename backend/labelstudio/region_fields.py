"""Fields of Label Studio's regions: label, image size, numbers."""

import math
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.backend.errors import BadRequest
from skylight.backend.labelstudio.whole_numbers import whole
from skylight.backend.limits import MAX_SIDE
from skylight.model.masks.rasterize import MAX_PERCENT

Size = tuple[int, int]  # height, width in pixels
Region = Mapping[str, Any]  # one region, as in a context or a result


def regions_in(context: object) -> list[Region]:
    """The regions in a context, in its `result`, or in nothing at all. Raises BadRequest."""
    regions = context.get("result") if isinstance(context, Mapping) else context
    if regions is None:
        return []
    if not isinstance(regions, list | tuple) or not all(isinstance(region, Mapping) for region in regions):
        raise BadRequest(f"regions must be a list of objects, not {reprlib.repr(regions)}")
    return list(regions)


def image_size(region: Region, default: Size | None = None) -> Size:
    """Height and width in px of the image that a region was drawn on; what it does not say is taken from `default`.

    Scripts leave them out, or write 200.0 for 200. Raises BadRequest if they are not whole numbers from 1 on.
    """
    given = region.get("original_height"), region.get("original_width")
    sides = [own if side is None else side for side, own in zip(given, default or given, strict=True)]
    height, width = map(whole, sides)
    if height is None or width is None or not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise BadRequest(
            f"region {region.get('id')!r} has original size {str(sides[1])[:40]} x {str(sides[0])[:40]}, not whole "
            f"pixels, 1 to {MAX_SIDE}"
        )
    return height, width


def value_of(region: Region) -> Mapping[str, Any]:
    """The region's value object. Raises BadRequest if it has none."""
    value = region.get("value")
    if not isinstance(value, Mapping):
        raise BadRequest(f"region {region.get('id')!r} has no value object")
    return value


def numbers(region: Region, *keys: str) -> list[float]:
    """Some of the numbers in a region's value. Raises BadRequest if one is missing, or not within a million."""
    values = [value_of(region).get(key) for key in keys]
    for key, number in zip(keys, values, strict=True):
        if not isinstance(number, int | float) or not abs(number) <= MAX_PERCENT:
            raise BadRequest(f"region {region.get('id')!r} has {key} {str(number)[:40]!r}, not a sound number")
    return [float(number) for number in values if number is not None]


def label_of(region: Region) -> str:
    """The region's label, "" if it has none."""
    value = value_of(region)
    names = value.get(str(region.get("type"))) or value.get("labels") or [""]
    return str(names[0]) if isinstance(names, list) else str(names)


def rotation_of(region: Region) -> float:
    """The rotation of a rectangle or an ellipse, degrees clockwise, 0 if it has none. Raises BadRequest."""
    return numbers(region, "rotation")[0] if value_of(region).get("rotation") else 0.0


def rectangle_corners(region: Region, size: Size) -> NDArray[np.float64]:
    """(4, 2) xy pixels of a rectangle on an image of `size` (H, W) px; it is rotated around its first corner."""
    scale = np.array(size[::-1]) / 100
    x, y, width, height = numbers(region, "x", "y", "width", "height")
    angle = math.radians(rotation_of(region))
    across = np.array([math.cos(angle), math.sin(angle)]) * width * scale[0]
    down = np.array([-math.sin(angle), math.cos(angle)]) * height * scale[1]
    shape: NDArray[np.float64] = np.stack([0 * across, across, across + down, down])
    return shape + np.array([x, y]) * scale

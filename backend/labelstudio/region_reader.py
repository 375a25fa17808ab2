"""Masks of Label Studio's regions: brush, bitmask, polygon, vector, rectangle and ellipse."""

import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.backend.errors import BadRequest
from skylight.backend.labelstudio.label_config import BOX, ELLIPSE, POINT, VECTOR, Labeling
from skylight.backend.labelstudio.region_fields import (
    Region,
    Size,
    image_size,
    label_of,
    numbers,
    rectangle_corners,
    rotation_of,
    value_of,
)
from skylight.model.masks.bitmask import OPAQUE, decode_png
from skylight.model.masks.brush_rle import decode_rle
from skylight.model.masks.errors import EmptyMask, MaskError
from skylight.model.masks.rasterize import MAX_VERTICES, ellipse_mask, polygon_mask

Mask = NDArray[np.bool_]

READER_VERSION = 1  # counted up when regions are read otherwise than before; 0: ellipses were background
CURVE_STEPS = 16  # straight parts that a curve between two vertices is drawn with
FREE = 0.3  # where the editor puts the control point that one end of a curve lacks: this share of the way from that end


class EmptyRegion(BadRequest):
    """A region without a shape, such as a polygon of two points: it says nothing about any pixel."""


def read_mask(region: Region, size: Size) -> Mask:
    """The (H, W) bool mask of a region on an image of `size` (H, W) px.

    Raises EmptyRegion if it has no shape, BadRequest if it was drawn on another size or is damaged, KeyError if its
    type holds no mask.
    """
    name, expected = f"region {region.get('id')!r}", f"{size[1]} x {size[0]}"
    drawn, kind = image_size(region, size), str(region["type"])
    if drawn != tuple(size):
        raise BadRequest(f"{name} was drawn on {drawn[1]} x {drawn[0]} pixels, but the image has {expected}")
    try:
        mask = (_READERS.get(kind) or _UNLABELED[kind])(region, drawn)
    except EmptyMask as error:
        raise EmptyRegion(f"{name} covers nothing: {error}") from error
    except MaskError as error:
        raise BadRequest(f"{name} cannot be read: {error}") from error
    if mask.shape != drawn:
        raise BadRequest(
            f"{name} holds a mask of {mask.shape[1]} x {mask.shape[0]} pixels, but the image has {expected}"
        )
    return mask


def is_mask(region: Region, labeling: Labeling) -> bool:
    """Whether a region is a mask, whatever image and label it is of, and not a prompt or another kind of mark."""
    kind = str(region.get("type"))
    return kind in _READERS and not is_prompt(region, labeling) and not is_open_line(region)


def is_shape_type(kind: str) -> bool:
    """Whether results of a type mark a place, with a label or without, and are not choices, texts or the like."""
    return kind.endswith("labels") or kind in _UNLABELED or kind == POINT.removesuffix("labels")


def is_open_line(region: Region) -> bool:
    """Whether a region is a line, which has no inside."""
    is_vector = str(region.get("type")) in (VECTOR, VECTOR.removesuffix("labels"))
    return is_vector and not value_of(region).get("closed")


def is_unlabeled_mask(region: Region) -> bool:
    """Whether a region is a shape with an inside, of a control that gives no label."""
    return str(region.get("type")) in _UNLABELED and not is_open_line(region)


def is_prompt(region: Region, labeling: Labeling) -> bool:
    """Whether a region is a key point, or a smart rectangle that is not one of the masks of its label."""
    kind, control = region.get("type"), str(region.get("from_name"))
    if kind != BOX:
        return bool(kind == POINT)
    if control not in labeling.prompts and all(control != output.name for output in labeling.outputs):
        # Of a control that is gone or renamed: a mask only if that is what masks of its label are now.
        return bool(labeling.number(label_of(region))) and labeling.output(label_of(region)).type != BOX
    return control in labeling.prompts and not labeling.takes(control, label_of(region))


def has_shape(region: Region) -> bool:
    """Whether a mask region was drawn at all, by the number of its points, without looking at what it covers."""
    value, kind = value_of(region), region.get("type")
    if kind == VECTOR:
        vertices = value.get("vertices") or []
        return len(vertices) > 2 or any(vertex.get("isBezier") for vertex in vertices)
    if kind == "polygonlabels":
        return len(value.get("points") or []) > 2
    return value.get("rle") != [] and value.get("imageDataURL") != ""


def _rectangle(region: Region, size: Size) -> Mask:
    return polygon_mask(rectangle_corners(region, size) * 100 / np.array(size[::-1]), *size)


def _ellipse(region: Region, size: Size) -> Mask:
    x, y, radius_x, radius_y = numbers(region, "x", "y", "radiusX", "radiusY")
    height, width = size
    center, radii = (x * width / 100, y * height / 100), (radius_x * width / 100, radius_y * height / 100)
    return ellipse_mask(center, radii, rotation_of(region), height, width)


def _brush(region: Region, size: Size) -> Mask:
    rle: Any = value_of(region).get("rle")
    return decode_rle(rle, *size) > OPAQUE


def _bitmask(region: Region, size: Size) -> Mask:
    url = value_of(region).get("imageDataURL")
    if url == "":
        raise EmptyMask("its image is empty")
    return decode_png(str(url), size)


def _polygon(region: Region, size: Size) -> Mask:
    return polygon_mask(value_of(region).get("points") or (), *size)


def _vector(region: Region, size: Size) -> Mask:
    vertices = _vertices(region)
    sides = zip(vertices, [*vertices[1:], *vertices[:1]], strict=True)
    return polygon_mask(np.concatenate([_curve(start, end) for start, end in sides]), *size)


def _vertices(region: Region) -> list[Mapping[str, Any]]:
    vertices = value_of(region).get("vertices") or []
    if not isinstance(vertices, list) or not all(isinstance(vertex, Mapping) for vertex in vertices):
        raise MaskError(f"a closed vector needs a list of vertices, not {reprlib.repr(vertices)}")
    if not vertices:
        raise EmptyMask("a closed vector needs vertices")
    if len(vertices) > MAX_VERTICES:
        raise MaskError(f"a vector of {len(vertices)} vertices has more than {MAX_VERTICES}; simplify it")
    return vertices


def _curve(start: Mapping[str, Any], end: Mapping[str, Any]) -> NDArray[np.float64]:
    """(N, 2) xy percent from one vertex to just before the next: a cubic Bezier curve if either has a handle there."""
    a, b = _xy(start), _xy(end)
    outgoing = _xy(start.get("controlPoint2")) if start.get("isBezier") and start.get("controlPoint2") else None
    incoming = _xy(end.get("controlPoint1")) if end.get("isBezier") and end.get("controlPoint1") else None
    if outgoing is None and incoming is None:
        return a[None]
    p = a + FREE * (b - a) if outgoing is None else outgoing
    q = b - FREE * (b - a) if incoming is None else incoming
    t = np.linspace(0, 1, CURVE_STEPS, endpoint=False)[:, None]
    curve: NDArray[np.float64] = (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * p + 3 * (1 - t) * t**2 * q + t**3 * b
    return curve


def _xy(point: object) -> NDArray[np.float64]:
    """(2,) percent. Raises MaskError."""
    try:
        x, y = point["x"], point["y"]  # type: ignore[index]
        if isinstance(x, int | float) and isinstance(y, int | float):
            return np.array([float(x), float(y)])
    except (TypeError, LookupError, OverflowError):
        pass
    raise MaskError(f"a vertex must have numbers x and y, not {reprlib.repr(point)}")


_READERS: Mapping[str, Callable[[Region, Size], Mask]] = {
    "brushlabels": _brush,
    "bitmasklabels": _bitmask,
    "polygonlabels": _polygon,
    VECTOR: _vector,
    BOX: _rectangle,
    ELLIPSE: _ellipse,
}
READABLE_TYPES = tuple(_READERS)  # types of regions that masks are made of
# The same shapes by controls that give no label, such as <Polygon>.
_UNLABELED = {kind.removesuffix("labels"): reader for kind, reader in _READERS.items()}

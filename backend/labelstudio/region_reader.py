"""Label Studio's regions, to masks and label maps."""

import math
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.backend.errors import BadRequest
from skylight.backend.labelstudio.label_config import BOX, ELLIPSE, POINT, VECTOR, Labeling, parse_config
from skylight.backend.labelstudio.region_writer import make_region
from skylight.backend.labelstudio.whole_numbers import whole
from skylight.backend.limits import MAX_REGIONS, MAX_SIDE
from skylight.model.masks.bitmask import OPAQUE, decode_png
from skylight.model.masks.brush_rle import decode_rle
from skylight.model.masks.errors import EmptyMask, MaskError
from skylight.model.masks.instance_map import instance_map
from skylight.model.masks.label_map import IGNORE
from skylight.model.masks.rasterize import MAX_PERCENT, MAX_VERTICES, ellipse_mask, polygon_mask

__all__ = [
    "READABLE",
    "READING",
    "EmptyRegion",
    "Item",
    "LabelMap",
    "Labeling",
    "Size",
    "corners",
    "has_shape",
    "holds_mask",
    "is_open",
    "is_region",
    "items_of",
    "label_map",
    "label_of",
    "make_region",
    "numbers",
    "parse_config",
    "read_mask",
    "size_of",
]

READING = 1  # counted up when regions are read otherwise than before; 0: ellipses were background
CURVE_STEPS = 16  # straight parts that a curve between two vertices is drawn with
FREE = 0.3  # where the editor puts the control point that one end of a curve lacks: this share of the way from that end

Size = tuple[int, int]  # height, width in pixels
Item = Mapping[str, Any]  # one region, as in a context or a result


class EmptyRegion(BadRequest):
    """A region without a shape, such as a polygon of two points: it says nothing about any pixel."""


@dataclass(frozen=True)
class LabelMap:
    """What the regions of one annotation say about every pixel."""

    array: NDArray[np.uint8]  # (H, W), 0 background, k = k-th label
    instances: NDArray[np.uint16]  # (H, W), k = the k-th region if it is a single object, 0 where none is known
    regions: int  # how many regions are in it
    ignored: tuple[str, ...]  # why each of the others is not, prompts left out
    parked: tuple[str, ...] = ()  # labels that the configuration does not have; their regions' pixels are 255


@dataclass
class _Sorted:
    """The regions of an annotation by what they say."""

    masks: list[Item]  # in drawing order; also those of labels that the configuration does not have
    unlabelled: list[Item]  # shapes of controls that give no label
    ignored: list[str]  # why regions say nothing
    parked: dict[str, None]  # labels that the configuration does not have


def label_map(result: Sequence[Item], labeling: Labeling, size: Size, item_index: int = 0) -> LabelMap:
    """The label map of an annotation's regions on an image of `size` (H, W); a later one covers an earlier.

    Brush, bitmask, polygon, closed vector and ellipse regions are masks, and so is a rectangle, unless its control is
    smart and not the one that masks of its label go to: then it is a prompt, as key points always are. What is labelled
    is never background: the pixels of a label that the configuration does not have, and those of a shape without a
    label where nothing else is, are 255. A region without a shape, such as a polygon of two points, is left out.

    Of a configuration with several Image tags only regions of `labeling.image` are read, of a task with several images
    in it only those of the one at `item_index`. `image_rotation` is how the editor showed the image; no coordinate
    depends on it. Raises BadRequest if a mask was drawn on another size than `size`, or on an Image tag that the
    configuration does not have, or is damaged, ValueError if there are more than 65535.
    """
    array = np.zeros(size, np.uint8)
    regions = items_of(result)
    if len(regions) > MAX_REGIONS:
        raise BadRequest(f"{len(regions)} regions in one annotation are more than {MAX_REGIONS}; split the image")
    found = _sorted(regions, labeling, item_index)
    count = 0

    def shape(region: Item) -> NDArray[np.bool_] | None:
        try:
            return read_mask(region, size)
        except EmptyRegion as error:
            found.ignored.append(f"{error}; it is left out")
            return None

    def drawn() -> Iterator[NDArray[np.bool_]]:  # one mask at a time: hundreds of large ones would fill the memory
        nonlocal count
        for region in found.masks:
            if (mask := shape(region)) is None:
                continue
            number = labeling.number(label_of(region))
            array[mask] = number or IGNORE
            if number:
                count += 1
                yield mask

    objects = instance_map(drawn(), size)
    for region in found.unlabelled:
        if (mask := shape(region)) is not None:
            array[mask & (array == 0)] = IGNORE
    objects[array == IGNORE] = 0
    return LabelMap(array, objects, count, tuple(found.ignored), tuple(found.parked))


def _sorted(regions: Sequence[Item], labeling: Labeling, item_index: int) -> _Sorted:
    """The regions of one image, prompts left out."""
    found = _Sorted([], [], [], {})
    for region in regions:
        if _is_prompt(region, labeling) or (region.get("item_index") or 0) != item_index:
            continue
        who = f"region {region.get('id')!r}"
        if reason := _not_a_mask(region, labeling):
            found.ignored.append(f"{who}: {reason}")
        elif _is_unlabelled(region):
            found.unlabelled.append(region)
            found.ignored.append(f"{who}: {region['type']} has no label; its pixels are learned from neither way")
        else:
            found.masks.append(region)
            label = label_of(region)
            if not labeling.number(label):
                found.parked[label] = None
                reason = f"label {label!r} is not in the configuration; its pixels are learned from neither way"
                found.ignored.append(f"{who}: {reason}")
    return found


def items_of(context: object) -> list[Item]:
    """The regions in a context, in its `result`, or in nothing at all."""
    found = context.get("result") if isinstance(context, Mapping) else context
    if found is None:
        return []
    if not isinstance(found, list | tuple) or not all(isinstance(item, Mapping) for item in found):
        raise BadRequest(f"regions must be a list of objects, not {reprlib.repr(found)}")
    return list(found)


def size_of(item: Item, shown: Size | None = None) -> Size:
    """Height and width in px of the image that a region was drawn on; what it does not say is as in `shown`.

    Scripts leave them out, or write 200.0 for 200. Raises BadRequest if they are not whole numbers from 1 on.
    """
    given = item.get("original_height"), item.get("original_width")
    sides = [own if side is None else side for side, own in zip(given, shown or given, strict=True)]
    height, width = map(whole, sides)
    if height is None or width is None or not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise BadRequest(
            f"region {item.get('id')!r} has original size {str(sides[1])[:40]} x {str(sides[0])[:40]}, not whole "
            f"pixels, 1 to {MAX_SIDE}"
        )
    return height, width


def _value(item: Item) -> Mapping[str, Any]:
    value = item.get("value")
    if not isinstance(value, Mapping):
        raise BadRequest(f"region {item.get('id')!r} has no value object")
    return value


def numbers(item: Item, *keys: str) -> list[float]:
    """Some of the numbers in a region's value. Raises BadRequest if one is missing, or not within a million."""
    found = [_value(item).get(key) for key in keys]
    for key, number in zip(keys, found, strict=True):
        if not isinstance(number, int | float) or not abs(number) <= MAX_PERCENT:
            raise BadRequest(f"region {item.get('id')!r} has {key} {str(number)[:40]!r}, not a sound number")
    return [float(number) for number in found if number is not None]


def label_of(item: Item) -> str:
    """The region's label, "" if it has none."""
    value = _value(item)
    names = value.get(str(item.get("type"))) or value.get("labels") or [""]
    return str(names[0]) if isinstance(names, list) else str(names)


def corners(item: Item, size: Size) -> NDArray[np.float64]:
    """(4, 2) xy pixels of a rectangle; rotation is in degrees, clockwise, around its first corner."""
    scale = np.array(size[::-1]) / 100
    x, y, width, height = numbers(item, "x", "y", "width", "height")
    turn = math.radians(numbers(item, "rotation")[0] if _value(item).get("rotation") else 0.0)
    across = np.array([math.cos(turn), math.sin(turn)]) * width * scale[0]
    down = np.array([-math.sin(turn), math.cos(turn)]) * height * scale[1]
    shape: NDArray[np.float64] = np.stack([0 * across, across, across + down, down])
    return shape + np.array([x, y]) * scale


def _rectangle(item: Item, size: Size) -> NDArray[np.bool_]:
    return polygon_mask(corners(item, size) * 100 / np.array(size[::-1]), *size)


def _ellipse(item: Item, size: Size) -> NDArray[np.bool_]:
    x, y, across, down = numbers(item, "x", "y", "radiusX", "radiusY")
    turn = numbers(item, "rotation")[0] if _value(item).get("rotation") else 0.0
    height, width = size
    centre, radii = (x * width / 100, y * height / 100), (across * width / 100, down * height / 100)
    return ellipse_mask(centre, radii, turn, height, width)


def _brush(item: Item, size: Size) -> NDArray[np.bool_]:
    rle: Any = _value(item).get("rle")
    return decode_rle(rle, *size) > OPAQUE


def _bitmask(item: Item, size: Size) -> NDArray[np.bool_]:
    url = _value(item).get("imageDataURL")
    if url == "":
        raise EmptyMask("its image is empty")
    return decode_png(str(url), size)


def _vector(item: Item, size: Size) -> NDArray[np.bool_]:
    vertices = _vertices(item)
    around = zip(vertices, [*vertices[1:], *vertices[:1]], strict=True)
    return polygon_mask(np.concatenate([_curve(one, other) for one, other in around]), *size)


def _vertices(item: Item) -> list[Mapping[str, Any]]:
    found = _value(item).get("vertices") or []
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise MaskError(f"a closed vector needs a list of vertices, not {reprlib.repr(found)}")
    if not found:
        raise EmptyMask("a closed vector needs vertices")
    if len(found) > MAX_VERTICES:
        raise MaskError(f"a vector of {len(found)} vertices has more than {MAX_VERTICES}; simplify it")
    return found


def _curve(start: Mapping[str, Any], end: Mapping[str, Any]) -> NDArray[np.float64]:
    """(N, 2) xy percent from one vertex to just before the next: a cubic Bezier curve if either has a handle there."""
    a, b = _xy(start), _xy(end)
    leaving = _xy(start.get("controlPoint2")) if start.get("isBezier") and start.get("controlPoint2") else None
    coming = _xy(end.get("controlPoint1")) if end.get("isBezier") and end.get("controlPoint1") else None
    if leaving is None and coming is None:
        return a[None]
    p = a + FREE * (b - a) if leaving is None else leaving
    q = b - FREE * (b - a) if coming is None else coming
    t = np.linspace(0, 1, CURVE_STEPS, endpoint=False)[:, None]
    curve: NDArray[np.float64] = (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * p + 3 * (1 - t) * t**2 * q + t**3 * b
    return curve


def _xy(point: object) -> NDArray[np.float64]:
    try:
        x, y = point["x"], point["y"]  # type: ignore[index]
        if isinstance(x, int | float) and isinstance(y, int | float):
            return np.array([float(x), float(y)])
    except (TypeError, LookupError, OverflowError):
        pass
    raise MaskError(f"a vertex must have numbers x and y, not {reprlib.repr(point)}")


_READERS: Mapping[str, Callable[[Item, Size], NDArray[np.bool_]]] = {
    "brushlabels": _brush,
    "bitmasklabels": _bitmask,
    "polygonlabels": lambda item, size: polygon_mask(_value(item).get("points") or (), *size),
    VECTOR: _vector,
    BOX: _rectangle,
    ELLIPSE: _ellipse,
}
READABLE = tuple(_READERS)  # kinds of regions that masks are made of
# The same shapes by controls that give no label, such as <Polygon>.
_UNLABELLED = {kind.removesuffix("labels"): reader for kind, reader in _READERS.items()}


def holds_mask(region: Item, labeling: Labeling) -> bool:
    """Whether a region is a mask, whatever image and label it is of, and not a prompt or another kind of mark."""
    kind = str(region.get("type"))
    return kind in _READERS and not _is_prompt(region, labeling) and not is_open(region)


def is_region(kind: str) -> bool:
    """Whether results of a kind mark a place, with a label or without, and are not choices, texts or the like."""
    return kind.endswith("labels") or kind in _UNLABELLED or kind == POINT.removesuffix("labels")


def is_open(region: Item) -> bool:
    """Whether a region is a line, which has no inside."""
    return str(region.get("type")) in (VECTOR, VECTOR.removesuffix("labels")) and not _is_closed(region)


def has_shape(region: Item) -> bool:
    """Whether a mask region was drawn at all, by the number of its points, without looking at what it covers."""
    value, kind = _value(region), region.get("type")
    if kind == VECTOR:
        vertices = value.get("vertices") or []
        return len(vertices) > 2 or any(each.get("isBezier") for each in vertices)
    if kind == "polygonlabels":
        return len(value.get("points") or []) > 2
    return value.get("rle") != [] and value.get("imageDataURL") != ""


def _is_unlabelled(region: Item) -> bool:
    """Whether a region is a shape with an inside, of a control that gives no label."""
    kind = str(region.get("type"))
    return kind in _UNLABELLED and not is_open(region)


def _is_prompt(region: Item, labeling: Labeling) -> bool:
    kind, control = region.get("type"), str(region.get("from_name"))
    if kind != BOX:
        return bool(kind == POINT)
    if control not in labeling.prompts and all(control != each.name for each in labeling.outputs):
        # Of a control that is gone or renamed: a mask only if that is what masks of its label are now.
        return bool(labeling.number(label_of(region))) and labeling.output(label_of(region)).type != BOX
    return control in labeling.prompts and not labeling.takes(control, label_of(region))


def _is_closed(region: Item) -> bool:
    return bool(_value(region).get("closed"))


def _not_a_mask(region: Item, labeling: Labeling) -> str:
    """Why a region does not go into the label map, "" if it does."""
    if not holds_mask(region, labeling) and not _is_unlabelled(region):
        return "an open line has no inside" if is_open(region) else f"{region.get('type')} is not a mask"
    image = region.get("to_name", labeling.image)
    if all(image != each.image for each in labeling.outputs):
        raise BadRequest(
            f"region {region.get('id')!r} was drawn on the Image tag {reprlib.repr(image)}, which the configuration "
            "does not have; give the tag its name again, or draw the region anew"
        )
    return f"it belongs to {reprlib.repr(image)}, not to {labeling.image!r}" if image != labeling.image else ""


def read_mask(region: Item, size: Size) -> NDArray[np.bool_]:
    """The (H, W) bool mask of a region on an image of `size` (H, W) px.

    Raises EmptyRegion if it has no shape, BadRequest if it was drawn on another size or is damaged, KeyError if its
    type holds no mask.
    """
    who, wanted = f"region {region.get('id')!r}", f"{size[1]} x {size[0]}"
    drawn, kind = size_of(region, size), str(region["type"])
    if drawn != tuple(size):
        raise BadRequest(f"{who} was drawn on {drawn[1]} x {drawn[0]} pixels, but the image has {wanted}")
    try:
        mask = (_READERS.get(kind) or _UNLABELLED[kind])(region, drawn)
    except EmptyMask as error:
        raise EmptyRegion(f"{who} covers nothing: {error}") from error
    except MaskError as error:
        raise BadRequest(f"{who} cannot be read: {error}") from error
    if mask.shape != drawn:
        raise BadRequest(f"{who} holds a mask of {mask.shape[1]} x {mask.shape[0]} pixels, but the image has {wanted}")
    return mask

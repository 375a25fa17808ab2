"""Label Studio's regions, to and from prompts, masks and label maps."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import BadRequest, ConfigError
from backend.labeling import BOX, POINT, Labeling, parse_config
from model.instances import instance_map
from model.masks import (
    MAX_PERCENT,
    OPAQUE,
    MaskError,
    decode_png,
    decode_rle,
    encode_png,
    encode_rle,
    polygon_mask,
)
from model.sam import Prompt

__all__ = [
    "LabelMap",
    "Labeling",
    "context_index",
    "context_size",
    "label_map",
    "make_region",
    "parse_config",
    "read_prompt",
]

Size = tuple[int, int]  # height, width in pixels
Item = Mapping[str, Any]  # one region, as in a context or a result


@dataclass(frozen=True)
class LabelMap:
    """What the regions of one annotation say about every pixel."""

    array: NDArray[np.uint8]  # (H, W), 0 background, k = k-th label
    instances: NDArray[np.uint16]  # (H, W), k = the k-th region if it is a single object, 0 where none is known
    regions: int  # how many regions are in it
    ignored: tuple[str, ...]  # why each of the others is not, prompts left out


def context_size(context: object) -> Size | None:
    """Height and width of the image as the browser sees it, from a context (or its `result`).

    None if it holds no prompt. Raises BadRequest if they are missing or not positive.
    """
    items = _prompts(context)
    return _size(items[-1]) if items else None


def context_index(context: object) -> int | None:
    """Which of a task's images was clicked, `item_index` of the last prompt; None where it has but one."""
    items = _prompts(context)
    index = items[-1].get("item_index") if items else None
    return index if isinstance(index, int) else None


def read_prompt(context: object, labeling: Labeling) -> tuple[Prompt, str] | None:
    """What the annotator asks for, and under which label, from the context of a /predict (or its `result`).

    All points are one prompt, the last rectangle is its box; pixels, xy, cut to the image. None if there is
    neither. Of a task with several images only the one clicked last counts. Raises BadRequest if a region
    cannot be read, ConfigError if the control that takes the masks does not have the label.
    """
    items = [item for item in _prompts(context) if item.get("to_name", labeling.image) == labeling.image]
    items = [item for item in items if item.get("item_index") == items[-1].get("item_index")]
    if not items:
        return None
    label = _prompt_label(items[-1], labeling)
    size = _size(items[-1])
    limit = np.array(size[::-1], float)
    clicked = [item for item in items if item["type"] == POINT]
    points = np.array([_numbers(item, "x", "y") for item in clicked]).reshape(-1, 2) * limit / 100
    positive = np.array([item.get("is_positive") is not False for item in clicked], bool)
    boxes = [item for item in items if item["type"] == BOX]
    box = None
    if boxes:
        corners = np.clip(_corners(boxes[-1], size), 0, limit)
        box = np.concatenate([corners.min(axis=0), corners.max(axis=0)]).astype(np.float32)
    return Prompt(np.clip(points, 0, limit - 1).astype(np.float32), positive, box), label


def make_region(
    labeling: Labeling,
    mask: NDArray[np.bool_],
    label: str,
    score: float,
    id: str,
    item_index: int | None = None,
) -> dict[str, Any]:
    """A predicted region for the control that takes masks, of a (H, W) bool mask in the browser's size.

    `score` in [0, 1]. Raises ValueError if the label is not the control's, the score is not such a number,
    or the mask is not 2-D bool: Label Studio checks nothing, and a wrong region locks the annotation.
    """
    if label not in labeling.labels:
        raise ValueError(f"label {label!r} is not one of {labeling.control!r}: {', '.join(labeling.labels)}")
    if not 0 <= score <= 1:
        raise ValueError(f"a score must be between 0 and 1, not {score}")
    if labeling.type == "brushlabels":
        value: dict[str, Any] = {"format": "rle", "rle": encode_rle(mask)}
    else:
        value = {"imageDataURL": encode_png(mask)}
    region: dict[str, Any] = {
        "id": id,
        "from_name": labeling.control,
        "to_name": labeling.image,
        "type": labeling.type,
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "score": round(float(score), 4),
        "origin": "prediction",
        "value": {**value, labeling.type: [label]},
    }
    return region if item_index is None else {**region, "item_index": item_index}


def label_map(result: Sequence[Item], labeling: Labeling, size: Size, item_index: int = 0) -> LabelMap:
    """The label map of an annotation's regions on an image of `size` (H, W); a later one covers an earlier.

    Brush, bitmask and polygon regions are masks, and so is a rectangle, unless its control is smart: then
    it is a prompt, as key points always are. Of a task with several images only the one at `item_index` is
    read. Raises BadRequest if a mask was drawn on another size than `size`, or is damaged, ValueError if there
    are more than 65535.
    """
    array = np.zeros(size, np.uint8)
    used: list[Item] = []
    ignored = []
    for region in _items(result):
        if _is_prompt(region, labeling) or (region.get("item_index") or 0) != item_index:
            continue
        reason = _not_a_mask(region, labeling)
        if reason:
            ignored.append(f"region {region.get('id')!r}: {reason}")
            continue
        used.append(region)

    def drawn() -> Iterator[NDArray[np.bool_]]:  # one mask at a time: hundreds of large ones would fill the memory
        for region in used:
            mask = _read_mask(region, size)
            array[mask] = labeling.number(_label(region))
            yield mask

    objects = instance_map(drawn(), size)
    return LabelMap(array, objects, len(used), tuple(ignored))


def _items(context: object) -> list[Item]:
    """The regions in a context, in its `result`, or in nothing at all."""
    found = context.get("result") if isinstance(context, Mapping) else context
    if found is None:
        return []
    if not isinstance(found, list | tuple) or not all(isinstance(item, Mapping) for item in found):
        raise BadRequest(f"regions must be a list of objects, not {str(found)[:80]!r}")
    return list(found)


def _prompts(context: object) -> list[Item]:
    return [item for item in _items(context) if item.get("type") in (POINT, BOX)]


def _size(item: Item) -> Size:
    height, width = item.get("original_height"), item.get("original_width")
    if not isinstance(height, int) or not isinstance(width, int) or height < 1 or width < 1:
        raise BadRequest(f"region {item.get('id')!r} has original size {width} x {height}, not whole numbers of pixels")
    return height, width


def _value(item: Item) -> Mapping[str, Any]:
    value = item.get("value")
    if not isinstance(value, Mapping):
        raise BadRequest(f"region {item.get('id')!r} has no value object")
    return value


def _numbers(item: Item, *keys: str) -> list[float]:
    numbers = [_value(item).get(key) for key in keys]
    for key, number in zip(keys, numbers, strict=True):
        if not isinstance(number, int | float) or not abs(number) <= MAX_PERCENT:
            raise BadRequest(f"region {item.get('id')!r} has {key} {str(number)[:40]!r}, not a sound number")
    return [float(number) for number in numbers if number is not None]


def _label(item: Item) -> str:
    """The region's label, "" if it has none."""
    value = _value(item)
    names = value.get(str(item.get("type"))) or value.get("labels") or [""]
    return str(names[0]) if isinstance(names, list) else str(names)


def _prompt_label(item: Item, labeling: Labeling) -> str:
    label = _label(item)
    if not label:
        raise BadRequest(f"region {item.get('id')!r} has no label; pick one before clicking")
    number = labeling.number(label)
    if not number:
        known = ", ".join(labeling.labels)
        raise ConfigError(f"control {labeling.control!r} has no label {label!r}, only {known}; add it to the config")
    return labeling.labels[number - 1]


def _corners(item: Item, size: Size) -> NDArray[np.float64]:
    """(4, 2) xy pixels of a rectangle; rotation is in degrees, clockwise, around its first corner."""
    scale = np.array(size[::-1]) / 100
    x, y, width, height = _numbers(item, "x", "y", "width", "height")
    turn = math.radians(_numbers(item, "rotation")[0] if _value(item).get("rotation") else 0.0)
    across = np.array([math.cos(turn), math.sin(turn)]) * width * scale[0]
    down = np.array([-math.sin(turn), math.cos(turn)]) * height * scale[1]
    corners: NDArray[np.float64] = np.stack([0 * across, across, across + down, down])
    return corners + np.array([x, y]) * scale


def _rectangle(item: Item, size: Size) -> NDArray[np.bool_]:
    return polygon_mask(_corners(item, size) * 100 / np.array(size[::-1]), *size)


_READERS: Mapping[str, Callable[[Item, Size], NDArray[np.bool_]]] = {
    "brushlabels": lambda item, size: decode_rle(_value(item).get("rle", ()), *size) > OPAQUE,
    "bitmasklabels": lambda item, size: decode_png(_value(item).get("imageDataURL", "")),
    "polygonlabels": lambda item, size: polygon_mask(_value(item).get("points", ()), *size),
    "rectanglelabels": _rectangle,
}


def _is_prompt(region: Item, labeling: Labeling) -> bool:
    kind = region.get("type")
    return kind == POINT or (kind == BOX and region.get("from_name") in labeling.prompts)


def _not_a_mask(region: Item, labeling: Labeling) -> str:
    """Why a region does not go into the label map, "" if it does."""
    if region.get("type") not in _READERS:
        return f"{region.get('type')} is not a mask"
    if region.get("to_name", labeling.image) != labeling.image:
        return f"it belongs to {region['to_name']!r}, not to {labeling.image!r}"
    label = _label(region)
    return "" if labeling.number(label) else f"label {label!r} is not in the configuration"


def _read_mask(region: Item, size: Size) -> NDArray[np.bool_]:
    who, wanted = f"region {region.get('id')!r}", f"{size[1]} x {size[0]}"
    drawn = _size(region)
    if drawn != tuple(size):
        raise BadRequest(f"{who} was drawn on {drawn[1]} x {drawn[0]} pixels, but the image has {wanted}")
    try:
        mask = _READERS[str(region["type"])](region, drawn)
    except MaskError as error:
        raise BadRequest(f"{who} cannot be read: {error}") from error
    if mask.shape != drawn:
        raise BadRequest(f"{who} holds a mask of {mask.shape[1]} x {mask.shape[0]} pixels, but the image has {wanted}")
    return mask

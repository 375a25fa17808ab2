"""What an annotator asks for: the prompts in the context of a /predict."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skylight.backend.errors import BadRequest
from skylight.backend.labelstudio.label_config import BOX, POINT, Labeling, Output
from skylight.backend.labelstudio.region_reader import Item, Size, corners, items_of, label_of, numbers, size_of
from skylight.model.sam.types import Prompt

COORDINATES = {POINT: ("x", "y"), BOX: ("x", "y", "width", "height")}  # without which a prompt has no place
PictureSize = Callable[[Output, int | None], Size]  # of the picture, the `index`-th where there are several


@dataclass(frozen=True)
class ClickRequest:
    """One prompt, and what its answer must be like."""

    prompt: Prompt  # in pixels of the image as the browser knows it, cut to it
    output: Output  # the control that the answer is for
    label: str  # as that control spells it
    size: Size  # of the image as the browser knows it
    index: int | None  # which of the task's images, None where it has but one
    rotation: int  # degrees by which the editor shows the image turned; coordinates are those of the image unturned
    box: tuple[Hashable, ...] | None  # what tells the rectangle from others, None without one
    points: tuple[Hashable, ...]  # what tells each point from others, in the order of the clicks


def read_prompt(context: object, labeling: Labeling, picture_size: PictureSize | None = None) -> ClickRequest | None:
    """What the annotator asks for, from the context of a /predict (or its `result`); None if nothing.

    The last prompt says which image (of several tags, or of several that one tag shows) and which label is meant. All
    points there are one prompt, whatever smart control they were made with, and the last rectangle is its box. Those
    without coordinates are left out. `picture_size` is asked where the last prompt does not say its picture's size.
    Raises BadRequest if a region cannot be read, or none has coordinates, ConfigError if no control takes masks of that
    label and image; and what `picture_size` raises.
    """
    items = [item for item in items_of(context) if item.get("type") in (POINT, BOX)]
    images = {each.image for each in labeling.outputs}
    items = [item for item in items if str(item.get("to_name", labeling.image)) in images]
    if not items:
        return None
    given, items = items, [item for item in items if _has_coordinates(item)]
    if not items:
        raise BadRequest(f"prompt {given[-1].get('id')!r} has no coordinates x and y; click again")
    last = items[-1]
    items = [item for item in items if _place(item, labeling) == _place(last, labeling)]
    output, label = _meant(last, labeling)
    clicked = [item for item in items if item["type"] == POINT]
    boxes = [item for item in items if item["type"] == BOX]
    index, rotation = last.get("item_index"), last.get("image_rotation")
    index = index if isinstance(index, int) else None
    unsized = last.get("original_height") is None or last.get("original_width") is None
    size = size_of(last, picture_size(output, index) if unsized and picture_size else None)
    return ClickRequest(
        prompt=_prompt(clicked, boxes[-1:], size),
        output=output,
        label=label,
        size=size,
        index=index,
        rotation=rotation if isinstance(rotation, int) else 0,
        box=_identity(boxes[-1]) if boxes else None,
        points=tuple(map(_identity, clicked)),
    )


def _has_coordinates(item: Item) -> bool:
    """Whether a prompt has all its coordinates, whatever they are; one whose value is no object is refused later."""
    value = item.get("value")
    return not isinstance(value, Mapping) or all(value.get(key) is not None for key in COORDINATES[item["type"]])


def _place(item: Item, labeling: Labeling) -> tuple[object, object]:
    return item.get("to_name", labeling.image), item.get("item_index")


def _meant(item: Item, labeling: Labeling) -> tuple[Output, str]:
    """The control that takes the answer, and the label as it spells it."""
    label = label_of(item)
    if not label:
        raise BadRequest(f"region {item.get('id')!r} has no label; pick one before clicking")
    output = labeling.output(label, str(item.get("to_name", labeling.image)))
    return output, output.spelled(label)


def _prompt(clicked: Sequence[Item], boxes: Sequence[Item], size: Size) -> Prompt:
    limit = np.array(size[::-1], float)
    points = np.array([numbers(item, "x", "y") for item in clicked]).reshape(-1, 2) * limit / 100
    positive = np.array([_is_positive(item) for item in clicked], bool)
    return Prompt(np.clip(points, 0, limit - 1).astype(np.float32), positive, _box(boxes[-1], size) if boxes else None)


def _is_positive(item: Item) -> bool:
    """Whether a point is on the object: Label Studio says it in `is_positive`, newer callers in the `value`."""
    value = item.get("value")
    said = (item.get("is_positive"), value.get("positive") if isinstance(value, dict) else None)
    return all(each is None or bool(each) for each in said)


def _box(item: Item, size: Size) -> NDArray[np.float32]:
    inside = np.clip(corners(item, size), 0, size[::-1])
    box: NDArray[np.float32] = np.concatenate([inside.min(axis=0), inside.max(axis=0)]).astype(np.float32)
    return box


def _identity(item: Item) -> tuple[Hashable, ...]:
    """The editor gives every region a random id; one that was moved or resized is another prompt."""
    place = tuple(numbers(item, "x", "y", "width", "height") if item["type"] == BOX else numbers(item, "x", "y"))
    return str(item.get("id")), place, _is_positive(item)

"""The prompts (points and rectangles) in the context of a /predict."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skylight.backend.errors import BadRequest
from skylight.backend.labelstudio.label_config import BOX, POINT, Labeling, Output
from skylight.backend.labelstudio.region_fields import (
    Region,
    Size,
    image_size,
    label_of,
    numbers,
    rectangle_corners,
    regions_in,
)
from skylight.model.sam.types import Prompt

COORDINATES = {POINT: ("x", "y"), BOX: ("x", "y", "width", "height")}  # without which a prompt has no place
ImageSize = Callable[[Output, int | None], Size]  # of a control's image, the `index`-th where there are several


@dataclass(frozen=True)
class ClickRequest:
    """A prompt of the annotator, and what its answer must be like."""

    prompt: Prompt  # in pixels of the image as the browser knows it, cut to it
    output: Output  # the control that the answer is for
    label: str  # as that control spells it
    size: Size  # of the image as the browser knows it
    index: int | None  # which of the task's images, None where it has but one
    rotation: int  # degrees by which the editor shows the image turned; coordinates are those of the image unturned
    box: tuple[Hashable, ...] | None  # what tells the rectangle from others, None without one
    points: tuple[Hashable, ...]  # what tells each point from others, in the order of the clicks


def read_prompt(context: object, labeling: Labeling, default_size: ImageSize | None = None) -> ClickRequest | None:
    """Read the prompt in the context of a /predict (or in its `result`); None if there is none.

    The last prompt says which image (of several tags, or of several that one tag shows) and which label is meant. All
    points there are one prompt, whatever smart control they were made with, and the last rectangle is its box. Those
    without coordinates are left out. `default_size` is asked where the last prompt does not say its image's size.
    Raises BadRequest if a region cannot be read, or none has coordinates, ConfigError if no control takes masks of that
    label and image; and what `default_size` raises.
    """
    regions = [region for region in regions_in(context) if region.get("type") in (POINT, BOX)]
    images = {output.image for output in labeling.outputs}
    regions = [region for region in regions if str(region.get("to_name", labeling.image)) in images]
    if not regions:
        return None
    located = [region for region in regions if _has_coordinates(region)]
    if not located:
        raise BadRequest(f"prompt {regions[-1].get('id')!r} has no coordinates x and y; click again")
    last = located[-1]
    regions = [region for region in located if _image_of(region, labeling) == _image_of(last, labeling)]
    output, label = _output_and_label(last, labeling)
    points = [region for region in regions if region["type"] == POINT]
    boxes = [region for region in regions if region["type"] == BOX]
    index, rotation = last.get("item_index"), last.get("image_rotation")
    index = index if isinstance(index, int) else None
    unsized = last.get("original_height") is None or last.get("original_width") is None
    size = image_size(last, default_size(output, index) if unsized and default_size else None)
    return ClickRequest(
        prompt=_prompt(points, boxes[-1:], size),
        output=output,
        label=label,
        size=size,
        index=index,
        rotation=rotation if isinstance(rotation, int) else 0,
        box=_identity(boxes[-1]) if boxes else None,
        points=tuple(map(_identity, points)),
    )


def _has_coordinates(region: Region) -> bool:
    """Whether a prompt has all its coordinates, whatever they are; one whose value is no object is refused later."""
    value = region.get("value")
    return not isinstance(value, Mapping) or all(value.get(key) is not None for key in COORDINATES[region["type"]])


def _image_of(region: Region, labeling: Labeling) -> tuple[object, object]:
    return region.get("to_name", labeling.image), region.get("item_index")


def _output_and_label(region: Region, labeling: Labeling) -> tuple[Output, str]:
    """The control that takes the answer, and the label as it spells it."""
    label = label_of(region)
    if not label:
        raise BadRequest(f"region {region.get('id')!r} has no label; pick one before clicking")
    output = labeling.output(label, str(region.get("to_name", labeling.image)))
    return output, output.own_label(label)


def _prompt(points: Sequence[Region], boxes: Sequence[Region], size: Size) -> Prompt:
    limit = np.array(size[::-1], float)
    xy = np.array([numbers(region, "x", "y") for region in points]).reshape(-1, 2) * limit / 100
    positive = np.array([_is_positive(region) for region in points], bool)
    return Prompt(np.clip(xy, 0, limit - 1).astype(np.float32), positive, _box(boxes[-1], size) if boxes else None)


def _is_positive(region: Region) -> bool:
    """Whether a point is on the object: Label Studio says it in `is_positive`, newer callers in the `value`."""
    value = region.get("value")
    flags = (region.get("is_positive"), value.get("positive") if isinstance(value, dict) else None)
    return all(flag is None or bool(flag) for flag in flags)


def _box(region: Region, size: Size) -> NDArray[np.float32]:
    """(4,) x0, y0, x1, y1 px, cut to the image."""
    inside = np.clip(rectangle_corners(region, size), 0, size[::-1])
    box: NDArray[np.float32] = np.concatenate([inside.min(axis=0), inside.max(axis=0)]).astype(np.float32)
    return box


def _identity(region: Region) -> tuple[Hashable, ...]:
    """What tells a prompt from others: the editor's random id, and its place, as a moved one is another prompt."""
    position = tuple(numbers(region, *COORDINATES[region["type"]]))
    return str(region.get("id")), position, _is_positive(region)

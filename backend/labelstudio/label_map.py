"""The label map of an annotation: what its regions say about every pixel."""

import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skylight.backend.errors import BadRequest
from skylight.backend.labelstudio.label_config import Labeling
from skylight.backend.labelstudio.region_fields import Region, Size, label_of, regions_in
from skylight.backend.labelstudio.region_reader import (
    EmptyRegion,
    is_mask,
    is_open_line,
    is_prompt,
    is_unlabeled_mask,
    read_mask,
)
from skylight.backend.limits import MAX_REGIONS
from skylight.model.masks.instance_map import instance_map
from skylight.model.masks.label_map import IGNORE


@dataclass(frozen=True)
class LabelMap:
    """What the regions of one annotation say about every pixel."""

    array: NDArray[np.uint8]  # (H, W), 0 background, k = k-th label
    instances: NDArray[np.uint16]  # (H, W), k = the k-th region if it is a single object, 0 where none is known
    regions: int  # how many regions are in it
    ignored: tuple[str, ...]  # why each of the others is not, prompts left out
    parked: tuple[str, ...] = ()  # labels that the configuration does not have; their regions' pixels are 255


@dataclass
class _SortedRegions:
    """The regions of an annotation by what they say."""

    masks: list[Region]  # in drawing order; also those of labels that the configuration does not have
    unlabeled: list[Region]  # shapes of controls that give no label
    ignored: list[str]  # why regions say nothing
    parked: dict[str, None]  # labels that the configuration does not have


def label_map(result: Sequence[Region], labeling: Labeling, size: Size, item_index: int = 0) -> LabelMap:
    """The label map of an annotation's regions on an image of `size` (H, W); a later one covers an earlier.

    Brush, bitmask, polygon, closed vector and ellipse regions are masks, and so is a rectangle, unless its control is
    smart and not the one that masks of its label go to: then it is a prompt, as key points always are. What is labeled
    is never background: the pixels of a label that the configuration does not have, and those of a shape without a
    label where nothing else is, are 255. A region without a shape, such as a polygon of two points, is left out.

    Of a configuration with several Image tags only regions of `labeling.image` are read, of a task with several images
    in it only those of the one at `item_index`. `image_rotation` is how the editor showed the image; no coordinate
    depends on it. Raises BadRequest if a mask was drawn on another size than `size`, or on an Image tag that the
    configuration does not have, or is damaged, ValueError if there are more than 65535.
    """
    array = np.zeros(size, np.uint8)
    regions = regions_in(result)
    if len(regions) > MAX_REGIONS:
        raise BadRequest(f"{len(regions)} regions in one annotation are more than {MAX_REGIONS}; split the image")
    by_kind = _sort(regions, labeling, item_index)
    count = 0

    def mask_of(region: Region) -> NDArray[np.bool_] | None:
        try:
            return read_mask(region, size)
        except EmptyRegion as error:
            by_kind.ignored.append(f"{error}; it is left out")
            return None

    def labeled_masks() -> Iterator[NDArray[np.bool_]]:  # one at a time: hundreds of large ones would fill the memory
        nonlocal count
        for region in by_kind.masks:
            if (mask := mask_of(region)) is None:
                continue
            number = labeling.number(label_of(region))
            array[mask] = number or IGNORE
            if number:
                count += 1
                yield mask

    instances = instance_map(labeled_masks(), size)
    for region in by_kind.unlabeled:
        if (mask := mask_of(region)) is not None:
            array[mask & (array == 0)] = IGNORE
    instances[array == IGNORE] = 0
    return LabelMap(array, instances, count, tuple(by_kind.ignored), tuple(by_kind.parked))


def _sort(regions: Sequence[Region], labeling: Labeling, item_index: int) -> _SortedRegions:
    """The regions of one image by what they say, prompts left out."""
    by_kind = _SortedRegions([], [], [], {})
    for region in regions:
        if is_prompt(region, labeling) or (region.get("item_index") or 0) != item_index:
            continue
        name = f"region {region.get('id')!r}"
        if reason := _why_no_mask(region, labeling):
            by_kind.ignored.append(f"{name}: {reason}")
        elif is_unlabeled_mask(region):
            by_kind.unlabeled.append(region)
            by_kind.ignored.append(f"{name}: {region['type']} has no label; its pixels are learned from neither way")
        else:
            by_kind.masks.append(region)
            label = label_of(region)
            if not labeling.number(label):
                by_kind.parked[label] = None
                reason = f"label {label!r} is not in the configuration; its pixels are learned from neither way"
                by_kind.ignored.append(f"{name}: {reason}")
    return by_kind


def _why_no_mask(region: Region, labeling: Labeling) -> str:
    """Why a region does not go into the label map, "" if it does. Raises BadRequest if its Image tag is not there."""
    if not is_mask(region, labeling) and not is_unlabeled_mask(region):
        return "an open line has no inside" if is_open_line(region) else f"{region.get('type')} is not a mask"
    image = region.get("to_name", labeling.image)
    if all(image != output.image for output in labeling.outputs):
        raise BadRequest(
            f"region {region.get('id')!r} was drawn on the Image tag {reprlib.repr(image)}, which the configuration "
            "does not have; give the tag its name again, or draw the region anew"
        )
    return f"it belongs to {reprlib.repr(image)}, not to {labeling.image!r}" if image != labeling.image else ""

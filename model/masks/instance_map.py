"""Instance maps: (H, W) uint16 in which each object's pixels have its number, and 0 is no object."""

from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

EIGHT = np.ones((3, 3), bool)
WHOLE = 0.9  # share of a region in its largest connected part, from which on it is one object, not several


def instance_map(masks: Iterable[NDArray[np.bool_]], size: tuple[int, int] | None = None) -> NDArray[np.uint16]:
    """Regions (H, W) bool, later ones over earlier ones, as an instance map (H, W) uint16: k + 1 is masks[k].

    A region is one object if its largest 8-connected part has 90 % of its area; in any other, single objects are
    unknown, and it leaves 0. `size` (H, W) is needed only without masks, which may come from an iterator.
    Raises ValueError if shapes differ, or there are no masks and no size, or more than 65535 masks.
    """
    out: NDArray[np.uint16] | None = None if size is None else np.zeros(size, np.uint16)
    for number, mask in enumerate(masks, 1):
        if out is None:
            out = np.zeros(mask.shape, np.uint16)
        if number > np.iinfo(np.uint16).max:
            raise ValueError(f"an instance map holds 65535 regions, not {number} or more: join or drop some")
        if mask.shape != out.shape:
            raise ValueError(f"masks of one image have one shape, not {out.shape} and {mask.shape}")
        for window in ndimage.find_objects(mask.view(np.uint8)):  # one, or none if it is empty
            out[window][mask[window]] = number if _is_one_object(mask[window]) else 0
    if out is None:
        raise ValueError("an instance map without masks needs the image's size (H, W): pass `size`")
    return out


def _is_one_object(mask: NDArray[np.bool_]) -> bool:
    numbered, parts = ndimage.label(mask, structure=EIGHT)
    areas = np.bincount(numbered.ravel())[1:]
    return parts == 1 or bool(areas.max() >= WHOLE * areas.sum())


def object_numbers(instances: NDArray[Any]) -> NDArray[Any]:
    """The numbers (N,) of an instance map's objects, ascending, without 0."""
    numbers: NDArray[Any] = np.unique(instances[instances != 0])
    return numbers


def count_touching(instances: NDArray[np.uint16], reach: int) -> tuple[int, int]:
    """The number of objects in an instance map (H, W), and of those with another object within `reach` px."""
    around = np.ones((2 * reach + 1,) * 2, np.uint8)
    highest = cv2.dilate(instances, around)
    lowest = cv2.erode(np.where(instances == 0, np.uint16(np.iinfo(np.uint16).max), instances), around)
    beside = (instances > 0) & ((highest != instances) | (lowest != instances))
    return len(object_numbers(instances)), len(np.unique(instances[beside]))

"""Masks in PNG files, whose numbers are objects or classes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.images import ImageError, load
from model.objects import Found

COLOURS = ("RGB", "RGBA", "LA")  # modes of a mask that somebody saved as a picture
DEEP = ("I", "I;16", "I;16B")


def read(path: Path, size: tuple[int, int], max_pixels: int) -> NDArray[Any]:
    """A mask's numbers, (H, W) uint8, uint16 or int32; of one with a palette those of its colours.

    Raises ImageError, before a pixel is decoded if it is not of `size` (H, W) or has more than `max_pixels`; also if
    its colours are not gray. OSError if it cannot be read.
    """
    picture = load(path.read_bytes(), ("PNG",), max_pixels, size)
    if picture.mode in COLOURS:
        bands = np.asarray(picture.convert("RGB"))
        if (bands != bands[..., :1]).any():
            raise ImageError(f"{path.name} has colours; a mask must have one number a pixel: gray, or a palette")
        return bands[..., 0]
    if picture.mode not in ("1", "L", "P", *DEEP):
        raise ImageError(f"{path.name} has pixels of mode {picture.mode}, not whole numbers")
    numbers = np.asarray(picture)
    return numbers.astype(np.uint8) if numbers.dtype == np.bool_ else numbers


def objects(numbers: NDArray[Any], classes: bool) -> Iterator[Found]:
    """The objects of a mask (H, W) of whole numbers, 0 being background; each `label` is its number.

    Of `classes` every 8-connected part is an object, and so it is where there is one number alone; else every number.
    """
    present, dense = np.unique(numbers, return_inverse=True)
    dense = dense.reshape(numbers.shape).astype(np.int32)
    if not present.size or present[0] != 0:  # no background at all
        present, dense = np.concatenate(([0], present)), dense + 1
    parts = classes or len(present) == 2
    for k, window in enumerate(ndimage.find_objects(dense), 1):
        if window is None:
            continue
        mask, (rows, columns) = dense[window] == k, window
        if parts:
            yield from _parts(mask, int(present[k]), rows.start, columns.start)
        else:
            yield Found(int(present[k]), rows.start, columns.start, mask, 1.0)


def _parts(mask: NDArray[np.bool_], label: int, top: int, left: int) -> Iterator[Found]:
    _, numbered = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    for k, (rows, columns) in enumerate(ndimage.find_objects(numbered), 1):
        yield Found(label, top + rows.start, left + columns.start, numbered[rows, columns] == k, 1.0)

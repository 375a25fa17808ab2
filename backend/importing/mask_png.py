"""Masks in PNG files, whose pixel values (here: numbers) are objects or classes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from skylight.model.images.decoding import ImageError, load
from skylight.model.masks.bitmask import OPAQUE
from skylight.model.masks.region import MaskRegion

COLOR_MODES = ("RGB", "RGBA", "LA")  # modes of a mask that somebody saved as a picture
GRAY_MODES = ("1", "L", "I;16", "I")
DEEP_MODES = ("I", "I;16", "I;16B")
DEPTH_BYTE = 24  # offset in a PNG of the byte with the bits per number
SHAPE = 255  # number of an object whose pixels all have one color that is no number: black, or a real color


def read(path: Path, size: tuple[int, int], max_pixels: int) -> NDArray[Any]:
    """Read a mask's numbers, (H, W) uint8, uint16 or int32; of one with a palette those of its colors.

    What is transparent, by alpha (less than half) or by the PNG's transparent color, is background. Where the rest has
    one color, whatever it is, that is the object. Raises ImageError, before a pixel is decoded if it is not of `size`
    (H, W) or has more than `max_pixels`; also if its colors are not gray, or its transparency leaves open what is
    background. OSError if it cannot be read.
    """
    data = path.read_bytes()
    picture = load(data, ("PNG",), max_pixels, size)
    if picture.mode not in ("P", *GRAY_MODES, *DEEP_MODES, *COLOR_MODES, "PA"):
        raise ImageError(f"{path.name} has pixels of mode {picture.mode}, not whole numbers")
    opaque = _opaque(picture, data[DEPTH_BYTE])
    if opaque is None:
        return _numbers(picture, path.name)
    return _visible_numbers(picture, opaque, path.name)


def _numbers(picture: Image.Image, name: str) -> NDArray[Any]:
    """The numbers of a picture, whatever alpha it has. Raises ImageError if they are colors."""
    if picture.mode in COLOR_MODES:
        bands = np.asarray(picture.convert("RGB"))
        if (bands != bands[..., :1]).any():
            raise ImageError(f"{name} has colours; a mask must have one number a pixel: gray, or a palette")
        return bands[..., 0]
    numbers = np.asarray(picture if picture.mode != "PA" else picture.getchannel("P"))
    return numbers.astype(np.uint8) if numbers.dtype == np.bool_ else numbers


def _opaque(picture: Image.Image, depth: int) -> NDArray[np.bool_] | None:
    """Where a picture is not transparent, (H, W) bool; None if it is so everywhere. `depth`: bits of its numbers."""
    clear = picture.info.get("transparency")
    if picture.mode in ("RGBA", "LA", "PA"):
        opaque = np.asarray(picture.getchannel("A")) > OPAQUE
    elif clear is None:
        return None
    elif picture.mode == "P":
        alphas = np.full(256, 255, np.uint8)
        if isinstance(clear, bytes):
            alphas[: len(clear)] = np.frombuffer(clear, np.uint8)
        else:
            alphas[clear] = 0
        opaque = alphas[np.asarray(picture)] > OPAQUE
    elif picture.mode == "1":
        opaque = np.asarray(picture) != bool(clear)
    elif picture.mode == "RGB":
        # Of 16 bits Pillow keeps the upper eight.
        opaque = (np.asarray(picture) != np.asarray(clear) >> (8 if depth == 16 else 0)).any(axis=2)
    else:
        # Pillow stretches numbers of two and four bits to eight, but not the transparent one.
        opaque = np.asarray(picture) != clear * (255 // (2**depth - 1) if 1 < depth < 8 else 1)
    return None if opaque.all() else opaque


def _visible_numbers(picture: Image.Image, opaque: NDArray[np.bool_], name: str) -> NDArray[Any]:
    """The numbers of a picture where it is opaque, 0 elsewhere."""
    bands = np.asarray(picture.convert("RGB")) if picture.mode in COLOR_MODES else _numbers(picture, name)
    visible = bands[opaque]
    if not len(visible):
        hidden = bands.reshape(bands.shape[0] * bands.shape[1], -1)
        if (hidden != hidden[0]).any():
            raise ImageError(
                f"{name} is transparent everywhere, though not of one colour; save it without transparency"
            )
        return np.zeros(opaque.shape, np.uint8)
    if (visible == visible[0]).all():
        first = np.atleast_1d(visible[0])
        number = int(first[0]) if (first == first[0]).all() and first[0] else SHAPE
        return np.where(opaque, number, 0).astype(np.int32 if number > SHAPE else np.uint8)
    if bands.ndim == 3:
        if (visible != visible[:, :1]).any():
            raise ImageError(f"{name} has colours; a mask must have one number a pixel: gray, or a palette")
        bands, visible = bands[..., 0], visible[:, 0]
    if not visible.all():
        raise ImageError(
            f"{name} has both transparent pixels and opaque ones of number 0, and which are background is not known; "
            "save it without transparency"
        )
    return np.where(opaque, bands, 0)


def harden(numbers: NDArray[Any]) -> NDArray[Any]:
    """Threshold a mask (H, W) with soft rims at half, to 0 and 255 (65535 of uint16); return any other as it is.

    Rims are soft where the numbers between 0 and the highest there is are nowhere 3 px wide, as they are in objects,
    and each touches what is of the highest.
    """
    top = np.iinfo(numbers.dtype).max if numbers.dtype in (np.uint8, np.uint16) else 0
    between = (numbers > 0) & (numbers < top)
    if not top or not between.any() or not (numbers == top).any():
        return numbers
    kernel = np.ones((3, 3), np.uint8)
    wide = numbers.astype(np.uint16)
    even = cv2.erode(wide, kernel, borderType=cv2.BORDER_REPLICATE) == cv2.dilate(
        wide, kernel, borderType=cv2.BORDER_REPLICATE
    )
    if (even & between).any():
        return numbers
    count, parts = cv2.connectedComponents((numbers > 0).view(np.uint8), connectivity=8)
    solid = np.zeros(count, bool)
    solid[parts[numbers == top]] = True
    if not solid[parts[between]].all():
        return numbers
    return np.where(numbers > top // 2, top, 0).astype(numbers.dtype)


def objects(numbers: NDArray[Any], classes: bool) -> Iterator[MaskRegion]:
    """The objects of a mask (H, W) of integers, 0 being background; each one's `label` is its number.

    With `classes`, or where there is only one number, every 8-connected part is an object; else every number is one.
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
            yield MaskRegion(int(present[k]), rows.start, columns.start, mask, 1.0)


def _parts(mask: NDArray[np.bool_], label: int, top: int, left: int) -> Iterator[MaskRegion]:
    _, numbered = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    for k, (rows, columns) in enumerate(ndimage.find_objects(numbered), 1):
        yield MaskRegion(label, top + rows.start, left + columns.start, numbered[rows, columns] == k, 1.0)

"""Masks in PNG files, whose numbers are objects or classes."""

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

COLOURS = ("RGB", "RGBA", "LA")  # modes of a mask that somebody saved as a picture
GRAY = ("1", "L", "I;16", "I")
DEEP = ("I", "I;16", "I;16B")
DEPTH = 24  # byte of a PNG that says how many bits a number has
DRAWN = 255  # number of an object whose pixels all have one colour that is none: black, or a real colour


def read(path: Path, size: tuple[int, int], max_pixels: int) -> NDArray[Any]:
    """A mask's numbers, (H, W) uint8, uint16 or int32; of one with a palette those of its colours.

    What is transparent, by alpha (less than half) or by the PNG's transparent colour, is background. Where the rest has
    one colour, whatever it is, that is the object. Raises ImageError, before a pixel is decoded if it is not of `size`
    (H, W) or has more than `max_pixels`; also if its colours are not gray, or its transparency leaves open what is
    background. OSError if it cannot be read.
    """
    data = path.read_bytes()
    picture = load(data, ("PNG",), max_pixels, size)
    if picture.mode not in ("P", *GRAY, *DEEP, *COLOURS, "PA"):
        raise ImageError(f"{path.name} has pixels of mode {picture.mode}, not whole numbers")
    opaque = _opaque(picture, data[DEPTH])
    if opaque is None:
        return _numbers(picture, path.name)
    return _drawn(picture, opaque, path.name)


def _numbers(picture: Image.Image, name: str) -> NDArray[Any]:
    """The numbers of a picture, whatever alpha it has. Raises ImageError if they are colours."""
    if picture.mode in COLOURS:
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


def _drawn(picture: Image.Image, opaque: NDArray[np.bool_], name: str) -> NDArray[Any]:
    """The numbers of a picture where it is opaque, 0 elsewhere."""
    bands = np.asarray(picture.convert("RGB")) if picture.mode in COLOURS else _numbers(picture, name)
    held = bands[opaque]
    if not len(held):
        hidden = bands.reshape(bands.shape[0] * bands.shape[1], -1)
        if (hidden != hidden[0]).any():
            raise ImageError(
                f"{name} is transparent everywhere, though not of one colour; save it without transparency"
            )
        return np.zeros(opaque.shape, np.uint8)
    if (held == held[0]).all():
        first = np.atleast_1d(held[0])
        number = int(first[0]) if (first == first[0]).all() and first[0] else DRAWN
        return np.where(opaque, number, 0).astype(np.int32 if number > DRAWN else np.uint8)
    if bands.ndim == 3:
        if (held != held[:, :1]).any():
            raise ImageError(f"{name} has colours; a mask must have one number a pixel: gray, or a palette")
        bands, held = bands[..., 0], held[:, 0]
    if not held.all():
        raise ImageError(
            f"{name} has both transparent pixels and opaque ones of number 0, and which are background is not known; "
            "save it without transparency"
        )
    return np.where(opaque, bands, 0)


def harden(numbers: NDArray[Any]) -> NDArray[Any]:
    """A mask (H, W) with soft rims cut at half, 0 and 255 (65535 of uint16); any other as it is.

    Rims are soft where the numbers between 0 and the highest there is are nowhere 3 px wide, as they are in objects,
    and each touches what is of the highest.
    """
    top = np.iinfo(numbers.dtype).max if numbers.dtype in (np.uint8, np.uint16) else 0
    between = (numbers > 0) & (numbers < top)
    if not top or not between.any() or not (numbers == top).any():
        return numbers
    around = np.ones((3, 3), np.uint8)
    deep = numbers.astype(np.uint16)
    even = cv2.erode(deep, around, borderType=cv2.BORDER_REPLICATE) == cv2.dilate(
        deep, around, borderType=cv2.BORDER_REPLICATE
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
            yield MaskRegion(int(present[k]), rows.start, columns.start, mask, 1.0)


def _parts(mask: NDArray[np.bool_], label: int, top: int, left: int) -> Iterator[MaskRegion]:
    _, numbered = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    for k, (rows, columns) in enumerate(ndimage.find_objects(numbered), 1):
        yield MaskRegion(label, top + rows.start, left + columns.start, numbered[rows, columns] == k, 1.0)

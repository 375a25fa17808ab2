"""Masks as Label Studio stores them (brush RLE, bitmask PNG, polygons), to and from arrays."""

import base64
import binascii
import reprlib

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from skylight.model.images.decoding import MAX_PIXELS, ImageError, load
from skylight.model.masks.brush_rle import EmptyMask, MaskError, decode_rle, encode_rle, encode_rle_in, ranges
from skylight.model.masks.png import DATA_URL, encode_png, encode_png_in

__all__ = [
    "MAX_PERCENT",
    "OPAQUE",
    "EmptyMask",
    "MaskError",
    "by_size",
    "components",
    "decode_png",
    "decode_rle",
    "encode_png",
    "encode_png_in",
    "encode_rle",
    "encode_rle_in",
    "polygon_mask",
]

OPAQUE = 127  # alpha or grey above this is mask: half, as strokes are anti-aliased
MAX_VERTICES = 100_000  # of a polygon; the outline of a mask of 4096 x 4096 pixels, simplified, has some thousand
MAX_CROSSINGS = 4_000_000  # rows of pixels that a polygon's edges cross, in all; each takes 60 bytes
MAX_PERCENT = 1e6  # coordinates further out than this are nonsense, and would only cost precision


def decode_png(url: str, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """The (H, W) bool mask in a PNG data URL: where alpha is above 127, or grey is, if the PNG has no alpha.

    Raises MaskError if it is not the data URL of a whole PNG, or, by its header, before any pixel is decoded, not of
    `size` (H, W), or of more than `max_pixels` pixels.
    """
    head, _, body = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not (head.startswith("data:image/png") and head.endswith(";base64")):
        raise MaskError(f"a bitmask must be a {DATA_URL}... URL, not {str(url)[:40]!r}")
    try:
        picture = load(base64.b64decode(body, validate=True), ("PNG",), max_pixels, size)
    except (binascii.Error, ImageError, ValueError) as error:
        raise MaskError(f"the bitmask cannot be read: {error}") from error
    if picture.mode == "PA" or "transparency" in picture.info:
        picture = picture.convert("RGBA")
    band = picture.getchannel("A") if picture.mode in ("RGBA", "LA") else picture.convert("L")
    return np.asarray(band) > OPAQUE


def polygon_mask(points_percent: ArrayLike, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels whose centre lies in a polygon, (H, W) bool; points are (N, 2) xy in percent of the image.

    The polygon is closed, may leave the image, and where it crosses itself counts as inside by the non-zero
    winding rule, as a canvas fills it. Neighbours that share an edge share no pixel. Raises EmptyMask for
    fewer than 3 points, MaskError for too many, or for numbers that are not finite.
    """
    points = _check_points(points_percent)
    x0, y0 = (points * (width / 100.0, height / 100.0)).T
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    top = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height).astype(np.int64)
    bottom = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height).astype(np.int64)
    crossings = int((bottom - top).sum())
    if crossings > MAX_CROSSINGS:
        raise MaskError(f"the polygon's edges cross {crossings} rows of pixels, more than {MAX_CROSSINGS}; simplify it")
    edge = np.repeat(np.arange(len(points)), bottom - top)
    mask = np.zeros((height, width), bool)
    if not edge.size:
        return mask
    row = ranges(top, bottom - top)
    x = x0[edge] + (row + 0.5 - y0[edge]) / (y1 - y0)[edge] * (x1 - x0)[edge]
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    up, left = row.min(), column.min()
    winding = np.zeros((row.max() + 1 - up, column.max() + 1 - left), np.int32)
    np.add.at(winding, (row - up, column - left), np.where(y1 > y0, 1, -1)[edge])
    np.cumsum(winding, axis=1, out=winding)
    mask[up : row.max() + 1, left : column.max()] = winding[:, :-1] != 0
    return mask


def components(mask: NDArray[np.bool_], min_area: int) -> NDArray[np.int32]:
    """The 8-connected parts of a (H, W) bool mask that have `min_area` pixels or more, numbered from 1 on.

    (H, W) int32, the biggest is 1; 0 is what belongs to none. One array for all parts, however many there are.
    """
    _, numbered = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    return by_size(np.asarray(numbered, np.int32), min_area)


def by_size(numbered: NDArray[np.int32], min_area: int) -> NDArray[np.int32]:
    """Numbered objects (H, W) int32 renumbered by falling size from 1 on, those below `min_area` px being 0."""
    areas = np.bincount(numbered.ravel())
    areas[0] = 0
    order = np.argsort(-areas, kind="stable")
    order = order[areas[order] >= max(min_area, 1)]
    renumbered = np.zeros(len(areas), np.int32)
    renumbered[order] = np.arange(1, len(order) + 1)
    found: NDArray[np.int32] = renumbered[numbered]
    return found


def _check_points(points_percent: ArrayLike) -> NDArray[np.float64]:
    if isinstance(points_percent, list) and len(points_percent) > MAX_VERTICES:
        raise MaskError(f"a polygon of {len(points_percent)} points has more than {MAX_VERTICES}; simplify it")
    try:
        given = np.asarray(points_percent)
        if given.dtype.kind not in "iuf":  # "7" would pass for a number
            raise TypeError(f"these are not all numbers: {reprlib.repr(points_percent)}")
        points = given.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise MaskError(f"a polygon must be a list of [x, y] in percent: {error}") from error
    if points.shape != (0,) and (points.ndim != 2 or points.shape[1] != 2):
        raise MaskError(f"a polygon must be a list of points [x, y], not an array of shape {points.shape}")
    if not (np.abs(points) <= MAX_PERCENT).all():
        raise MaskError(f"a polygon's points must be finite percentages, not as far as {np.abs(points).max()}")
    if len(points) < 3:
        raise EmptyMask(f"a polygon needs at least 3 points, not {len(points)}")
    return points

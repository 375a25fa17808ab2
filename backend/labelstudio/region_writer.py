"""Masks written as Label Studio's regions."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.backend.labelstudio.label_config import Output
from skylight.model.masks.bitmask import encode_png, encode_png_in
from skylight.model.masks.brush_rle import encode_rle, encode_rle_in
from skylight.model.masks.contours import Ring
from skylight.model.masks.polygonize import bounding_box, polygons

RegionDict = dict[str, Any]
Mask = NDArray[np.bool_]

DECIMALS = 5  # of percentages: 0.001 px on an image of 10,000 px
RLE_NUMBER_LENGTH = 4  # characters of one of a brush's numbers as JSON, with its comma
ROTATIONS = (0, 90, 180, 270)  # degrees by which the editor can show an image turned


@dataclass(frozen=True)
class Placement:
    """Where a mask lies in an image of `size` (H, W) px: from row `top`, column `left` on."""

    top: int
    left: int
    size: tuple[int, int]


def draw_regions(
    output: Output,
    mask: Mask,
    label: str,
    score: float,
    item_index: int | None = None,
    rotation: int = 0,
    placement: Placement | None = None,
    rings: Sequence[Ring] = (),
) -> list[RegionDict]:
    """The regions, for a control, of a (H, W) bool mask in the size of the image as the browser knows it.

    A brush, a bitmask and a rectangle are one region, polygons and vectors one for each piece
    (`skylight.model.masks.polygonize`); none if the mask is empty. `score` is in [0, 1]. `rotation`, in degrees, is how
    far the editor shows the image turned: it is repeated, but moves nothing, as Label Studio's coordinates are always
    those of the image unturned. With a `placement` the mask is a part of an image too large for an array, and empty
    elsewhere. `rings`, polygons in px from the mask's upper left corner that have been drawn already, are what a
    polygon's control gets of it. Raises ValueError if the label is not the control's, the score is not such a number,
    or the mask is not 2-D bool.
    """
    if label not in output.labels:
        raise ValueError(f"label {label!r} is not one of {output.name!r}: {', '.join(output.labels)}")
    if not 0 <= score <= 1:
        raise ValueError(f"a score must be between 0 and 1, not {score}")
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"a mask must be (H, W) bool, not {mask.shape} {mask.dtype}")
    placement = placement or Placement(0, 0, (mask.shape[0], mask.shape[1]))
    common = {
        "from_name": output.name,
        "to_name": output.image,
        "type": output.type,
        "original_width": placement.size[1],
        "original_height": placement.size[0],
        "image_rotation": rotation if rotation in ROTATIONS else 0,
        "score": round(float(score), 4),
        "origin": "prediction",
        **({} if item_index is None else {"item_index": item_index}),
    }
    if rings and output.type == "polygonlabels":
        values = [_polygon(ring, placement) for ring in rings]
    else:
        values = _VALUES[output.type](mask, placement) if mask.any() else []
    return [{"id": _new_id(), **common, "value": {**value, output.type: [label]}} for value in values]


def encoded_length(value: Mapping[str, Any]) -> int:
    """Characters that a brush's or a bitmask's value takes as JSON, about; 0 for any other shape."""
    return RLE_NUMBER_LENGTH * len(value.get("rle", ())) + len(value.get("imageDataURL", ""))


def _new_id() -> str:
    return uuid.uuid4().hex[:10]


def _brush(mask: Mask, placement: Placement) -> list[dict[str, Any]]:
    is_whole = placement.size == mask.shape
    rle = encode_rle(mask) if is_whole else encode_rle_in(mask, placement.top, placement.left, placement.size)
    return [{"format": "rle", "rle": rle}]


def _bitmask(mask: Mask, placement: Placement) -> list[dict[str, Any]]:
    is_whole = placement.size == mask.shape
    url = encode_png(mask) if is_whole else encode_png_in(mask, placement.top, placement.left, placement.size)
    return [{"imageDataURL": url}]


def _polygons(mask: Mask, placement: Placement) -> list[dict[str, Any]]:
    return [_polygon(ring, placement) for ring in polygons(mask)]


def _polygon(ring: Ring, placement: Placement) -> dict[str, Any]:
    return {"points": _percent(ring, placement), "closed": True}


def _vectors(mask: Mask, placement: Placement) -> list[dict[str, Any]]:
    return [{"vertices": _vertices(_percent(ring, placement)), "closed": True} for ring in polygons(mask)]


def _vertices(points: list[list[float]]) -> list[dict[str, Any]]:
    ids = [_new_id() for _ in points]
    chain = zip(ids, points, [None, *ids], strict=False)
    return [{"id": own, "x": x, "y": y, "prevPointId": last, "isBezier": False} for own, (x, y), last in chain]


def _rectangle(mask: Mask, placement: Placement) -> list[dict[str, Any]]:
    """One box around all pieces that would get a polygon: a speck far off must not stretch it."""
    (x0, y0), (x1, y1) = _percent(np.array(bounding_box(mask), float).reshape(2, 2), placement)
    return [{"x": x0, "y": y0, "width": round(x1 - x0, DECIMALS), "height": round(y1 - y0, DECIMALS), "rotation": 0}]


def _percent(points: Ring, placement: Placement) -> list[list[float]]:
    """(N, 2) xy pixels of the mask as percent of the image's sides."""
    xy = points + (placement.left, placement.top)
    percent: list[list[float]] = np.round(100 * xy / np.array(placement.size[::-1]), DECIMALS).tolist()
    return percent


_VALUES: Mapping[str, Callable[[Mask, Placement], list[dict[str, Any]]]] = {
    "brushlabels": _brush,
    "bitmasklabels": _bitmask,
    "polygonlabels": _polygons,
    "vectorlabels": _vectors,
    "rectanglelabels": _rectangle,
}

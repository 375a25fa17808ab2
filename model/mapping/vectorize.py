"""Objects as polygons for geographic information systems. Needs the extra `geo`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.model.masks.contours import find_components
from skylight.model.masks.region import MaskRegion, StreamedRegion

TOLERANCE = 0.75  # px, of the simplification, since the edges of pixels are stairs


def shape(found: MaskRegion | StreamedRegion) -> Any:
    """An object's valid shapely (Multi)Polygon, in px from the image's upper left corner, with its holes.

    The object is 8-connected: where its pixels touch by a corner only, it is a MultiPolygon. A
    `StreamedRegion` is the union of its strips.
    """
    import shapely

    parts = [_of_mask(mask, top, found.left) for top, mask in found.strips()]
    whole = parts[0] if len(parts) == 1 else _polygons(shapely.union_all(parts))
    simple = _polygons(shapely.make_valid(shapely.simplify(whole, TOLERANCE, preserve_topology=True)))
    return whole if shapely.is_empty(simple) else simple


def _of_mask(mask: NDArray[np.bool_], top: int, left: int) -> Any:
    """The polygons along the edges of a mask's pixels (h, w) bool that begin at row `top`, column `left`."""
    import shapely

    polygons = []
    for piece in find_components(mask):
        outer, *holes = [ring + (left, top) for ring in piece.outlines()]
        # An outline that touches itself is invalid; made valid, it is several.
        polygons.append(_polygons(shapely.make_valid(shapely.Polygon(outer, holes))))
    return polygons[0] if len(polygons) == 1 else shapely.union_all(polygons)


def _polygons(geometry: Any) -> Any:
    """The polygons of a geometry."""
    import shapely

    parts = [part for part in shapely.get_parts(geometry, return_index=False) if part.geom_type.endswith("Polygon")]
    flat = [polygon for part in parts for polygon in shapely.get_parts(part)]
    return flat[0] if len(flat) == 1 else shapely.MultiPolygon(flat)

"""Outlines of objects as shapes that programs for maps accept. Needs the extra `geo`."""

from typing import Any

import numpy as np

from model.objects import Found
from model.outlines import outlines

TOLERANCE = 0.75  # px, by how much an outline may leave the edges of the pixels: they are stairs


def shape(found: Found) -> Any:
    """An object's valid shapely (Multi)Polygon, in px from the picture's upper left corner, with its holes.

    The object is 8-connected: where its pixels touch by a corner only, it is a MultiPolygon.
    """
    import shapely

    outer, *holes = outlines(found.mask)
    # An outline that touches itself is none by the rules of shapes; made valid, it is several.
    whole = _polygons(shapely.make_valid(shapely.Polygon(outer, holes)))
    simple = _polygons(shapely.make_valid(shapely.simplify(whole, TOLERANCE, preserve_topology=True)))
    kept = whole if shapely.is_empty(simple) else simple
    return shapely.transform(kept, lambda points: points + np.array([found.left, found.top], float))


def _polygons(geometry: Any) -> Any:
    """What of a geometry has an area."""
    import shapely

    parts = [each for each in shapely.get_parts(geometry, return_index=False) if each.geom_type.endswith("Polygon")]
    flat = [polygon for part in parts for polygon in shapely.get_parts(part)]
    return flat[0] if len(flat) == 1 else shapely.MultiPolygon(flat)

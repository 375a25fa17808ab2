"""Masks as polygons of few points.

A mask's outline along the edges of its pixels (`contours`) is simplified to the fewest of its corners, or few more
(`polygon_simplification`; docs/decisions/polygons.md).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from skylight.model.masks.contours import Component, Ring, find_components
from skylight.model.masks.polygon_simplification import simplify
from skylight.model.masks.rasterize import polygon_mask

# px, Hausdorff distance of a polygon to the outline: one, less the error of rounding its corners in percent.
TOLERANCE = 0.999
MIN_IOU = 0.9  # with the mask, below which a component gets half the tolerance: 1 px is much of a small or thin one
ROUNDING = tuple((x, y) for x in (-1e-3, 1e-3) for y in (-1e-3, 1e-3))  # px, above the rounding error
COMPONENT_SHARE = 0.1  # of the largest component; smaller ones are specks of SAM and get no polygon
SMALLEST_COMPONENT = 4  # px
HOLE_SHARE = 0.01  # of a component, from which on a hole is cut out
SMALLEST_HOLE = 16  # px; smaller ones are filled


def polygons(mask: NDArray[np.bool_], tolerance: float = TOLERANCE) -> list[Ring]:
    """The polygons of a (H, W) bool mask, one for each component, the largest first; (N, 2) float64 xy px each.

    Components (8-connected) below a tenth of the largest are left out. A hole of at least a hundredth of its component
    is cut by a slit of no width, drawn in both directions, so that the polygon is one ring, as in Label Studio; smaller
    holes are filled. Each ring is within `tolerance` px (Hausdorff) of the outline, or closer for small components.
    """
    return [_polygon(mask, component, tolerance) for component in _large_components(mask)]


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 px around a (H, W) bool mask's components that get polygons. Raises ValueError without any."""
    parts = _large_components(mask)
    if not parts:
        raise ValueError("an empty mask has no bounding box: leave it out")
    pixels = np.concatenate([part.chain[:, 0] for part in parts])
    (x0, y0), (x1, y1) = pixels.min(axis=0).tolist(), pixels.max(axis=0).tolist()
    return x0, y0, x1 + 1, y1 + 1


def _large_components(mask: NDArray[np.bool_]) -> list[Component]:
    """The components that get a polygon, the largest first."""
    parts = find_components(mask)
    largest = parts[0].area if parts else 0
    return [part for part in parts if part.area >= max(COMPONENT_SHARE * largest, min(SMALLEST_COMPONENT, largest))]


def _polygon(mask: NDArray[np.bool_], component: Component, tolerance: float) -> Ring:
    rings = component.outlines(max(SMALLEST_HOLE, HOLE_SHARE * component.area))
    length = sum(float(np.abs(np.diff(ring, axis=0, append=ring[:1])).sum()) for ring in rings)
    for share in (1.0, 0.5, 0.25):
        simple = _join_holes([simplify(ring, share * tolerance) for ring in rings])
        if len(simple) >= 3:
            moved = share * tolerance * length  # px^2 between the outline and the polygon, at most
            if moved <= (1 - MIN_IOU) * component.area or _overlap(mask, component, simple) >= MIN_IOU:
                return simple
    return _join_holes(rings)


def _overlap(mask: NDArray[np.bool_], component: Component, ring: Ring) -> float:
    """The least IoU of a polygon and its component: edges through pixels' centers may be rounded either way."""
    left, top, width, height = cv2.boundingRect(component.chain)
    _, numbered = cv2.connectedComponents(mask[top : top + height, left : left + width].view(np.uint8), connectivity=8)
    x, y = component.chain[0, 0]
    own = numbered == numbered[y - top, x - left]
    moved = [(ring - (left, top) + shift) * (100 / width, 100 / height) for shift in ROUNDING]
    masks = [polygon_mask(polygon, height, width) for polygon in moved]
    smallest, largest = np.logical_and.reduce(masks), np.logical_or.reduce(masks)
    return float((smallest & own).sum() / (largest | own).sum())


def _join_holes(rings: list[Ring]) -> Ring:
    """One ring from an outer one and holes that run the other way, each connected by the shortest slit.

    The slit is drawn in both directions, so that it does not change any pixel's winding number.
    """
    ring, *holes = rings
    while holes:
        gaps = [((ring[:, None] - hole[None]) ** 2).sum(axis=2) for hole in holes]
        nearest = int(np.argmin([gap.min() for gap in gaps]))
        hole = holes.pop(nearest)
        i, j = np.unravel_index(int(gaps[nearest].argmin()), gaps[nearest].shape)
        ring = np.concatenate([ring[: i + 1], hole[j:], hole[: j + 1], ring[i:]])
    return ring

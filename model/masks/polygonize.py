"""A mask's outline as polygons of few points.

The outline runs along the edges of pixels, in px from the image's upper left corner, so that it encloses just the
mask's pixels. It is simplified by the fewest of its corners, or few more, see `shortcuts`.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from skylight.model.masks.contours import Piece, Ring, pieces
from skylight.model.masks.polygon_simplification import simplify
from skylight.model.masks.rasterize import polygon_mask

# px, how far a polygon may be from the outline and the outline from it (Hausdorff distance): one, less what rounding
# its corners to percent may cost.
TOLERANCE = 0.999
FAITHFUL = 0.9  # IoU with the mask below which a piece gets half the tolerance: 1 px is much of a small or thin thing
ROUNDED = tuple((x, y) for x in (-1e-3, 1e-3) for y in (-1e-3, 1e-3))  # px, more than percent are rounded by
PIECE_SHARE = 0.1  # of the largest piece; smaller ones are SAM's specks and get no polygon
SMALLEST_PIECE = 4  # px
HOLE_SHARE = 0.01  # of a piece, from which on a hole is cut out
SMALLEST_HOLE = 16  # px; smaller ones are filled: nobody would draw them


def polygons(mask: NDArray[np.bool_], tolerance: float = TOLERANCE) -> list[Ring]:
    """The polygons of a (H, W) bool mask, one for each piece worth it, the biggest first; (N, 2) float64 xy px each.

    Pieces (8-connected) below a tenth of the biggest are left out. A hole of at least a hundredth of its piece is cut
    by a slit of no width, drawn forth and back, so that the polygon is one ring, as Label Studio has them; smaller
    holes are filled. Each ring is within `tolerance` px (Hausdorff) of the outline, or closer where the piece is small.
    """
    return [_polygon(mask, piece, tolerance) for piece in _worthy(mask)]


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 px around the pieces of a (H, W) bool mask that get polygons. Raises ValueError without any."""
    found = _worthy(mask)
    if not found:
        raise ValueError("an empty mask has no bounding box: leave it out")
    pixels = np.concatenate([piece.chain[:, 0] for piece in found])
    (x0, y0), (x1, y1) = pixels.min(axis=0).tolist(), pixels.max(axis=0).tolist()
    return x0, y0, x1 + 1, y1 + 1


def _worthy(mask: NDArray[np.bool_]) -> list[Piece]:
    """The pieces worth a polygon, the biggest first."""
    found = pieces(mask)
    biggest = found[0].area if found else 0
    return [piece for piece in found if piece.area >= max(PIECE_SHARE * biggest, min(SMALLEST_PIECE, biggest))]


def _polygon(mask: NDArray[np.bool_], piece: Piece, tolerance: float) -> Ring:
    kept = piece.outlines(max(SMALLEST_HOLE, HOLE_SHARE * piece.area))
    length = sum(float(np.abs(np.diff(ring, axis=0, append=ring[:1])).sum()) for ring in kept)
    for share in (1.0, 0.5, 0.25):
        simple = _joined([simplify(ring, share * tolerance) for ring in kept])
        if len(simple) >= 3:
            moved = share * tolerance * length  # px^2 between the outline and the polygon, at most
            if moved <= (1 - FAITHFUL) * piece.area or _overlap(mask, piece, simple) >= FAITHFUL:
                return simple
    return _joined(kept)


def _overlap(mask: NDArray[np.bool_], piece: Piece, ring: Ring) -> float:
    """IoU of a polygon and its piece, at worst: edges that run through pixels' centres are rounded either way."""
    left, top, width, height = cv2.boundingRect(piece.chain)
    _, numbered = cv2.connectedComponents(mask[top : top + height, left : left + width].view(np.uint8), connectivity=8)
    x, y = piece.chain[0, 0]
    own = numbered == numbered[y - top, x - left]
    moved = [(ring - (left, top) + shift) * (100 / width, 100 / height) for shift in ROUNDED]
    drawn = [polygon_mask(each, height, width) for each in moved]
    surely, perhaps = np.logical_and.reduce(drawn), np.logical_or.reduce(drawn)
    return float((surely & own).sum() / (perhaps | own).sum())


def _joined(rings: list[Ring]) -> Ring:
    """One ring of an outer one and holes that run the other way: each is reached by the shortest slit, and left by it.

    The slit is drawn in both directions, so that it adds nothing to any pixel's winding number.
    """
    ring, *holes = rings
    while holes:
        gaps = [((ring[:, None] - hole[None]) ** 2).sum(axis=2) for hole in holes]
        nearest = int(np.argmin([gap.min() for gap in gaps]))
        hole = holes.pop(nearest)
        i, j = np.unravel_index(int(gaps[nearest].argmin()), gaps[nearest].shape)
        ring = np.concatenate([ring[: i + 1], hole[j:], hole[: j + 1], ring[i:]])
    return ring

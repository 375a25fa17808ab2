"""A mask's outline as polygons of few points.

The outline runs along the edges of pixels, in px from the image's upper left corner, so that it encloses just the
mask's pixels. It is simplified by the fewest of its corners, as a shortest path over all admissible shortcuts (Imai &
Iri 1988), these found by wedges (Chan & Chin 1992).
"""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.measure import approximate_polygon, find_contours

from model.evaluate import iou
from model.masks import polygon_mask

# px, how far a polygon may be from the outline and the outline from it (Hausdorff distance): one, less what rounding
# its corners to percent may cost.
TOLERANCE = 0.999
FAITHFUL = 0.9  # IoU with the mask below which a piece gets half the tolerance: 1 px is much of a small or thin thing
PIECE_SHARE = 0.1  # of the largest piece; smaller ones are SAM's specks and get no polygon
SMALLEST_PIECE = 4  # px
HOLE_SHARE = 0.01  # of a piece, from which on a hole is cut out
SMALLEST_HOLE = 16  # px; smaller ones are filled: nobody would draw them
MOST_POINTS = 8000  # of an outline; one of more is simplified by Douglas and Peucker's method, or it would take seconds
MOST_STARTS = 64  # points tried as the first one

Ring = NDArray[np.float64]  # (N, 2) xy px, not closed: the last point is not the first again


def polygons(mask: NDArray[np.bool_], tolerance: float = TOLERANCE) -> list[Ring]:
    """The polygons of a (H, W) bool mask, one for each piece worth it, the biggest first; (N, 2) float64 xy px each.

    Pieces (8-connected) below a tenth of the biggest are left out. A hole of at least a hundredth of its piece is cut
    by a slit of no width, drawn forth and back, so that the polygon is one ring, as Label Studio has them; smaller
    holes are filled. Each ring is within `tolerance` px (Hausdorff) of the outline, or closer where the piece is small.
    """
    return [_polygon(piece, tolerance) + (left, top) for top, left, piece in _pieces(mask)]


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 px around the pieces of a (H, W) bool mask that get polygons. Raises ValueError without any."""
    found = _pieces(mask)
    if not found:
        raise ValueError("an empty mask has no bounding box: leave it out")
    right = max(left + piece.shape[1] for _, left, piece in found)
    bottom = max(top + piece.shape[0] for top, _, piece in found)
    return min(left for _, left, _ in found), min(top for top, _, _ in found), right, bottom


def _pieces(mask: NDArray[np.bool_]) -> list[tuple[int, int, NDArray[np.bool_]]]:
    """Top, left and mask, in its bounding box, of each piece worth a polygon, the biggest first."""
    _, numbered, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0  # the background
    if not areas.any():
        return []
    least = max(PIECE_SHARE * areas.max(), min(SMALLEST_PIECE, areas.max()))
    pieces = []
    for number in np.argsort(-areas, kind="stable")[: int((areas >= least).sum())]:
        left, top, width, height = stats[number, :4].tolist()
        pieces.append((top, left, numbered[top : top + height, left : left + width] == number))
    return pieces


def outlines(piece: NDArray[np.bool_]) -> list[Ring]:
    """The closed outlines of a piece, (H, W) bool: the outer one first, then the holes', which run the other way."""
    # The padding's pixel centres are half a pixel outside the image.
    lines = find_contours(np.pad(piece, 1).astype(np.float32), 0.5, fully_connected="high")  # type: ignore[no-untyped-call]
    rings = [_corners(line[:, ::-1] - 0.5) for line in lines]
    rings.sort(key=lambda ring: -abs(_area(ring)))
    sign = np.sign(_area(rings[0]))
    return [ring[::-1] if (np.sign(_area(ring)) == sign) == bool(i) else ring for i, ring in enumerate(rings)]


def _corners(line: Ring) -> Ring:
    """Where pixel edges bend, of a closed 0.5 level line: that joins the middles of the edges, past the corners."""
    a, b = line[:-1], line[1:]
    on_upright = a[:, 0] == np.rint(a[:, 0])  # the edge that a is the middle of
    corners = np.where(on_upright[:, None], np.stack([a[:, 0], b[:, 1]], 1), np.stack([b[:, 0], a[:, 1]], 1))
    bends: Ring = corners[(a != b).all(axis=1)]
    return bends


def simplify(ring: Ring, tolerance: float) -> Ring:
    """The ring through the fewest of a ring's points that stays within `tolerance` px of it (Hausdorff); maybe 1 or 2.

    Of several such rings it is one that cuts off little area.
    """
    if len(ring) > MOST_POINTS:
        thinned: Ring = approximate_polygon(np.vstack([ring, ring[:1]]), tolerance)[:-1]  # type: ignore[no-untyped-call]
        return thinned
    if len(ring) <= 3:
        return ring
    valid = _shortcuts(ring, tolerance)
    return ring[_fewest(ring, valid, _best_start(valid))]


def _polygon(piece: NDArray[np.bool_], tolerance: float) -> Ring:
    rings = outlines(piece)
    least = max(SMALLEST_HOLE, HOLE_SHARE * piece.sum())
    kept = [ring for i, ring in enumerate(rings) if not i or abs(_area(ring)) >= least]
    height, width = piece.shape
    for share in (1.0, 0.5, 0.25):
        simple = _joined([simplify(ring, share * tolerance) for ring in kept])
        if len(simple) >= 3:
            drawn = polygon_mask(simple * (100 / width, 100 / height), height, width)
            if iou(drawn, piece) >= FAITHFUL:
                return simple
    return _joined(kept)


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


def _shortcuts(ring: Ring, tolerance: float) -> NDArray[np.bool_]:
    """(K, N) bool: whether the segment from point n to point n + k + 1 is within the tolerance of all between.

    A point is that near to a segment if it is to the ray from either end through the other.
    """
    forward = _rays(ring, tolerance)
    backward = _rays(ring[::-1], tolerance)
    longest = min(len(forward), len(backward))
    n = np.arange(len(ring))
    for k in range(longest):
        forward[k] &= backward[k][len(ring) - 1 - (n + k + 1) % len(ring)]
    return forward[:longest]


def _rays(ring: Ring, tolerance: float) -> NDArray[np.bool_]:
    """(K, N) bool: whether the ray from point n through point n + k + 1 is within the tolerance of all between.

    The directions that are near enough to a point are a wedge; those near enough to several, the wedges' intersection.
    """
    count = len(ring)
    alive: NDArray[np.int64] = np.arange(count)
    low: NDArray[np.float64] = np.full(count, -np.inf)
    high: NDArray[np.float64] = np.full(count, np.inf)
    middle: NDArray[np.float64] = np.full(count, np.nan)
    rows = []
    for k in range(1, count):
        step = ring[(alive + k) % count] - ring[alive]
        distance = np.hypot(step[:, 0], step[:, 1])
        angle = np.arctan2(step[:, 1], step[:, 0])
        far = distance > tolerance
        middle = np.where(
            np.isnan(middle) & far, angle, middle
        )  # angles count from the first wedge, which is < 180 deg
        turn = (angle - np.where(np.isnan(middle), angle, middle) + np.pi) % (2 * np.pi) - np.pi
        row = np.zeros(count, bool)
        row[alive] = (low <= turn) & (turn <= high)
        rows.append(row)
        half = np.arcsin(np.minimum(tolerance / np.maximum(distance, 1e-9), 1))
        low = np.where(far, np.maximum(low, turn - half), low)
        high = np.where(far, np.minimum(high, turn + half), high)
        open_ = low <= high
        alive, low, high, middle = alive[open_], low[open_], high[open_], middle[open_]
        if not alive.size:
            break
    return np.array(rows)


def _best_start(valid: NDArray[np.bool_]) -> int:
    """A point that a ring of the fewest points has.

    Every ring has one of the points from one on to the farthest that a shortcut over it reaches: all of these are
    tried at once, where they are fewest; of more than `MOST_STARTS`, the first.
    """
    longest, count = valid.shape
    reach = longest - np.argmax(valid[::-1], axis=0)  # of each point's longest shortcut
    over = np.maximum.accumulate(np.arange(3 * count) + np.tile(reach, 3))[count : 2 * count] - np.arange(
        count, 2 * count
    )
    window = int(np.argmin(over))
    starts = min(int(over[window]) + 1, MOST_STARTS)
    cost = np.full((starts, starts + count + longest), np.inf)
    cost[np.arange(starts), np.arange(starts)] = 0.0
    for i in range(starts + count - 1):
        ends = i + 1 + np.flatnonzero(valid[:, (window + i) % count])
        cost[:, ends] = np.minimum(cost[:, ends], cost[:, i, None] + 1)
    return (window + int(np.argmin(cost[np.arange(starts), np.arange(starts) + count]))) % count


def _fewest(ring: Ring, valid: NDArray[np.bool_], start: int) -> NDArray[np.int64]:
    """Indices of the fewest points of the ring, `start` among them, that admissible shortcuts lead around by."""
    count = len(ring)
    points = np.roll(ring, -start, axis=0)[np.r_[0:count, 0]]
    usable = np.roll(valid, -start, axis=1)
    swept = np.concatenate([[0.0], np.cumsum(_cross(points[:-1], points[1:]))])
    price = 1 / (8 * (1 + np.abs(np.diff(points, axis=0)).sum()))  # of an area, px^2: all together below one point's
    cost, before = np.full(count + 1, np.inf), np.zeros(count + 1, np.int64)
    cost[0] = 0.0
    for i in range(count):
        ends = i + 1 + np.flatnonzero(usable[: count - i, i])
        cut = np.abs(swept[ends] - swept[i] - _cross(points[i], points[ends]))
        total = cost[i] + 1 + price * cut
        better = total < cost[ends]
        cost[ends[better]], before[ends[better]] = total[better], i
    return (start + np.array(list(_back(before)), np.int64)[::-1]) % count


def _back(before: NDArray[np.int64]) -> Iterator[int]:
    """The positions of a path, from its last but one to its first."""
    at = len(before) - 1
    while at:
        at = int(before[at])
        yield at


def _area(ring: Ring) -> float:
    """Signed area, px^2 (shoelace formula)."""
    return float(_cross(ring, np.roll(ring, -1, axis=0)).sum() / 2)


def _cross(a: Ring, b: Ring) -> NDArray[np.float64]:
    product: NDArray[np.float64] = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return product

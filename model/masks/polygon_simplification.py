"""Simplification of outlines: few of a ring's points, within a distance of it.

A short path over all admissible shortcuts (Imai & Iri 1988), which are found by wedges (Chan & Chin 1992).
"""

import numpy as np
from numpy.typing import NDArray

from skylight.model.masks.contours import Ring

MAX_POINTS = 8000  # of an outline; longer ones are simplified by Douglas and Peucker's method, to take no seconds
CHUNK = 16  # shortcuts of each point that are tested at once
TURN = 2 * np.pi


def simplify(ring: Ring, tolerance: float) -> Ring:
    """A ring (M, 2) through few of a ring's points (N, 2), within `tolerance` px of it (Hausdorff); M may be 1 or 2.

    The points are the fewest, or one or two more for deeply cleft outlines, as an exhaustive search takes ten times as
    long. Of several such rings it is the one whose area is closest.
    """
    if len(ring) <= 3:
        return ring
    indices = _shortest_path(ring, _shortcuts(ring, tolerance)) if len(ring) <= MAX_POINTS else None
    if indices is not None:
        return ring[indices]
    from skimage.measure import (
        approximate_polygon,
    )  # not at import: with scipy.signal, a sixth of the web server's start-up time

    thinned: Ring = approximate_polygon(np.vstack([ring, ring[:1]]), tolerance)[:-1]  # type: ignore[no-untyped-call]
    return thinned


def area(ring: Ring) -> float:
    """Signed area, px^2 (shoelace formula)."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _shortcuts(ring: Ring, tolerance: float) -> NDArray[np.bool_]:
    """(N, K) bool: whether the segment from point n to point n + k + 1 is within the tolerance of all between.

    A point is that near to a segment if it is to the ray from either end through the other.
    """
    count = len(ring)
    both = _rays(np.concatenate([ring, ring, ring[::-1], ring[::-1]]), count, tolerance)
    n, k = np.arange(count)[:, None], np.arange(both.shape[1])
    valid: NDArray[np.bool_] = both[:count] & both[count + (count - 2 - n - k) % count, k]
    return valid[:, : int(np.flatnonzero(valid.any(axis=0))[-1]) + 1]


def _rays(points: Ring, count: int, tolerance: float) -> NDArray[np.bool_]:
    """(2 count, K) bool: whether the ray from point n through point n + k + 1 is within the tolerance of all between.

    `points` (4 count, 2): a ring twice, and its reverse twice; n is in the first of each. The directions that are near
    enough to a point are a wedge; those near enough to several, the wedges' intersection.
    """
    x, y = points.T.copy()
    alive: NDArray[np.int64] = np.concatenate([np.arange(count), np.arange(2 * count, 3 * count)])
    rows: NDArray[np.int64] = np.arange(2 * count)
    low, high = np.full(2 * count, -np.inf), np.full(2 * count, np.inf)
    middle: NDArray[np.float64] = np.full(2 * count, np.nan)
    parts = []
    for start in range(1, count, CHUNK):
        at = alive[:, None] + np.arange(start, min(start + CHUNK, count))
        dx, dy = x[at] - x[alive, None], y[at] - y[alive, None]
        distance, angle = np.sqrt(dx * dx + dy * dy), np.arctan2(dy, dx)
        far = distance > tolerance
        first = angle[np.arange(len(at)), far.argmax(axis=1)]
        middle = np.where(np.isnan(middle) & far.any(axis=1), first, middle)
        # Angles count from the first wedge, which is < 180 deg.
        turn = angle - np.where(np.isnan(middle), 0, middle)[:, None] + np.pi
        turn -= TURN * np.floor(turn / TURN) + np.pi
        half = np.arcsin(tolerance / np.maximum(distance, tolerance))
        floor = np.concatenate([low[:, None], np.where(far, turn - half, -np.inf)], axis=1)
        roof = np.concatenate([high[:, None], np.where(far, turn + half, np.inf)], axis=1)
        np.maximum.accumulate(floor, axis=1, out=floor)
        np.minimum.accumulate(roof, axis=1, out=roof)
        part = np.zeros((2 * count, at.shape[1]), bool)
        part[rows] = (floor[:, :-1] <= turn) & (turn <= roof[:, :-1])
        parts.append(part)
        open_ = floor[:, -1] <= roof[:, -1]
        if not open_.any():
            break
        alive, rows, middle = alive[open_], rows[open_], middle[open_]
        low, high = floor[open_, -1], roof[open_, -1]
    return np.concatenate(parts, axis=1)


def _shortest_path(ring: Ring, valid: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """The indices of few points connected by admissible shortcuts around the ring; None if no path closes.

    From every point at once, by the shortcut after which the next one reaches farthest.
    """
    count, longest = valid.shape
    reach = longest - valid[:, ::-1].argmax(axis=1)  # of each point's longest shortcut
    n, k = np.arange(count), np.arange(1, longest + 1)
    after = np.where(valid, k + reach[(n[:, None] + k) % count], 0)
    step = longest - after[:, ::-1].argmax(axis=1)
    ahead, farthest = np.tile(step, 3), np.tile(reach, 3)
    position, goal, path = n, n + count, [n]
    while True:
        near = np.flatnonzero(position + farthest[position] >= goal)
        left = goal[near] - position[near]
        ends = near[(left > 0) & valid[position[near] % count, np.maximum(left, 1) - 1]]
        if ends.size:
            break
        if near.size == count and (left <= 0).all():
            return None
        position = position + ahead[position]
        path.append(position)
    rings = np.stack(path)[:, ends] % count
    x, y = ring[rings].transpose(2, 0, 1)
    areas = (x * np.roll(y, -1, axis=0) - y * np.roll(x, -1, axis=0)).sum(axis=0) / 2
    best = np.abs(areas - area(ring)).argmin()
    return rings[:, best]

"""Few corners of an outline that stay near it.

A short path over the admissible shortcuts (Imai & Iri 1988), which are all found, by wedges (Chan & Chin 1992).
"""

import numpy as np
from numpy.typing import NDArray

from skylight.model.masks.contours import Ring

MOST_POINTS = 8000  # of an outline; one of more is simplified by Douglas and Peucker's method, or it would take seconds
CHUNK = 16  # shortcuts of each point that are looked at in one go
TURN = 2 * np.pi


def simplify(ring: Ring, tolerance: float) -> Ring:
    """A ring through few of a ring's points that stays within `tolerance` px of it (Hausdorff); maybe 1 or 2 of them.

    They were the fewest for each of 285 procedural objects, and are so for all but oddly cleft outlines, which get one
    or two more: all choices would take ten times as long. Of several such rings it is the one that keeps the area best.
    """
    if len(ring) <= 3:
        return ring
    chosen = _leaps(ring, _shortcuts(ring, tolerance)) if len(ring) <= MOST_POINTS else None
    if chosen is not None:
        return ring[chosen]
    from skimage.measure import approximate_polygon  # with scipy.signal, a sixth of the web server's time to start

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
    found = []
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
        found.append(part)
        open_ = floor[:, -1] <= roof[:, -1]
        if not open_.any():
            break
        alive, rows, middle = alive[open_], rows[open_], middle[open_]
        low, high = floor[open_, -1], roof[open_, -1]
    return np.concatenate(found, axis=1)


def _leaps(ring: Ring, valid: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Few points that admissible shortcuts lead around by, as indices; None if no way ends where it began.

    From every point at once, by the shortcut after which the next reaches farthest.
    """
    count, longest = valid.shape
    reach = longest - valid[:, ::-1].argmax(axis=1)  # of each point's longest shortcut
    n, k = np.arange(count), np.arange(1, longest + 1)
    after = np.where(valid, k + reach[(n[:, None] + k) % count], 0)
    step = longest - after[:, ::-1].argmax(axis=1)
    ahead, farthest = np.tile(step, 3), np.tile(reach, 3)
    here, goal, path = n, n + count, [n]
    while True:
        near = np.flatnonzero(here + farthest[here] >= goal)
        left = goal[near] - here[near]
        ends = near[(left > 0) & valid[here[near] % count, np.maximum(left, 1) - 1]]
        if ends.size:
            break
        if near.size == count and (left <= 0).all():
            return None
        here = here + ahead[here]
        path.append(here)
    rings = np.stack(path)[:, ends] % count
    x, y = ring[rings].transpose(2, 0, 1)
    areas = (x * np.roll(y, -1, axis=0) - y * np.roll(x, -1, axis=0)).sum(axis=0) / 2
    best = np.abs(areas - area(ring)).argmin()
    return rings[:, best]

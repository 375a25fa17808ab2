"""The connected parts of a mask that were clicked, and corrections by a further click.

SAM's masks often have islands beside the object (docs/decisions/mask-cuts.md).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

FILLED = 2  # value of filled pixels, in an array where a mask's are 1

Mask = NDArray[np.bool_]
Points = NDArray[np.float32]  # (N, 2) xy px
Pixels = tuple[NDArray[np.intp], NDArray[np.intp]]  # rows and columns


def clicked_parts(mask: Mask, points: Points) -> Mask:
    """The 8-connected parts of a mask (H, W) bool that contain positive clicks, (N, 2) xy px, as (H, W) bool.

    If none contains one, the part nearest to a click; without clicks, or for an empty mask, the mask itself.
    """
    if not len(points) or not mask.any():
        return mask
    rows, columns = _pixels(points, mask.shape)
    hits = mask[rows, columns]
    return _parts_at(mask, *((rows[hits], columns[hits]) if hits.any() else _nearest(mask, points)))


def agrees(mask: Mask, points: Points, positive: NDArray[np.bool_]) -> bool:
    """Whether a mask (H, W) bool contains all positive clicks, (N, 2) xy px with (N,) bool, and no negative one."""
    rows, columns = _pixels(points, mask.shape)
    return bool((mask[rows, columns] == positive).all())


def corrected(before: Mask, answer: Mask, points: Points, positive: NDArray[np.bool_]) -> Mask:
    """The mask to show after a further click: SAM's `answer` to all clicks, or the mask shown `before`, (H, W) bool.

    If the mask `before` agrees with all clicks, (N, 2) xy px with (N,) bool, it stays: the click confirms it. Where the
    answer is wrong at a click and `before` was right, the connected part of the change around that click is undone.
    """
    if agrees(before, points, positive):
        return before
    rows, columns = _pixels(points, answer.shape)
    regressed = (answer[rows, columns] != positive) & (before[rows, columns] == positive)
    if not regressed.any():
        return answer
    change = _parts_at(before ^ answer, rows[regressed], columns[regressed])
    return clicked_parts(answer ^ change, points[positive])


def _pixels(points: Points, shape: tuple[int, ...]) -> Pixels:
    """Rows and columns of the pixels that were clicked."""
    columns, rows = np.floor(points).astype(np.intp).T
    return rows.clip(0, shape[0] - 1), columns.clip(0, shape[1] - 1)


def _nearest(mask: Mask, points: Points) -> Pixels:
    """Row and column, (1,) each, of a mask's pixel that is nearest to a click."""
    rows, columns = np.nonzero(mask)
    best, nearest = np.inf, 0
    for x, y in points.tolist():  # one at a time: the distances of one click take as much memory as the image
        distances = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2
        least = int(distances.argmin())
        if distances[least] < best:
            best, nearest = float(distances[least]), least
    return rows[nearest : nearest + 1], columns[nearest : nearest + 1]


def _parts_at(mask: Mask, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Mask:
    """The 8-connected parts of a mask that contain some of its pixels.

    They are flood-filled: labeling all parts of a mask takes up to twenty times as long.
    """
    filled = mask.astype(np.uint8)
    out = np.zeros(mask.shape, bool)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if filled[row, column] == 1:
            left, top, width, height = cv2.floodFill(filled, None, (column, row), FILLED, flags=8)[3]
            window = slice(top, top + height), slice(left, left + width)
            out[window] = filled[window] == FILLED
    return out

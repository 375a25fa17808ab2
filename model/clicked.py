"""Which parts of a mask the clicks mean, and what a further click may change of the mask on the screen.

Of 102 objects of eight packs and procedural pits, one click each, 18 of the tiny SAM's masks had islands beside the
object. Without them the mean IoU of 165 objects is 0.720 instead of 0.718 after one click, and 0.815 instead of 0.799
after four, each where the mask on the screen is most wrong, with `corrected`.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Points = NDArray[np.float32]  # (N, 2) xy px
Pixels = tuple[NDArray[np.intp], NDArray[np.intp]]  # rows and columns


def clicked_parts(mask: Mask, points: Points) -> Mask:
    """The 8-connected parts of a mask (H, W) bool that hold one of some positive clicks, (N, 2) xy px.

    If none does, the part nearest to a click; without clicks, or of one part or none, the mask itself.
    """
    if not len(points) or _is_single(mask):
        return mask
    rows, columns = _pixels(points, mask.shape)
    held = mask[rows, columns]
    return _parts_at(mask, *((rows[held], columns[held]) if held.any() else _nearest(mask, points)))


def agrees(mask: Mask, points: Points, positive: NDArray[np.bool_]) -> bool:
    """Whether a mask (H, W) bool holds all positive clicks, (N, 2) xy px with (N,) bool, and no negative one."""
    rows, columns = _pixels(points, mask.shape)
    return bool((mask[rows, columns] == positive).all())


def corrected(before: Mask, answer: Mask, points: Points, positive: NDArray[np.bool_]) -> Mask:
    """The mask to show after a further click: SAM's `answer` to all clicks, or the mask shown `before`, (H, W) bool.

    If that agrees with all clicks, (N, 2) xy px with (N,) bool, it stays: the further click says that it is right. If
    the answer is wrong at a click where it was right, the connected part of the change around that click is undone.
    """
    if agrees(before, points, positive):
        return before
    rows, columns = _pixels(points, answer.shape)
    undone = (answer[rows, columns] != positive) & (before[rows, columns] == positive)
    if not undone.any():
        return answer
    change = _parts_at(before ^ answer, rows[undone], columns[undone])
    return clicked_parts(answer ^ change, points[positive])


def _pixels(points: Points, shape: tuple[int, ...]) -> Pixels:
    """Rows and columns of the pixels that were clicked."""
    columns, rows = np.floor(points).astype(np.intp).T
    return rows.clip(0, shape[0] - 1), columns.clip(0, shape[1] - 1)


def _is_single(mask: Mask) -> bool:
    """Whether a mask has one 8-connected part at most: outlines take a sixth of the time that numbering parts does."""
    _, tree = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return tree is None or np.count_nonzero(tree[0, :, 3] < 0) <= 1


def _nearest(mask: Mask, points: Points) -> Pixels:
    """Row and column, (1,) each, of a mask's pixel that is nearest to a click."""
    rows, columns = np.nonzero(mask)
    best, found = np.inf, 0
    for x, y in points.tolist():  # one at a time: an array of all distances would be of the image's size for each
        distances = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2
        least = int(distances.argmin())
        if distances[least] < best:
            best, found = float(distances[least]), least
    return rows[found : found + 1], columns[found : found + 1]


def _parts_at(mask: Mask, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Mask:
    """The 8-connected parts of a mask that hold some of its pixels."""
    there = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    down, across = (slice(int(each[0]), int(each[-1]) + 1) for each in there)
    _, numbered = cv2.connectedComponents(mask[down, across].view(np.uint8), connectivity=8)
    kept = np.zeros(int(numbered.max()) + 1, bool)
    kept[numbered[rows - down.start, columns - across.start]] = True
    out = np.zeros(mask.shape, bool)
    out[down, across] = kept[numbered]
    return out

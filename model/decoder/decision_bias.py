"""The odds of rare labels, set for the best IoU instead of being left to argmax."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ODDS = tuple(sorted((2.0 ** (k / 2) for k in range(-16, 13)), key=lambda odds: abs(np.log(odds))))  # 1 first: ties stay


def best_odds(
    found: NDArray[np.float64], classes: NDArray[np.uint8], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Factors (C,) on probabilities `found` (N, C) under which argmax has the best mean IoU of the labels 1 to C - 1.

    And that IoU. `classes` (N,) is the truth, `weights` (N,) how much each row counts. One label at a time, two rounds.
    """
    odds = np.ones(found.shape[1])
    present = [k for k in range(1, len(odds)) if weights[classes == k].sum() > 0]
    best = _mean_iou(found, classes, weights, present)
    for k in present * (1 if len(present) == 1 else 2):
        for factor in ODDS:
            tried = odds.copy()
            tried[k] = factor
            reached = _mean_iou(found * tried, classes, weights, present)
            if reached > best:
                best, odds = reached, tried
    return odds, best


def _mean_iou(
    found: NDArray[np.float64], classes: NDArray[np.uint8], weights: NDArray[np.float64], labels: Sequence[int]
) -> float:
    winner, size = found.argmax(1), found.shape[1]
    table = np.bincount(classes * np.int64(size) + winner, weights, size * size).reshape(size, size)
    union = table.sum(0) + table.sum(1) - table.diagonal()
    return sum(float(table[k, k] / union[k]) for k in labels) / max(len(labels), 1)


def likeliest(found: NDArray[np.float64], odds: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The class (N,) of each row of probabilities (N, C) under odds (C,)."""
    winner: NDArray[np.uint8] = (found * odds).argmax(1).astype(np.uint8)
    return winner


def spread(found: NDArray[np.float64], classes: NDArray[np.uint8], labels: int) -> NDArray[np.float64]:
    """Probabilities (N, labels + 1) from those (N, K) of the K classes that a classifier has seen."""
    full = np.zeros((len(found), labels + 1))
    full[:, classes] = found
    return full

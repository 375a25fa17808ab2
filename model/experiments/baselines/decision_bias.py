"""Class weights that make argmax choose rare labels as often as is best for the IoU."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FACTORS = tuple(sorted((2.0 ** (k / 2) for k in range(-16, 13)), key=lambda factor: abs(np.log(factor))))  # 1 first


def best_bias(
    probabilities: NDArray[np.float64], classes: NDArray[np.uint8], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Factors (C,) on `probabilities` (N, C) with which argmax has the best mean IoU of labels 1 to C - 1.

    Also gives that IoU. `classes` (N,) is the truth, `weights` (N,) how much each row counts. Fits one label
    at a time, in two rounds.
    """
    bias = np.ones(probabilities.shape[1])
    present = [k for k in range(1, len(bias)) if weights[classes == k].sum() > 0]
    best = _mean_iou(probabilities, classes, weights, present)
    for k in present * (1 if len(present) == 1 else 2):
        for factor in FACTORS:
            candidate = bias.copy()
            candidate[k] = factor
            reached = _mean_iou(probabilities * candidate, classes, weights, present)
            if reached > best:
                best, bias = reached, candidate
    return bias, best


def _mean_iou(
    probabilities: NDArray[np.float64],
    classes: NDArray[np.uint8],
    weights: NDArray[np.float64],
    labels: Sequence[int],
) -> float:
    winner, size = probabilities.argmax(1), probabilities.shape[1]
    table = np.bincount(classes * np.int64(size) + winner, weights, size * size).reshape(size, size)
    union = table.sum(0) + table.sum(1) - table.diagonal()
    return sum(float(table[k, k] / union[k]) for k in labels) / max(len(labels), 1)


def biased_argmax(probabilities: NDArray[np.float64], bias: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The class (N,) uint8 with the highest product of probability (N, C) and factor (C,)."""
    winner: NDArray[np.uint8] = (probabilities * bias).argmax(1).astype(np.uint8)
    return winner


def all_classes(probabilities: NDArray[np.float64], classes: NDArray[np.uint8], labels: int) -> NDArray[np.float64]:
    """Probabilities (N, labels + 1) from those (N, K) of the K classes that a classifier has seen."""
    full = np.zeros((len(probabilities), labels + 1))
    full[:, classes] = probabilities
    return full

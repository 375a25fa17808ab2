"""Refinement of a mask by its image: pixels that look like the mask join it, and its rim follows edges.

On kinds of objects that the tiny SAM was not trained on, its logits are near 0 over half of the object. For each mask,
Fisher's linear discriminant separates the pixels inside from those outside, by color and by the encoder's finest layer,
whose textures are ImageNet's. A guided filter then aligns the rim of the sum with the image's edges. What this gains:
docs/decisions/edge-refinement.md.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from skylight.model.masks.guided_filter import GuidedFilter
from skylight.model.sam.mask_scoring import ImageStatistics, MaskScorer, ScaledPrompt, measures

LIMIT = 2.0  # of SAM's logits, in the sum
SURE = 0.25  # logit at which a pixel counts as inside with 73 %
WEIGHT, MAX_DISCRIMINANT = 0.3, 3.0  # their product is below LIMIT: the discriminant alone adds no pixel far off
SHRINKAGE = 0.1  # of the covariance, to a multiple of the identity
MIN_SHARE = 1e-3  # of the finest layer's grid inside a mask, and outside, below which there is no discriminant
RADIUS, EDGE = 2, 1e-3  # of the guided filter: px, and the variance of gray (0 to 1) from which on it is an edge
REGULARIZATION = 1e-6  # of the covariance, for images of one color

Array = NDArray[np.float32]
Size = tuple[int, int]  # rows, columns
Line = tuple[Array, Array]  # slope and start, of half the filled square: values as straight lines of the gray


class MaskRefiner:
    """Refines any number of masks of one image.

    `pixels` (n, n, 3) uint8 RGB, of which the upper left `filled` (rows, columns) are the image; `detail` (D, m, m)
    of the same square, as `Embedding.detail`.
    """

    def __init__(self, pixels: NDArray[np.uint8], detail: NDArray[np.floating[Any]], filled: Size) -> None:
        self._filled, self._side = filled, len(pixels)
        self._half = max(round(filled[0] / 2), 1), max(round(filled[1] / 2), 1)
        cells = detail.shape[-1] / self._side
        self._grid = rows, columns = max(round(filled[0] * cells), 1), max(round(filled[1] * cells), 1)
        whole = np.ascontiguousarray(pixels[: filled[0], : filled[1]])
        colors = _scaled(whole, self._grid, cv2.INTER_AREA) / 64 - 2
        texture = detail[:, :rows, :columns].astype(np.float32).transpose(1, 2, 0)
        self._pixels: Array = np.concatenate([texture, colors], 2).reshape(rows * columns, -1)
        self._fine = np.asarray(cv2.cvtColor(whole, cv2.COLOR_RGB2GRAY) / np.float32(255), np.float32)
        self._gray = _scaled(self._fine, self._half, cv2.INTER_AREA)
        self._filter = GuidedFilter(self._gray, _window_mean, EDGE)
        self._statistics = ImageStatistics(
            np.asarray(cv2.resize(whole, self._half[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        )

    def refine(self, logits: Array) -> Array:
        """Refined logits (K, n, n) float32 of logits (K, h, h) float32 of the square."""
        return np.stack([self._evaluate(self._line(logit)) for logit in logits])

    def select(
        self, logits: Array, trust: Array, prompt: ScaledPrompt, scorer: MaskScorer, count: int
    ) -> tuple[Array, Array, list[int]]:
        """The `count` best of the masks whose logits are (K, h, h) float32, refined, each cut at its best level.

        Returns logits (N, n, n) float32, above 0 inside, the expected IoU of each (N,) float32, and their numbers among
        the K. `trust` (K,) are SAM's own scores; the prompt is in px of the square.
        """
        lines = [self._line(logit) for logit in logits]
        values = np.stack([slope * self._gray + start for slope, start in lines])
        cuts = scorer.best_cuts(measures(self._statistics, values, trust, prompt))[:count]
        refined = np.stack([self._evaluate(lines[cut.number]) - np.float32(cut.level) for cut in cuts])
        return refined, np.array([cut.score for cut in cuts], np.float32), [cut.number for cut in cuts]

    def _discriminant(self, logits: Array) -> Array:
        """How much each pixel looks like the inside: of the logits' size, within ±MAX_DISCRIMINANT."""
        inside_weights = _scaled(1 / (1 + np.exp(-logits / SURE)), self._grid, cv2.INTER_AREA).ravel()
        outside_weights = 1 - inside_weights
        if min(inside_weights.sum(), outside_weights.sum()) < MIN_SHARE * len(inside_weights):
            return np.zeros_like(logits)
        inside_weights, outside_weights = inside_weights / inside_weights.sum(), outside_weights / outside_weights.sum()
        inside, outside = inside_weights @ self._pixels, outside_weights @ self._pixels
        covariance = (self._pixels.T * ((inside_weights + outside_weights) / 2)) @ self._pixels
        covariance -= (np.outer(inside, inside) + np.outer(outside, outside)) / 2
        covariance += np.eye(len(covariance), dtype=np.float32) * (
            SHRINKAGE * np.trace(covariance) / len(covariance) + REGULARIZATION
        )
        projection = (self._pixels - (inside + outside) / 2) @ np.linalg.solve(covariance, inside - outside)
        return _scaled(projection.reshape(self._grid), self._half).clip(-MAX_DISCRIMINANT, MAX_DISCRIMINANT)

    def _line(self, logits: Array) -> Line:
        """One mask's logits and discriminant, as lines of the gray around each pixel."""
        clipped = _scaled(logits, (self._side // 2, self._side // 2))[: self._half[0], : self._half[1]].clip(
            -LIMIT, LIMIT
        )
        return self._filter.fit(clipped + WEIGHT * self._discriminant(clipped))

    def _evaluate(self, line: Line) -> Array:
        """The lines' values at twice the resolution, the filled part's rim repeated beyond it."""
        slope, start = (_scaled(plane, self._filled) for plane in line)
        beyond = 0, self._side - self._filled[0], 0, self._side - self._filled[1]
        return np.asarray(cv2.copyMakeBorder(slope * self._fine + start, *beyond, cv2.BORDER_REPLICATE), np.float32)


def _scaled(values: NDArray[Any], size: Size, how: int = cv2.INTER_LINEAR) -> Array:
    return np.asarray(cv2.resize(values, size[::-1], interpolation=how), np.float32)


def _window_mean(values: Array) -> Array:
    """The mean of the square around each pixel, of the shape of `values`."""
    side = 2 * RADIUS + 1
    return np.asarray(cv2.boxFilter(values, -1, (side, side), borderType=cv2.BORDER_REFLECT), np.float32)

"""A mask put right by the picture itself: what looks like most of it belongs to it, and its rim goes along edges.

Of things that the tiny SAM was not trained on it is unsure: its logits are near 0 over half of the object. Which pixels
look alike can be asked of the picture at hand: for each mask anew, Fisher's linear discriminant tells what it holds
from what it leaves out, by colour and by the encoder's finest layer, which knows textures from ImageNet. A guided
filter (He et al. 2013, doi 10.1109/TPAMI.2012.213) then lays the sum's rim along the picture's edges.

docs/decisions/edge-refinement.md has what this gains.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from skylight.model.masks.guided_filter import GuidedFilter
from skylight.model.sam.mask_scoring import Asked, Choice, Ground, measures

LIMIT = 2.0  # of SAM's logits, in the sum
SURE = 0.25  # logit at which a pixel counts for the mask with 73 %
WEIGHT, MOST = 0.3, 3.0  # of the discriminant, and its limit: together below LIMIT, so that nothing far off joins in
SHRINKAGE = 0.1  # of the covariance, to a multiple of the identity
LEAST = 1e-3  # of the finest layer's grid: what a mask must hold, and leave out, to be told apart
RADIUS, EDGE = 2, 1e-3  # of the guided filter: px, and the variance of grey (0 to 1) from which on it is an edge
TINIEST = 1e-6  # of a picture of one colour, in which nothing spreads

Array = NDArray[np.float32]
Size = tuple[int, int]  # rows, columns
Line = tuple[Array, Array]  # slope and start, of half the filled square: values as straight lines of the grey


class Likeness:
    """A picture, ready for any number of masks.

    `pixels` (n, n, 3) uint8 RGB, of which the upper left `filled` (rows, columns) are the picture; `detail` (D, m, m)
    of the same square, as `Embedding.detail`.
    """

    def __init__(self, pixels: NDArray[np.uint8], detail: NDArray[np.floating[Any]], filled: Size) -> None:
        self._filled, self._side = filled, len(pixels)
        self._half = max(round(filled[0] / 2), 1), max(round(filled[1] / 2), 1)
        cells = detail.shape[-1] / self._side
        self._grid = rows, columns = max(round(filled[0] * cells), 1), max(round(filled[1] * cells), 1)
        whole = np.ascontiguousarray(pixels[: filled[0], : filled[1]])
        colours = _scaled(whole, self._grid, cv2.INTER_AREA) / 64 - 2
        texture = detail[:, :rows, :columns].astype(np.float32).transpose(1, 2, 0)
        self._seen: Array = np.concatenate([texture, colours], 2).reshape(rows * columns, -1)
        self._fine = np.asarray(cv2.cvtColor(whole, cv2.COLOR_RGB2GRAY) / np.float32(255), np.float32)
        self._grey = _scaled(self._fine, self._half, cv2.INTER_AREA)
        self._filter = GuidedFilter(self._grey, _around, EDGE)
        self._ground = Ground(np.asarray(cv2.resize(whole, self._half[::-1], interpolation=cv2.INTER_AREA), np.uint8))

    def put_right(self, logits: Array) -> Array:
        """Logits (K, h, h) float32 of the square, so put right: (K, n, n) float32."""
        return np.stack([self._whole(self._line(each)) for each in logits])

    def chosen(
        self, logits: Array, trust: Array, asked: Asked, judge: Choice, most: int
    ) -> tuple[Array, Array, list[int]]:
        """The `most` best of the masks whose logits are (K, h, h) float32, put right and cut where they are best.

        Logits (N, n, n) float32, above 0 for the mask, the IoU expected of each (N,) float32, and their
        numbers. `trust` (K,) are SAM's own scores; the prompt is in px of the square.
        """
        lines = [self._line(each) for each in logits]
        values = np.stack([slope * self._grey + start for slope, start in lines])
        cuts = judge.cuts(measures(self._ground, values, trust, asked))[:most]
        right = np.stack([self._whole(lines[cut.number]) - np.float32(cut.level) for cut in cuts])
        return right, np.array([cut.score for cut in cuts], np.float32), [cut.number for cut in cuts]

    def _alike(self, logits: Array) -> Array:
        """How much each pixel looks like the mask rather than the rest: of the logits' size, within ±MOST."""
        held = _scaled(1 / (1 + np.exp(-logits / SURE)), self._grid, cv2.INTER_AREA).ravel()
        left = 1 - held
        if min(held.sum(), left.sum()) < LEAST * len(held):
            return np.zeros_like(logits)
        held, left = held / held.sum(), left / left.sum()
        inside, outside = held @ self._seen, left @ self._seen
        spread = (self._seen.T * ((held + left) / 2)) @ self._seen
        spread -= (np.outer(inside, inside) + np.outer(outside, outside)) / 2
        spread += np.eye(len(spread), dtype=np.float32) * (SHRINKAGE * np.trace(spread) / len(spread) + TINIEST)
        alike = (self._seen - (inside + outside) / 2) @ np.linalg.solve(spread, inside - outside)
        return _scaled(alike.reshape(self._grid), self._half).clip(-MOST, MOST)

    def _line(self, logits: Array) -> Line:
        """One mask's logits and what is alike, as lines of the grey around each pixel."""
        ours = _scaled(logits, (self._side // 2, self._side // 2))[: self._half[0], : self._half[1]].clip(-LIMIT, LIMIT)
        return self._filter.fit(ours + WEIGHT * self._alike(ours))

    def _whole(self, line: Line) -> Array:
        """The lines' values at twice the resolution, the filled part's rim repeated beyond it."""
        slope, start = (_scaled(each, self._filled) for each in line)
        beyond = 0, self._side - self._filled[0], 0, self._side - self._filled[1]
        return np.asarray(cv2.copyMakeBorder(slope * self._fine + start, *beyond, cv2.BORDER_REPLICATE), np.float32)


def _scaled(values: NDArray[Any], size: Size, how: int = cv2.INTER_LINEAR) -> Array:
    return np.asarray(cv2.resize(values, size[::-1], interpolation=how), np.float32)


def _around(values: Array) -> Array:
    """The mean of the square around each."""
    side = 2 * RADIUS + 1
    return np.asarray(cv2.boxFilter(values, -1, (side, side), borderType=cv2.BORDER_REFLECT), np.float32)

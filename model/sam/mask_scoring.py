"""Scores of SAM's masks, cut at several logits, from measures of the image.

SAM gives three masks and a score of each. On kinds of images that it never saw, the scores are often wrong, and 0 is
often not the logit at which the object ends. So every mask is cut at several levels, each cut is measured (does its rim
lie on edges, do inside and outside differ in color, how sharply does the logit fall there, does it contain the clicks
and fill the box), and a network with one small hidden layer predicts its IoU. `pretraining.fit_mask_scoring` fitted it
to maximize the IoU of the cut with the highest score (a softmax over all cuts, times their IoU).

All levels of a mask are measured in one pass, by histograms of the logit: a sum over the pixels between two levels,
weighted by the slope of the logit, is a sum along the rims there (the coarea formula).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

WEIGHTS = Path(__file__).parents[1] / "weights" / "choice.safetensors"
STEP = 0.1  # of a logit between levels
BESIDE = 2  # levels at either end, needed for the rims of those within
# Cuts up to 0.3 from 0: further ones make small objects worse (docs/decisions/mask-cuts.md).
EDGES = np.arange(-3 - BESIDE, 4 + BESIDE) * STEP
LEVELS = EDGES[BESIDE:-BESIDE]
SOFT = 0.25  # logit at which a pixel counts as inside with 73 %
SHARP = 0.05  # of SAM's score, over which a mask's weight in the mean of all three falls to a third
MOST = 3.0  # of a logit, in its means
FAR = 2.0  # largest distance of a click's logit from a level
YES, NO = (
    22,
    23,
)  # indices of measures: how far the lowest positive click and the highest negative one are above a level
BEYOND = 10.0  # more than two scores can differ by
FEW = 0.002  # of the picture's pixels, added to an area before it divides

Array = NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScaledPrompt:
    """A prompt in px of a square that is twice as large as the `ImageStatistics`.

    `positive` and `negative` clicks (N, 2) xy, `box` (4,) x0, y0, x1, y1 or None.
    """

    positive: NDArray[np.floating]
    negative: NDArray[np.floating]
    box: NDArray[np.floating] | None


@dataclass(frozen=True)
class ScoredCut:
    """A mask: its `number` in SAM's answer, the logit `level` that it lies above, and its expected IoU."""

    number: int
    level: float
    score: float


class ImageStatistics:
    """Edges and colors of an image, (h, w, 3) uint8 RGB, for measuring any number of masks."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        height, width = pixels.shape[:2]
        gray = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) / np.float32(255), np.float32)
        lab = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB) / np.float32(64), np.float32)
        colors = lab.transpose(2, 0, 1)
        flat = colors.reshape(3, -1).T
        self.known = np.concatenate([np.ones((height * width, 1), np.float32), flat, flat**2], 1)
        self.gray_slopes = _slopes(gray)
        self.steep = np.hypot(*self.gray_slopes)
        self.color_slopes = [_slopes(channel) for channel in colors]
        self.mean_slope = float(self.steep.mean()) + 1e-3
        self.mean_color_slope = float(np.mean([np.hypot(*slopes).mean() for slopes in self.color_slopes])) + 1e-3
        border = np.zeros((height, width), bool)
        border[[0, -1]], border[:, [0, -1]] = True, True
        self.border = np.flatnonzero(border)


def _slopes(values: Array) -> tuple[Array, Array]:
    """The slopes of (h, w) across and down, per px."""
    across, down = (cv2.Sobel(values, cv2.CV_32F, *way, scale=1 / 8) for way in ((1, 0), (0, 1)))
    return np.asarray(across, np.float32), np.asarray(down, np.float32)


def measures(image: ImageStatistics, logits: Array, trust: Array, prompt: ScaledPrompt) -> Array:
    """Measures of every cut, (K, levels, features) float32, of logits (K, h, w) float32 and SAM's own scores (K,)."""
    soft = [1 / (1 + np.exp(-mask / SOFT)) for mask in logits]
    shares = np.exp((trust - trust.max()) / SHARP)
    together = np.einsum("k,khw->hw", shares / shares.sum(), np.stack(soft)).astype(np.float32)
    best = float(trust.max())
    between = np.clip(np.floor(logits / STEP) + (len(EDGES) // 2 + 1), 0, len(EDGES)).astype(np.uint8)
    numbers = np.arange(len(EDGES) + 1, dtype=np.uint8)[:, None]
    where = (between.reshape(len(logits), 1, -1) == numbers).astype(np.float32)
    image_sums = (where.reshape(-1, where.shape[-1]) @ image.known).reshape(*where.shape[:2], -1)  # all masks at once
    return np.stack(
        [
            _mask_measures(image, own, np.stack([odds, together]), levels, sums, float(score), best, prompt)
            for own, odds, levels, sums, score in zip(logits, soft, where, image_sums, trust, strict=True)
        ]
    )


def _mask_measures(
    image: ImageStatistics,
    logits: Array,
    odds: Array,
    where: Array,
    image_sums: Array,
    trust: float,
    best: float,
    prompt: ScaledPrompt,
) -> Array:
    """Measures of one mask, (levels, features) float32.

    `odds` (2, h, w) of each pixel by this mask and by all masks; `where` (N, pixels) is 1 between two levels;
    `image_sums` (N, 7) are sums of `image.known` there.
    """
    pixels = logits.size
    clipped = logits.clip(-MOST, MOST)
    planes = np.stack([*_slope_planes(image, logits), clipped, *odds])
    # Sums of each plane between two levels, (planes, levels), then around each level or above it.
    along, within = np.split((where @ planes.reshape(8, -1).T).T.astype(np.float64), [5])
    count, *color_sums = image_sums.T.astype(np.float64)
    rim, edge, color_edge, steep, falls = map(_around, along)
    held_clipped, *held_odds = map(_above, within)
    area, rim = _above(count), rim + 1e-6
    edge, color_edge, steep, falls = edge / rim, color_edge / rim, steep / rim, falls / rim
    length = rim / (2 * BESIDE * STEP)
    inside, outside = area + 1, pixels - area + 1
    explained, apart, varied = _color_separation(color_sums, inside, outside, pixels)
    mean_in = held_clipped / inside
    mean_out = (clipped.sum() - mean_in * inside) / outside
    one = np.ones(len(LEVELS))
    known = [
        one * trust,
        one * (trust - best),
        LEVELS,
        np.abs(LEVELS),
        np.log(falls + 1e-3),
        _share(falls),
        np.log(edge / image.mean_slope + 0.05),
        _share(edge),
        np.log(color_edge / image.mean_color_slope + 0.05),
        _share(color_edge),
        edge / (steep + 1e-4),
        (_around(count) / (area + FEW * pixels)).clip(0, 3),
        np.log(inside / pixels),
        np.log(length**2 / (4 * np.pi * inside) + 1e-3).clip(-3, 4),
        explained,
        _share(explained.clip(0)),
        np.log(apart + 1e-2),
        np.log(varied.clip(0) + 1e-2),
        _above(where[:, image.border].sum(1)) / len(image.border),
        mean_in,
        mean_out,
        mean_in - mean_out,
        *_click_measures(logits, prompt),
        *(_expected(held, area, float(total)) for held, total in zip(held_odds, odds.sum((1, 2)), strict=True)),
        *_box_measures(logits, area, prompt.box),
    ]
    return np.stack(known, 1).astype(np.float32)


def _slope_planes(image: ImageStatistics, logits: Array) -> list[Array]:
    """The steepness of a mask's logits, alone and beside the image's edges, five planes of (h, w)."""
    across, down = _slopes(logits)
    slope = np.sqrt(across * across + down * down) + np.float32(1e-6)
    edge = np.abs(image.gray_slopes[0] * across + image.gray_slopes[1] * down)
    colored = sum((np.abs(x * across + y * down) for x, y in image.color_slopes), np.zeros_like(logits))
    return [slope, edge, colored, image.steep * slope, slope * slope]


def _color_separation(
    sums: Sequence[Floats], inside: Floats, outside: Floats, pixels: int
) -> tuple[Floats, Floats, Floats]:
    """How the colors inside of each cut differ from those outside, (levels,) each.

    The share of the variance that the cut explains, the squared distance of the means, and the variance inside. `sums`
    are those of three color channels and of their squares between two levels; `inside` and `outside` are areas, px.
    """
    apart, within, whole, varied = (np.zeros(len(LEVELS)) for _ in range(4))
    for color, square in zip(sums[:3], sums[3:], strict=True):
        total, squares, inner, inner_squares = color.sum(), square.sum(), _above(color), _above(square)
        mean_in, mean_out = inner / inside, (total - inner) / outside
        variance_in = inner_squares - inner * mean_in
        within += variance_in + (squares - inner_squares) - (total - inner) * mean_out
        whole += squares - total * total / pixels
        varied += variance_in / inside
        apart += (mean_in - mean_out) ** 2
    return 1 - within / (whole + 1e-3 * pixels), apart, varied


def _above(sums: NDArray[np.floating]) -> Floats:
    """Between two levels each -> above each of `LEVELS`."""
    above: Floats = np.asarray(sums[::-1].cumsum()[::-1][1:][BESIDE:-BESIDE], np.float64)
    return above


def _around(sums: Floats) -> Floats:
    """Between two levels each -> `BESIDE` on either side of each of `LEVELS`."""
    around: Floats = np.asarray(np.convolve(sums[1:-1], np.ones(2 * BESIDE), "valid"), np.float64)
    return around


def _share(values: Floats) -> Floats:
    shares: Floats = values / (values.max() + 1e-6)
    return shares


def _expected(held: Floats, area: Floats, total: float) -> Floats:
    """The expected IoU with a mask of which only each pixel's odds are known."""
    return held / (area + total - held + 1)


def _at(logits: Array, clicks: NDArray[np.floating]) -> Array:
    places = np.floor(clicks / 2).astype(int)
    height, width = logits.shape
    values: Array = logits[places[:, 1].clip(0, height - 1), places[:, 0].clip(0, width - 1)]
    return values


def _click_measures(logits: Array, prompt: ScaledPrompt) -> list[Floats]:
    """How far the lowest positive click and the highest negative one lie above each level, and how many there are."""
    lowest = _at(logits, prompt.positive).min() if len(prompt.positive) else 1.0
    highest = _at(logits, prompt.negative).max() if len(prompt.negative) else -1.0
    one = np.ones(len(LEVELS))
    return [
        (lowest - LEVELS).clip(-FAR, FAR),
        (highest - LEVELS).clip(-FAR, FAR),
        one * len(prompt.positive),
        one * len(prompt.negative),
    ]


def _box_measures(logits: Array, area: Floats, box: NDArray[np.floating] | None) -> list[Floats]:
    """How much of each cut is in the box, how much of the box it fills, how much of its sides it reaches, and 1."""
    if box is None:
        return [np.zeros(len(LEVELS))] * 4
    height, width = logits.shape
    x0, y0, x1, y1 = np.rint(box / 2).astype(int)
    x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    part = logits[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    inner = (part.ravel() > LEVELS[:, None]).sum(1)
    reached = np.ones(len(LEVELS))
    for axis in (0, 1):
        reached *= (part.max(axis) > LEVELS[:, None]).mean(1)
    return [inner / (area + 1), inner / part.size, reached, np.ones(len(LEVELS))]


class MaskScorer:
    """The network: `mean`, `deviation` (F,), `first` (H, F), `first_bias` (H,), `last` (H,) and `last_bias` (1,)."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self.weights = weights

    def scores(self, known: Array) -> Array:
        """The expected IoU, (...) float32, of cuts with measures (..., F)."""
        w = self.weights
        normalized = ((known - w["mean"]) / w["deviation"]).clip(-4, 4)
        hidden = np.maximum(normalized @ w["first"].T + w["first_bias"], 0)
        scores: Array = hidden @ w["last"] + w["last_bias"][0]
        return scores

    def best_cuts(self, known: Array) -> list[ScoredCut]:
        """The best cut of each mask, from `measures` (K, levels, F); the best mask first.

        A cut that contains all positive clicks and no negative one comes before all others, whose expected IoU is 0.
        """
        consistent = (known[..., YES] > 0) & (known[..., NO] < 0)
        scores = self.scores(known) - BEYOND * ~consistent
        best, highest = scores.argmax(1), scores.max(1)
        order = np.argsort(-highest, kind="stable").tolist()
        return [ScoredCut(k, float(LEVELS[best[k]]), float(np.clip(highest[k], 0, 1))) for k in order]


@lru_cache(maxsize=1)
def load_scorer() -> MaskScorer:
    """The bundled scorer."""
    return MaskScorer(load_file(WEIGHTS))

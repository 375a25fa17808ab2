"""Which of SAM's masks, cut at which logit, is the object: judged by the picture, not by SAM alone.

SAM offers three masks and says which it trusts; of kinds of pictures that it never saw, it is often wrong, and 0 is
often not the logit at which the object ends. So every mask is cut at some levels, each cut is measured (does its rim
lie on edges, are inside and outside of different colours, how sharply does the logit fall there, does it hold the
clicks and fill the box), and a network of one small layer tells its IoU from that. It was fitted by
`skylight.model.pretraining.fit_mask_scoring`
so that the cut it likes best is as good as can be (a softmax over all cuts, times their IoU).

All levels of a mask are measured in one pass, by histograms of the logit: a sum over the pixels between two levels,
weighted by the slope of the logit, is a sum along the rims there (the coarea formula).
"""

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
# Up to 0.3 from 0. On kinds never seen one click had an IoU of 0.594, 0.610, 0.611, 0.611 with cuts at most 0, 0.3,
# 0.5, 0.8 from 0, three had 0.745, 0.748, 0.751, 0.752; but what is accepted of small lesions is worse, the further a
# cut may go: 72 % of those pixels were right at 0.3, 57 % at 0.8.
EDGES = np.arange(-3 - BESIDE, 4 + BESIDE) * STEP
LEVELS = EDGES[BESIDE:-BESIDE]
SOFT = 0.25  # logit over which a pixel counts for a mask with 73 %
SHARP = 0.05  # of trust, over which one mask's share of what all three hold falls to a third
MOST = 3.0  # of a logit, where its mean is taken
FAR = 2.0  # of a click's logit from a level
YES, NO = 22, 23  # among the measures: how far the lowest positive click and the highest negative one are above a level
BEYOND = 10.0  # more than two scores can differ by
FEW = 0.002  # of the picture's pixels, added to an area before it divides

Array = NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """A prompt in px of a square of which a `Ground` is half as large.

    `positive` and `negative` clicks (N, 2) xy, `box` (4,) x0, y0, x1, y1 or None.
    """

    positive: NDArray[np.floating]
    negative: NDArray[np.floating]
    box: NDArray[np.floating] | None


@dataclass(frozen=True)
class Cut:
    """A mask: the `number` of SAM's answer, the logit above which it is, and the IoU that it should have."""

    number: int
    level: float
    score: float


class Ground:
    """A picture, (h, w, 3) uint8 RGB, ready to judge any number of masks by."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        height, width = pixels.shape[:2]
        grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) / np.float32(255), np.float32)
        lab = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB) / np.float32(64), np.float32)
        colours = lab.transpose(2, 0, 1)
        flat = colours.reshape(3, -1).T
        self.known = np.concatenate([np.ones((height * width, 1), np.float32), flat, flat**2], 1)
        self.grey = _slopes(grey)
        self.steep = np.hypot(*self.grey)
        self.of_colours = [_slopes(each) for each in colours]
        self.usual = float(self.steep.mean()) + 1e-3
        self.usual_colour = float(np.mean([np.hypot(*each).mean() for each in self.of_colours])) + 1e-3
        border = np.zeros((height, width), bool)
        border[[0, -1]], border[:, [0, -1]] = True, True
        self.border = np.flatnonzero(border)


def _slopes(values: Array) -> tuple[Array, Array]:
    """Across and down, per px."""
    across, down = (cv2.Sobel(values, cv2.CV_32F, *way, scale=1 / 8) for way in ((1, 0), (0, 1)))
    return np.asarray(across, np.float32), np.asarray(down, np.float32)


def measures(ground: Ground, logits: Array, trust: Array, asked: Asked) -> Array:
    """What is known of every cut, (K, levels, features) float32, of logits (K, h, w) and SAM's own scores (K,)."""
    soft = [1 / (1 + np.exp(-each / SOFT)) for each in logits]
    shares = np.exp((trust - trust.max()) / SHARP)
    together = np.einsum("k,khw->hw", shares / shares.sum(), np.stack(soft)).astype(np.float32)
    best = float(trust.max())
    between = np.clip(np.floor(logits / STEP) + (len(EDGES) // 2 + 1), 0, len(EDGES)).astype(np.uint8)
    numbers = np.arange(len(EDGES) + 1, dtype=np.uint8)[:, None]
    where = (between.reshape(len(logits), 1, -1) == numbers).astype(np.float32)
    held = (where.reshape(-1, where.shape[-1]) @ ground.known).reshape(*where.shape[:2], -1)  # all masks at once
    return np.stack(
        [
            _measured(ground, own, np.stack([odds, together]), there, sums, float(score), best, asked)
            for own, odds, there, sums, score in zip(logits, soft, where, held, trust, strict=True)
        ]
    )


def _measured(
    ground: Ground,
    logits: Array,
    odds: Array,
    where: Array,
    of_ground: Array,
    trust: float,
    best: float,
    asked: Asked,
) -> Array:
    """Of one mask, (levels, features).

    `odds` (2, h, w) of each pixel by this mask and by all; `where` (N, pixels) is 1 between two
    levels, `of_ground` (N, 7) what the ground has there, summed.
    """
    pixels = logits.size
    across, down = _slopes(logits)
    slope = np.sqrt(across * across + down * down) + np.float32(1e-6)
    edge = np.abs(ground.grey[0] * across + ground.grey[1] * down)
    coloured = sum((np.abs(x * across + y * down) for x, y in ground.of_colours), np.zeros_like(logits))
    clipped = logits.clip(-MOST, MOST)
    each = np.stack([slope, edge, coloured, ground.steep * slope, slope * slope, clipped, *odds])
    # Sums of each thing between two levels, (things, levels), then around each level or above it.
    along, within = np.split((where @ each.reshape(8, -1).T).T.astype(np.float64), [5])
    count, *of_colours = of_ground.T.astype(np.float64)
    rim, edge, colour_edge, steep, falls = map(_around, along)
    held_clipped, *held_odds = map(_above, within)
    area, rim = _above(count), rim + 1e-6
    edge, colour_edge, steep, falls = edge / rim, colour_edge / rim, steep / rim, falls / rim
    length = rim / (2 * BESIDE * STEP)
    inside, outside = area + 1, pixels - area + 1
    apart, spread, whole, varied = (np.zeros(len(LEVELS)) for _ in range(4))
    for colour, square in zip(of_colours[:3], of_colours[3:], strict=True):
        total, squares, held, held_squares = colour.sum(), square.sum(), _above(colour), _above(square)
        mean_in, mean_out = held / inside, (total - held) / outside
        around_in = held_squares - held * mean_in
        spread += around_in + (squares - held_squares) - (total - held) * mean_out
        whole += squares - total * total / pixels
        varied += around_in / inside
        apart += (mean_in - mean_out) ** 2
    explained = 1 - spread / (whole + 1e-3 * pixels)
    mean_in = held_clipped / inside
    mean_out = (clipped.sum() - mean_in * inside) / outside
    yes = _at(logits, asked.positive).min() if len(asked.positive) else 1.0
    no = _at(logits, asked.negative).max() if len(asked.negative) else -1.0
    one = np.ones(len(LEVELS))
    known = [
        one * trust,
        one * (trust - best),
        LEVELS,
        np.abs(LEVELS),
        np.log(falls + 1e-3),
        _share(falls),
        np.log(edge / ground.usual + 0.05),
        _share(edge),
        np.log(colour_edge / ground.usual_colour + 0.05),
        _share(colour_edge),
        edge / (steep + 1e-4),
        (_around(count) / (area + FEW * pixels)).clip(0, 3),
        np.log(inside / pixels),
        np.log(length**2 / (4 * np.pi * inside) + 1e-3).clip(-3, 4),
        explained,
        _share(explained.clip(0)),
        np.log(apart + 1e-2),
        np.log(varied.clip(0) + 1e-2),
        _above(where[:, ground.border].sum(1)) / len(ground.border),
        mean_in,
        mean_out,
        mean_in - mean_out,
        (yes - LEVELS).clip(-FAR, FAR),
        (no - LEVELS).clip(-FAR, FAR),
        one * len(asked.positive),
        one * len(asked.negative),
        *(_expected(held, area, float(total)) for held, total in zip(held_odds, odds.sum((1, 2)), strict=True)),
        *_boxed(logits, area, asked.box),
    ]
    return np.stack(known, 1).astype(np.float32)


def _above(sums: NDArray[np.floating]) -> Floats:
    """Between two levels each -> above each of `LEVELS`."""
    found: Floats = np.asarray(sums[::-1].cumsum()[::-1][1:][BESIDE:-BESIDE], np.float64)
    return found


def _around(sums: Floats) -> Floats:
    """Between two levels each -> `BESIDE` on either side of each of `LEVELS`."""
    found: Floats = np.asarray(np.convolve(sums[1:-1], np.ones(2 * BESIDE), "valid"), np.float64)
    return found


def _share(values: Floats) -> Floats:
    found: Floats = values / (values.max() + 1e-6)
    return found


def _expected(held: Floats, area: Floats, total: float) -> Floats:
    """The IoU with something of which only the odds are known."""
    return held / (area + total - held + 1)


def _at(logits: Array, clicks: NDArray[np.floating]) -> Array:
    places = np.floor(clicks / 2).astype(int)
    height, width = logits.shape
    found: Array = logits[places[:, 1].clip(0, height - 1), places[:, 0].clip(0, width - 1)]
    return found


def _boxed(logits: Array, area: Floats, box: NDArray[np.floating] | None) -> list[Floats]:
    """How much of each cut is in the box, how much of the box it fills, how much of its sides it reaches, and 1."""
    if box is None:
        return [np.zeros(len(LEVELS))] * 4
    height, width = logits.shape
    x0, y0, x1, y1 = np.rint(box / 2).astype(int)
    x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    part = logits[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    held = (part.ravel() > LEVELS[:, None]).sum(1)
    reached = np.ones(len(LEVELS))
    for axis in (0, 1):
        reached *= (part.max(axis) > LEVELS[:, None]).mean(1)
    return [held / (area + 1), held / part.size, reached, np.ones(len(LEVELS))]


class Choice:
    """The fitted judge: `mean`, `deviation` (F,), `first` (H, F), `first_bias` (H,), `last` (H,), `last_bias` (1,)."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self.weights = weights

    def scores(self, known: Array) -> Array:
        """The IoU expected of cuts (..., F): (...) float32."""
        w = self.weights
        seen = ((known - w["mean"]) / w["deviation"]).clip(-4, 4)
        hidden = np.maximum(seen @ w["first"].T + w["first_bias"], 0)
        found: Array = hidden @ w["last"] + w["last_bias"][0]
        return found

    def cuts(self, known: Array) -> list[Cut]:
        """The best cut of each mask, of `measures` (K, levels, F); the best first.

        One that holds all positive clicks and no negative one, where there is any (without that three of 400 clicks on
        scenes were answered with nothing at all); of any other no IoU is expected.
        """
        obeys = (known[..., YES] > 0) & (known[..., NO] < 0)
        scores = self.scores(known) - BEYOND * ~obeys
        best, liked = scores.argmax(1), scores.max(1)
        order = np.argsort(-liked, kind="stable").tolist()
        return [Cut(k, float(LEVELS[best[k]]), float(np.clip(liked[k], 0, 1))) for k in order]


@lru_cache(maxsize=1)
def fitted() -> Choice:
    """The bundled one."""
    return Choice(load_file(WEIGHTS))

"""The decoder's answer aligned with the image's edges, by a guided filter.

The decoder answers on a grid of half of SAM's input. There each cell's log-odds become a linear function of the luma
around it. Slope and intercept, enlarged, are evaluated at the image's own luma: a boundary moves to where the image has
one, at the image's resolution. docs/decisions/edge-refinement.md has what this gains.
"""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from skylight.model.masks.guided_filter import GuidedFilter

WINDOW_SHARE = 128  # the window's radius is the grid's side over this
EPSILON = 1e-4  # variance of luma (0 to 1) from which on it is an edge; from 1e-5 to 1e-3 it hardly matters
NEAR = 4.0  # log-odds, above and below 0; what is beyond is not spread, it would outweigh its surroundings
# Log-odds of an object rather than none: a mask's IoU is best if it holds all that is IoU / (1 + IoU) likely, 0.44
# where that is 0.8.
FOREGROUND_LOGIT_BIAS = 0.25
LUMA = 0.299, 0.587, 0.114  # of red, green, blue, as in a JPEG


def luma(planes: Tensor) -> Tensor:
    """Luma (H, W) in [0, 1] of RGB planes (3, H, W) in [0, 255]."""
    red, green, blue = planes
    weighted: Tensor = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue) / 255
    return weighted


def window_radius(side: int) -> int:
    """The radius of the filter's window, in cells of a grid of `side` x `side`."""
    return max(side // WINDOW_SHARE, 1)


def fit_lines(log_odds: Tensor, guide: Tensor, inside: Tensor, radius: int | None = None) -> tuple[Tensor, Tensor]:
    """Slope and intercept, each (K, h, w), of log-odds (K, h, w) as a linear function of `guide`.

    `guide` (h, w) is the luma of the same cells in [0, 1], `inside` (h, w) is 1 within the image, 0 beyond it. `radius`
    is the window's, by default that for a whole grid; in a part of a grid, the cells within twice the radius of its
    border differ from those of the whole.
    """
    radius = window_radius(int(guide.shape[-1])) if radius is None else radius
    count = _window_sum(inside[None], radius).clamp(min=1e-6)

    def mean(planes: Tensor) -> Tensor:
        return _window_sum(planes * inside, radius) / count

    near = log_odds.clamp(-NEAR, NEAR)
    slope, intercept = GuidedFilter(guide[None], mean, EPSILON).fit(near)
    return slope, intercept + (log_odds - near)


def _window_sum(values: Tensor, radius: int) -> Tensor:
    """Sum over the square around each cell, (C, h, w), 0 beyond: by shifts, in a third of `avg_pool2d`'s time."""
    (height, width), shifts = (int(side) for side in values.shape[-2:]), range(2 * radius + 1)
    down = F.pad(values, (0, 0, radius, radius))
    across = F.pad(reduce(torch.add, (down[:, k : k + height] for k in shifts)), (radius, radius))
    return reduce(torch.add, (across[..., k : k + width] for k in shifts))


def with_background(log_odds: Tensor) -> Tensor:
    """Logits (K + 1, ...), the background's first, from the log-odds (K, ...) of the labels."""
    return torch.cat([torch.full_like(log_odds[:1], -FOREGROUND_LOGIT_BIAS), log_odds])


def probabilities(slope: Tensor, intercept: Tensor, guide: Tensor) -> Tensor:
    """Probabilities (K + 1, H, W), the background first, of `fit_lines` enlarged to (K, H, W) and the image's luma
    (H, W).
    """
    return with_background(slope * guide + intercept).softmax(0)

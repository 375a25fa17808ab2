"""Prediction with many labels: for each pixel the background and the likeliest few labels.

A plane for every label of an image of 1024 px takes 4 MB, and so do the intermediate ones: 4 GB with 254 labels. Hardly
any pixel is undecided between more than a few. So the image is predicted in tiles of the decoder's grid: a quarter of
a tile's cells tell which labels could win in it, and only these are computed in full and enlarged.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from skylight.model.decoder import edge_refinement
from skylight.model.decoder.network import DomainDecoder

RANKS = 4  # labels per pixel, beside the background
TILE = 64  # cells of the decoder's grid, a tile's side
# Labels that are enlarged in a tile: those that win cells of it, at most the second number, and up to the first number
# those with the highest logits. Where more win, the decoder is guessing.
CANDIDATES = 12, 32
NOTHING = -50.0  # log-odds of the other labels together where there are no others


@dataclass(frozen=True)
class ImageLuma:
    """The luma of an image, which guides the edge refinement.

    `grid` (n, n) in [0, 1] at the resolution of the decoder's grid, of which `extent` (rows, columns) are the image;
    `fine` (H, W) at the image's own.
    """

    grid: Tensor
    extent: tuple[int, int]
    fine: Tensor


def rank(decoder: DomainDecoder, trunk: Tensor, image: ImageLuma) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Probabilities and classes (RANKS + 1, H, W), the background first, then the likeliest labels, falling.

    `trunk` (1, C, n / 2, n / 2) is the input of the decoder's heads. The rest of the probability, to 1, is that of the
    other labels.
    """
    height, width = image.fine.shape
    rows, columns = image.extent
    probabilities = np.zeros((RANKS + 1, height, width), np.float32)
    classes = np.zeros((RANKS + 1, height, width), np.uint8)
    for top in range(0, rows, TILE):
        for left in range(0, columns, TILE):
            tile = (top, min(top + TILE, rows)), (left, min(left + TILE, columns))
            spans = [_pixels(*tile[axis], image.extent[axis], image.fine.shape[axis]) for axis in (0, 1)]
            where = np.s_[:, spans[0][0] : spans[0][1], spans[1][0] : spans[1][1]]
            probability, label = _tile(decoder, trunk, image, tile, spans)
            probabilities[where], classes[where] = probability.numpy(), label.numpy()
    return probabilities, classes


Span = tuple[int, int]  # begin, end


def _pixels(begin: int, end: int, count: int, length: int) -> Span:
    """The pixels, of `length`, whose centres lie in the cells `begin` to `end` of `count`."""
    first, last = (int(np.ceil(each * length / count - 0.5)) for each in (begin, end))
    return first, length if end == count else last


def _tile(
    decoder: DomainDecoder, trunk: Tensor, image: ImageLuma, tile: tuple[Span, Span], spans: list[Span]
) -> tuple[Tensor, Tensor]:
    """As `rank`, of the pixels `spans` (rows, columns) of a tile of cells."""
    cells = len(image.grid)
    reach = edge_refinement.window_radius(cells)
    halo = 2 * reach + 2  # what the lines look at, and the cell beside the tile that its pixels are interpolated with
    wide = [(max(begin - halo, 0) // 2 * 2, min((end + halo + 1) // 2 * 2, cells)) for begin, end in tile]
    (top, bottom), (left, right) = wide
    part = trunk[:, :, top // 2 : bottom // 2, left // 2 : right // 2]
    coarse = _coarse_odds(decoder, part)
    (up, down_to), (from_left, to_right) = (
        ((begin - low) // 2, (end - low + 1) // 2) for (begin, end), (low, _) in zip(tile, wide, strict=True)
    )
    chosen = _candidates(coarse[:, up:down_to, from_left:to_right])
    logits = decoder.logits(part, torch.cat([torch.zeros(1, dtype=torch.long), chosen + 1]))[0]
    log_odds = (logits[1:] - logits[:1]) / decoder.config.temperature
    coarse[chosen] = -torch.inf
    rest = coarse.logsumexp(0).clamp(min=NOTHING).repeat_interleave(2, 0).repeat_interleave(2, 1)
    inside = torch.zeros(bottom - top, right - left)
    inside[: max(image.extent[0] - top, 0), : max(image.extent[1] - left, 0)] = 1
    grey = image.grid[top:bottom, left:right]
    slope, intercept = edge_refinement.fit_lines(log_odds, grey, inside, reach)
    planes = torch.cat([slope, intercept, rest[None]])
    down, across = (
        _weights(span, low, count, high - low, length)
        for span, (low, high), count, length in zip(spans, wide, image.extent, image.fine.shape, strict=True)
    )
    scaled = down @ planes @ across.T
    slope, intercept = scaled[:-1].chunk(2)
    fine = image.fine[spans[0][0] : spans[0][1], spans[1][0] : spans[1][1]]
    probabilities = edge_refinement.with_background(torch.cat([slope * fine + intercept, scaled[-1:]])).softmax(0)
    likeliest, order = probabilities[1:-1].topk(RANKS, 0)
    classes = torch.cat([torch.zeros_like(order[:1]), chosen[order] + 1])
    return torch.cat([probabilities[:1], likeliest]), classes.to(torch.uint8)


def _coarse_odds(decoder: DomainDecoder, part: Tensor) -> Tensor:
    """Log-odds (L, h, w) of all labels from the heads' input (1, C, h, w): the mean of each cell's four quarters."""
    weight, bias = decoder.head.weight, decoder.head.bias
    means = weight.reshape(-1, 4, *weight.shape[1:]).mean(1), None if bias is None else bias.reshape(-1, 4).mean(1)
    logits = F.conv2d(part, *means)[0]
    return (logits[1:] - logits[:1]) / decoder.config.temperature


def _candidates(odds: Tensor) -> Tensor:
    """The labels (K,) int64, 0 for the first, that could win somewhere in a tile of log-odds (L, h, w)."""
    fewest, most = (min(number, len(odds)) for number in CANDIDATES)
    cells = odds.flatten(1)
    highest, winner = cells.max(0)
    won = torch.bincount(winner[highest > -edge_refinement.FOREGROUND_LOGIT_BIAS], minlength=len(odds))
    order = torch.where(won > 0, 1e6 + won, cells.amax(1))
    count = min(max(fewest, int((won > 0).sum())), most)
    return order.topk(count).indices.sort().values


def _weights(span: Span, low: int, count: int, size: int, length: int) -> Tensor:
    """Bilinear weights (pixels, size) float32 of the `size` cells from `low` on for each pixel of a span.

    As torch interpolates `count` cells to `length` pixels, bilinear, without aligned corners.
    """
    at = ((torch.arange(*span, dtype=torch.float64) + 0.5) * count / length - 0.5).clamp(0, count - 1)
    first = at.floor().long()
    share = (at - first).float()
    out = torch.zeros(len(at), size)
    pixel = torch.arange(len(at))
    out[pixel, first - low] = 1 - share
    second = (first + 1).clamp(max=count - 1) - low
    out[pixel, second] += share
    return out


def add(
    held: NDArray[np.float16], classes: NDArray[np.uint8], more: NDArray[np.float16], theirs: NDArray[np.uint8]
) -> None:
    """Add a tile's weighted probabilities `more` of the classes `theirs` to those in `held`, in place.

    All (RANKS + 1, h, w), the background first. A label that `classes` has already is added up; another replaces the
    least likely one, if it is likelier.
    """
    held[0] += more[0]
    for share, label in zip(more[1:], theirs[1:], strict=True):
        same = (classes[1:] == label) & (held[1:] > 0)
        held[1:] += np.where(same, share, 0)
        new = (share > 0) & ~same.any(0)
        least = held[1:].argmin(0)[None] + 1
        new &= share > np.take_along_axis(held, least, 0)[0]
        for values, value in ((held, share), (classes, label)):
            before = np.take_along_axis(values, least, 0)
            np.put_along_axis(values, least, np.where(new, value, before), 0)

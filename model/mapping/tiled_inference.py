"""A decoder over pictures larger than a tile: overlapping tiles whose answers are blended, in bounded memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skylight.model.decoder.inference import MOST_PLANES, planes, predict_pixels
from skylight.model.decoder.network import DomainDecoder
from skylight.model.decoder.ranked_labels import add
from skylight.model.images.raster import Raster, Window
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Embedding

INPUTS = 2  # a tile's side over that of the SAM's input
OVERLAP = 8  # of a tile's side the part in which it is blended with its neighbour, one over this


@dataclass(frozen=True)
class Strip:
    """Finished rows of a picture, from row `top` on.

    `probabilities` (K, h, W) float16; `distance` (h, W) float16 in [0, 1]; `classes` (K, h, W) uint8 or None, all as of
    `skylight.model.decoder.inference.Prediction`; `known` (h, W) bool: where the picture has pixels.
    """

    top: int
    probabilities: NDArray[np.float16]
    distance: NDArray[np.float16]
    known: NDArray[np.bool_]
    classes: NDArray[np.uint8] | None = None


def default_side(segmenter: Segmenter) -> int:
    """The side of a tile in px if nothing is set: what is larger is scaled down too far for what is small in it."""
    return INPUTS * segmenter.input_size


def starts(length: int, side: int) -> list[int]:
    """Where tiles of `side` px begin along `length` px: evenly, each overlapping the next by an eighth or more."""
    if length <= side:
        return [0]
    step = side - side // OVERLAP
    count = -(-(length - side) // step) + 1
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def windows(size: tuple[int, int], side: int) -> list[Window]:
    """All tiles of a picture of `size` (H, W), row by row."""
    height, width = min(side, size[0]), min(side, size[1])
    return [(row, column, height, width) for row in starts(size[0], side) for column in starts(size[1], side)]


def ramps(length: int, side: int) -> NDArray[np.float32]:
    """Each tile's weight along its side, (tiles, side) float32: it falls towards a neighbour, and all sum up to 1."""
    begins, side = starts(length, side), min(side, length)
    out = np.zeros((len(begins), side), np.float32)
    total = np.zeros(length, np.float32)
    reach = max(side // OVERLAP, 1)
    inward = np.minimum(np.arange(side) + 0.5, reach) / reach
    for i, begin in enumerate(begins):
        rising = inward if i else 1.0
        falling = inward[::-1] if i < len(begins) - 1 else 1.0
        out[i] = rising * falling
        total[begin : begin + side] += out[i]
    for i, begin in enumerate(begins):
        out[i] /= total[begin : begin + side]
    return out


def embed(segmenter: Segmenter, raster: Raster, window: Window) -> Embedding:
    """The embedding of a part of a picture, its `size` that of the part."""
    picture = pixels(segmenter, raster, window)
    return replace(segmenter.embed(picture), size=(window[2], window[3]), quantiles=raster.quantiles)


def pixels(segmenter: Segmenter, raster: Raster, window: Window) -> NDArray[np.uint8]:
    """What `embed` shows to a SAM of a part of a picture, (h, w, 3) uint8 RGB: scaled down, if that is very large."""
    most = 2 * default_side(segmenter)
    return raster.read(window) if max(window[2:]) <= most else raster.thumbnail(most, window)


def nearest(size: tuple[int, int], side: int, low: NDArray[np.float32], high: NDArray[np.float32]) -> Window:
    """The part of a picture of `size` (H, W) to look at for a prompt that lies between two corners, xy px.

    The tile whose centre is nearest to it; if that does not hold all of it, a square around it of twice its extent.
    """
    x, y = ((low + high) / 2).tolist()
    found = min(windows(size, side), key=lambda each: abs(each[0] + each[2] / 2 - y) + abs(each[1] + each[3] / 2 - x))
    row, column, height, width = found
    if low[0] >= column and low[1] >= row and high[0] < column + width and high[1] < row + height:
        return found
    return around(size, x, y, max(round(2 * float((high - low).max())), side))


def around(size: tuple[int, int], x: float, y: float, side: int) -> Window:
    """A square of `side` px around x, y, as far as the picture of `size` (H, W) allows."""
    height, width = min(side, size[0]), min(side, size[1])
    row = min(max(round(y - height / 2), 0), size[0] - height)
    return row, min(max(round(x - width / 2), 0), size[1] - width), height, width


def wider(size: tuple[int, int], window: Window, mask: NDArray[np.bool_]) -> Window | None:
    """A window of twice the side around a mask (h, w) bool that goes on beyond its own; None if it does not."""
    row, column, height, width = window
    cut = (
        (mask[0].any() and row > 0)
        or (mask[-1].any() and row + height < size[0])
        or (mask[:, 0].any() and column > 0)
        or (mask[:, -1].any() and column + width < size[1])
    )
    if not cut:
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = column + (columns[0] + columns[-1]) / 2, row + (rows[0] + rows[-1]) / 2
    return around(size, float(x), float(y), 2 * max(height, width))


def strips(
    decoder: DomainDecoder,
    segmenter: Segmenter,
    raster: Raster,
    side: int,
    embedding: Callable[[Window], Embedding] | None = None,
) -> Iterator[Strip]:
    """What a decoder says of a picture, from top to bottom; at most one row of tiles is in memory.

    `embedding` gives a tile's, which is made here and now if nobody does. A tile in which nothing is known is
    background, unseen. Raises ImageError if the picture cannot be read.
    """
    height, width = raster.size
    down, across = ramps(height, side), ramps(width, side)
    rows, columns = starts(height, side), starts(width, side)
    tall, wide = down.shape[1], across.shape[1]
    count = len(decoder.config.labels) + 1
    ranked = count > MOST_PLANES
    held = np.zeros((planes(count) + 1, tall, width), np.float16)  # the distance last
    classes = np.zeros((planes(count), tall, width), np.uint8) if ranked else None
    there = np.zeros((tall, width), bool)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            window = row, column, tall, wide
            weight = down[i][:, None] * across[j]
            part = np.s_[column : column + wide]
            known = raster.known(window)
            there[:, part] = True if known is None else known
            if known is not None and not known.any():
                held[0, :, part] += weight.astype(np.float16)
                continue
            said = predict_pixels(decoder, embedding(window) if embedding else embed(segmenter, raster, window))
            weighed = (said.probabilities * weight).astype(np.float16)
            if classes is None or said.classes is None:
                held[:-1, :, part] += weighed
            else:
                add(held[:-1, :, part], classes[..., part], weighed, said.classes)
            held[-1, :, part] += (said.distance * weight).astype(np.float16)
        done = rows[i + 1] - row if i + 1 < len(rows) else tall
        found = None if classes is None else classes[:, :done].copy()
        yield Strip(row, held[:-1, :done].copy(), held[-1, :done].copy(), there[:done].copy(), found)
        for each in (held,) if classes is None else (held, classes):
            each[:, : tall - done] = each[:, done:].copy()
            each[:, tall - done :] = 0

"""Prediction of images larger than a tile, by overlapping tiles that are blended, in bounded memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skylight.model.decoder.inference import MOST_PLANES, planes, predict_pixels
from skylight.model.decoder.network import DomainDecoder
from skylight.model.decoder.ranked_labels import add
from skylight.model.images.raster import Raster, Window
from skylight.model.images.tiling import blend_weights, tile_starts
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Embedding

INPUTS = 2  # a tile's side, in sides of the SAM's input


@dataclass(frozen=True)
class Strip:
    """Finished rows of an image, from row `top` on.

    `probabilities` (K, h, W) float16; `distance` (h, W) float16 in [0, 1]; `classes` (K, h, W) uint8 or None, all as of
    `skylight.model.decoder.inference.Prediction`; `known` (h, W) bool: where the image has data.
    """

    top: int
    probabilities: NDArray[np.float16]
    distance: NDArray[np.float16]
    known: NDArray[np.bool_]
    classes: NDArray[np.uint8] | None = None


def default_side(segmenter: Segmenter) -> int:
    """The default side of a tile, px: larger ones are scaled down too far for small objects."""
    return INPUTS * segmenter.input_size


def embed(segmenter: Segmenter, raster: Raster, window: Window) -> Embedding:
    """The embedding of a window of an image, its `size` that of the window."""
    image = pixels(segmenter, raster, window)
    return replace(segmenter.embed(image), size=(window[2], window[3]), quantiles=raster.quantiles)


def pixels(segmenter: Segmenter, raster: Raster, window: Window) -> NDArray[np.uint8]:
    """The pixels (h, w, 3) uint8 RGB that `embed` gives to a SAM: scaled down, if the window is very large."""
    most = 2 * default_side(segmenter)
    return raster.read(window) if max(window[2:]) <= most else raster.thumbnail(most, window)


def strips(
    decoder: DomainDecoder,
    segmenter: Segmenter,
    raster: Raster,
    side: int,
    embedding: Callable[[Window], Embedding] | None = None,
) -> Iterator[Strip]:
    """A decoder's prediction of an image, from top to bottom; at most one row of tiles is in memory.

    `embedding` gives a tile's embedding; by default it is computed here. A tile without data is background, without a
    prediction. Raises ImageError if the image cannot be read.
    """
    height, width = raster.size
    down, across = blend_weights(height, side), blend_weights(width, side)
    rows, columns = tile_starts(height, side), tile_starts(width, side)
    tall, wide = down.shape[1], across.shape[1]
    count = len(decoder.config.labels) + 1
    ranked = count > MOST_PLANES
    blended = np.zeros((planes(count) + 1, tall, width), np.float16)  # the distance last
    classes = np.zeros((planes(count), tall, width), np.uint8) if ranked else None
    covered = np.zeros((tall, width), bool)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            window = row, column, tall, wide
            weight = down[i][:, None] * across[j]
            part = np.s_[column : column + wide]
            known = raster.known(window)
            covered[:, part] = True if known is None else known
            if known is not None and not known.any():
                blended[0, :, part] += weight.astype(np.float16)
                continue
            prediction = predict_pixels(decoder, embedding(window) if embedding else embed(segmenter, raster, window))
            weighed = (prediction.probabilities * weight).astype(np.float16)
            if classes is None or prediction.classes is None:
                blended[:-1, :, part] += weighed
            else:
                add(blended[:-1, :, part], classes[..., part], weighed, prediction.classes)
            blended[-1, :, part] += (prediction.distance * weight).astype(np.float16)
        done = rows[i + 1] - row if i + 1 < len(rows) else tall
        finished_classes = None if classes is None else classes[:, :done].copy()
        yield Strip(row, blended[:-1, :done].copy(), blended[-1, :done].copy(), covered[:done].copy(), finished_classes)
        for array in (blended,) if classes is None else (blended, classes):
            array[:, : tall - done] = array[:, done:].copy()
            array[:, tall - done :] = 0

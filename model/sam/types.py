"""Inputs and outputs of a SAM: prompts, embeddings, masks."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skylight.model.images.raster import Window

FEATURES = 256  # channels of every SAM's embedding
PER_CELL = 8  # px of a thumbnail along a side of an embedding's cell: half of the resolution that SAM sees


@dataclass(frozen=True)
class Prompt:
    """Points and a box, in pixels of the image, xy order.

    `points` (N, 2) float32; `positive` (N,) bool; `box` (4,) float32 x0, y0, x1, y1, or None. Raises ValueError when
    there is neither point nor box, when the shapes disagree, or when a number is not finite.
    """

    points: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    positive: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    box: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if not len(self.points) and self.box is None:
            raise ValueError("a prompt needs at least one point or a box")
        if self.points.shape != (len(self.positive), 2) or (self.box is not None and self.box.shape != (4,)):
            raise ValueError("a prompt is points (N, 2) with positive (N,) and a box (4,) or None")
        if not np.isfinite(self.points).all() or (self.box is not None and not np.isfinite(self.box).all()):
            raise ValueError("a prompt's coordinates must be finite")

    @classmethod
    def of(
        cls,
        points: Iterable[tuple[float, float, bool]] = (),
        box: tuple[float, float, float, float] | None = None,
    ) -> "Prompt":
        """A prompt from (x, y, positive) points and an x0, y0, x1, y1 box, all in px."""
        rows = list(points)
        return cls(
            np.array([row[:2] for row in rows], np.float32).reshape(-1, 2),
            np.array([row[2] for row in rows], bool),
            None if box is None else np.array(box, np.float32),
        )


@dataclass(frozen=True, eq=False)
class Embedding:
    """The output of SAM's image encoder for one image, and the parts of the image that a decoder needs.

    `features` (256, h, w) float16, for the image scaled so that its longer side is 16 w px and padded right and
    below; `size` (H, W) px of the image itself; `thumbnail` (8h, 8w, 3) uint8 RGB, scaled and padded alike. `context`
    (C, h, w) float16 is of an earlier layer, not trained for outlines: it tells kinds of things apart.
    `detail` (D, 2h, 2w) float16 is of a layer before that, at twice the resolution. `picture` (N,) uint8 is a JPEG of
    the image for the second look (`sam.second_look`). Only the tiny SAM gives these three. `quantiles` (101,) float64
    are the percentiles of an image of more than 8 bits that was stretched by its own range. `known` (N,) uint8,
    made by `pack_known`, says where an image with unknown pixels is known.
    """

    features: NDArray[np.float16]
    size: tuple[int, int]
    thumbnail: NDArray[np.uint8]
    context: NDArray[np.float16] | None = None
    detail: NDArray[np.float16] | None = None
    picture: NDArray[np.uint8] | None = None
    quantiles: NDArray[np.float64] | None = None
    known: NDArray[np.uint8] | None = None

    def known_mask(self) -> NDArray[np.bool_] | None:
        """Where the image is known, (H, W) bool; None: everywhere."""
        if self.known is None:
            return None
        return np.unpackbits(self.known, count=self.size[0] * self.size[1]).reshape(self.size).astype(bool)

    @property
    def decoder_features(self) -> NDArray[np.float16]:
        """A decoder's input on the grid: features and context, (256 + C, h, w) float16."""
        return self.features if self.context is None else np.concatenate([self.features, self.context])

    def extent(self, cells: int) -> tuple[int, int]:
        """Rows and columns that the image fills of a `cells` x `cells` grid laid over the padded square."""
        return extent_of(self.size, cells)


def pack_known(known: NDArray[np.bool_] | None) -> NDArray[np.uint8] | None:
    """`Embedding.known` of a mask (H, W) bool: one bit per pixel, row by row; None for None."""
    return None if known is None else np.packbits(known)


def extent_of(size: tuple[int, int], cells: int) -> tuple[int, int]:
    """As `Embedding.extent`, of an image of `size` (H, W)."""
    return max(round(cells * size[0] / max(size)), 1), max(round(cells * size[1] / max(size)), 1)


@dataclass(frozen=True)
class MaskLogits:
    """The logits that a mask comes from: `logits` (h, w) float32, above 0 inside, which cover `window` of the image.

    The window is row, column, height, width in px; beyond it nothing belongs to the mask.
    """

    logits: NDArray[np.float32]
    window: Window


@dataclass(frozen=True)
class Segmentation:
    """SAM's answers to one prompt, those with the highest scores first.

    `masks` (K, H, W) bool; `scores` (K,) float32, the predicted IoU; `logits` (K, 4h, 4w) float32 over the padded
    square, one of which can be passed with the next prompt; `mask_logits` (K), the logits that each
    mask comes from, which with the tiny SAM are others.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    logits: NDArray[np.float32]
    mask_logits: tuple[MaskLogits, ...] = ()

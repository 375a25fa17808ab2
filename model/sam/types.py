"""What goes into a SAM and comes out of it: prompts, embeddings, masks."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FEATURES = 256  # channels of every SAM's embedding
PER_CELL = 8  # px of a thumbnail along a side of an embedding's cell: half of the resolution that SAM sees

Window = tuple[int, int, int, int]  # row, column, height, width in px of the image


@dataclass(frozen=True)
class Prompt:
    """What an annotator gives SAM, in pixels of the image, xy order.

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
    """SAM's image-encoder output of one image, with the little of the image that the domain decoder needs.

    `features` (256, h, w) float16, for the image scaled so that its longer side is 16 w px and padded right and
    below; `size` (H, W) px of the image itself; `thumbnail` (8h, 8w, 3) uint8 RGB, scaled and padded alike. `context`
    (C, h, w) float16 is of an earlier layer, which no SAM has trained to outline anything, whatever it is: it knows a
    pit from a crater's dark floor. `detail` (D, 2h, 2w) float16 is of a layer before that, at twice the resolution.
    `picture` (N,) uint8 is a JPEG of the image for a second look, see `closer`. Only the tiny SAM gives these three.
    `quantiles` (101,) float64, of an image of more than 8 bits that was stretched by its own range, are its numbers'.
    `known` (N,) uint8, of an image that is not there everywhere, tells where it is, as `pack_known` makes it.
    """

    features: NDArray[np.float16]
    size: tuple[int, int]
    thumbnail: NDArray[np.uint8]
    context: NDArray[np.float16] | None = None
    detail: NDArray[np.float16] | None = None
    picture: NDArray[np.uint8] | None = None
    quantiles: NDArray[np.float64] | None = None
    known: NDArray[np.uint8] | None = None

    def where_known(self) -> NDArray[np.bool_] | None:
        """Where the image is there, (H, W) bool; None: everywhere."""
        if self.known is None:
            return None
        return np.unpackbits(self.known, count=self.size[0] * self.size[1]).reshape(self.size).astype(bool)

    @property
    def learned_from(self) -> NDArray[np.float16]:
        """What a domain decoder reads on the grid: features and context, (256 + C, h, w) float16."""
        return self.features if self.context is None else np.concatenate([self.features, self.context])

    def extent(self, cells: int) -> tuple[int, int]:
        """Rows and columns that the image fills of a `cells` x `cells` grid laid over the padded square."""
        return extent_of(self.size, cells)


def pack_known(there: NDArray[np.bool_] | None) -> NDArray[np.uint8] | None:
    """`Embedding.known` of (H, W) bool, a bit for a pixel, row by row; None of None."""
    return None if there is None else np.packbits(there)


def extent_of(size: tuple[int, int], cells: int) -> tuple[int, int]:
    """As `Embedding.extent`, of an image of `size` (H, W)."""
    return max(round(cells * size[0] / max(size)), 1), max(round(cells * size[1] / max(size)), 1)


@dataclass(frozen=True)
class Cut:
    """What a mask is cut from: `logits` (h, w) float32, above 0 inside, which cover `window` of the image.

    The window is row, column, height, width in px; beyond it nothing belongs to the mask.
    """

    logits: NDArray[np.float32]
    window: Window


@dataclass(frozen=True)
class Segmentation:
    """SAM's answers to one prompt, the most trusted first.

    `masks` (K, H, W) bool; `scores` (K,) float32, the predicted IoU; `logits` (K, 4h, 4w) float32 over the padded
    square, of which one can be given back with the next prompt; `cuts` (K), what each mask is cut from, which with the
    tiny SAM are not these logits.
    """

    masks: NDArray[np.bool_]
    scores: NDArray[np.float32]
    logits: NDArray[np.float32]
    cuts: tuple[Cut, ...] = ()

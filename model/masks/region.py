"""Regions: masks within their bounding boxes, with a label and a score, in an image of any size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskRegion:
    """A mask (h, w) bool from row `top`, column `left` of an image on, with its label (0 for the first) and score."""

    label: int
    top: int
    left: int
    mask: Mask
    score: float

    @classmethod
    def of(cls, mask: Mask, label: int, score: float = 1.0) -> "MaskRegion":
        """The region of a mask (H, W) bool, cropped to its bounding box; (0, 0) of an empty one."""
        windows = ndimage.find_objects(mask.view(np.uint8)) if mask.size else []
        rows, columns = windows[0] if windows else (slice(0, 0), slice(0, 0))
        return cls(label, rows.start, columns.start, mask[rows, columns].copy(), score)

    @property
    def height(self) -> int:
        """Rows of its bounding box."""
        return int(self.mask.shape[0])

    @property
    def width(self) -> int:
        """Columns of its bounding box."""
        return int(self.mask.shape[1])

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.mask.sum())

    @property
    def centroid(self) -> tuple[float, float]:
        """x, y px from the image's upper left corner."""
        rows, columns = np.nonzero(self.mask)
        return float(columns.mean()) + self.left + 0.5, float(rows.mean()) + self.top + 0.5

    @property
    def diameter(self) -> float:
        """Diameter of a circle of its area, px."""
        return circle_diameter(self.area)

    def strips(self) -> Iterator[tuple[int, Mask]]:
        """Strips of the mask (h, w) bool from top to bottom, each with the image's row where it begins."""
        yield self.top, self.mask


@dataclass(frozen=True)
class StreamedRegion:
    """A region whose bounding box is too large for an array: its mask is read in strips.

    `read` returns what `strips` yields; all else as of `MaskRegion`.
    """

    label: int
    top: int
    left: int
    height: int
    width: int
    area: int
    centroid: tuple[float, float]
    score: float
    read: Callable[[], Iterator[tuple[int, Mask]]]

    @property
    def diameter(self) -> float:
        """As of `MaskRegion`."""
        return circle_diameter(self.area)

    def strips(self) -> Iterator[tuple[int, Mask]]:
        """As of `MaskRegion`."""
        yield from self.read()

    @property
    def mask(self) -> Mask:
        """The whole mask, (h, w) bool: a byte for each pixel of the bounding box."""
        out = np.zeros((self.height, self.width), bool)
        for top, rows in self.strips():
            out[top - self.top : top - self.top + len(rows)] = rows
        return out


def circle_diameter(area: float) -> float:
    """The diameter, px, of a circle of `area` px."""
    return float(2 * np.sqrt(area / np.pi))

"""Objects that were found in a picture: of any size, each by the rows of its own bounding box."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskRegion:
    """One object: its label, 0 for the first, its mask (h, w) bool and where that lies, and its mean probability."""

    label: int
    top: int
    left: int
    mask: Mask
    score: float

    @classmethod
    def of(cls, mask: Mask, label: int, score: float = 1.0) -> "MaskRegion":
        """The region of a mask (H, W) bool, cut to what it covers; (0, 0) of an empty one."""
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
        """Its pixels."""
        return int(self.mask.sum())

    @property
    def centroid(self) -> tuple[float, float]:
        """x, y px from the picture's upper left corner."""
        rows, columns = np.nonzero(self.mask)
        return float(columns.mean()) + self.left + 0.5, float(rows.mean()) + self.top + 0.5

    @property
    def diameter(self) -> float:
        """That of a circle of its area, px."""
        return circle(self.area)

    def strips(self) -> Iterator[tuple[int, Mask]]:
        """Its mask's rows (h, w) bool from top to bottom, each strip with the picture's row where it begins."""
        yield self.top, self.mask


@dataclass(frozen=True)
class StreamedRegion:
    """An object whose bounding box is too large to be one array: its mask is read again, some rows at a time.

    `read` gives what `strips` does; all else as of `MaskRegion`.
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
        return circle(self.area)

    def strips(self) -> Iterator[tuple[int, Mask]]:
        """As of `MaskRegion`."""
        yield from self.read()

    @property
    def mask(self) -> Mask:
        """All of it, (h, w) bool: a byte for each pixel of its bounding box."""
        out = np.zeros((self.height, self.width), bool)
        for top, rows in self.strips():
            out[top - self.top : top - self.top + len(rows)] = rows
        return out


def circle(area: float) -> float:
    """The diameter, px, of a circle of so many px."""
    return float(2 * np.sqrt(area / np.pi))

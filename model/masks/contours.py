"""A mask's outlines along the edges of its pixels, from OpenCV's, which run through the pixels' centres."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]  # (N, 2) xy px, not closed: the last point is not the first again

# Directions of a step from one pixel to the next, clockwise from the right; and where (dx, dy) is among them.
STEPS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))
DIRECTION = np.array([STEPS.index((dx, dy)) if dx or dy else 0 for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
# A pixel's corners, clockwise from the upper left; an edge has the number of the corner where it begins.
CORNERS = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
# With the background on the left: at which corner of a pixel the outline comes from a step in each direction, at which
# it leaves for one, and how many edges of the pixel lie between; four where it turns back on a diagonal.
COMES = np.array([0, 0, 1, 1, 2, 2, 3, 3])
LEAVES = np.array([1, 2, 2, 3, 3, 0, 0, 1])
EDGES = (LEAVES[None] - COMES[:, None]) % 4
EDGES[[1, 3, 5, 7], [5, 7, 1, 3]] = 4


@dataclass(frozen=True, eq=False)
class Piece:
    """An 8-connected part of a mask: `area` px, its outline's pixels and those around its holes, as OpenCV has them."""

    area: int
    chain: NDArray[Any]
    holes: list[NDArray[Any]]

    def outlines(self, smallest_hole: float = 0) -> list[Ring]:
        """The closed outlines, the outer one first, then those of holes of at least so many px, the other way around.

        They run along the edges of pixels, in px from the image's upper left corner, with a point at each bend.
        """
        kept = [hole for hole in self.holes if _emptied(hole) >= smallest_hole]
        return [_along_edges(chain) for chain in (self.chain, *kept)]


def pieces(mask: NDArray[np.bool_]) -> list[Piece]:
    """The pieces of a (H, W) bool mask, the biggest first."""
    chains: Sequence[NDArray[Any]]
    chains, tree = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    found = {i: (chain, list[NDArray[Any]]()) for i, chain in enumerate(chains) if tree[0, i, 3] < 0}
    for i, chain in enumerate(chains):
        if tree[0, i, 3] >= 0:
            found[tree[0, i, 3]][1].append(chain)
    made = [Piece(_filled(chain) - sum(map(_emptied, holes)), chain, holes) for chain, holes in found.values()]
    return sorted(made, key=lambda piece: -piece.area)


def outlines(piece: NDArray[np.bool_]) -> list[Ring]:
    """The outlines of the biggest piece of a (H, W) bool mask, see `Piece.outlines`."""
    return pieces(piece)[0].outlines()


def _filled(chain: NDArray[Any]) -> int:
    """Pixels on and within a chain, by Pick's theorem; some are passed twice, and their edges count twice then."""
    return 1 if len(chain) == 1 else round(cv2.contourArea(chain) + len(chain) / 2) + 1


def _emptied(chain: NDArray[Any]) -> int:
    """Pixels within a chain."""
    return round(cv2.contourArea(chain) - len(chain) / 2) + 1


def _along_edges(chain: NDArray[Any]) -> Ring:
    """From the centres of an object's pixels (N, 1, 2) along its border to the corners where their edges bend."""
    pixels = chain[::-1, 0]  # OpenCV has the background on the right
    if len(pixels) == 1:
        square: Ring = (pixels + CORNERS).astype(np.float64)
        return square
    step = np.diff(pixels, axis=0, append=pixels[:1])
    leaves = DIRECTION[3 * step[:, 1] + step[:, 0] + 4]
    comes = np.roll(leaves, 1)
    edges = EDGES[comes, leaves]
    pixel = np.repeat(np.arange(len(pixels)), edges)
    edge = (COMES[comes] - np.cumsum(edges) + edges)[pixel] + np.arange(len(pixel)) & 3
    bends = edge != np.roll(edge, 1)
    ring: Ring = (pixels[pixel[bends]] + CORNERS[edge[bends]]).astype(np.float64)
    return ring

"""Outlines of masks along the edges of pixels, made from OpenCV's contours, which run through the pixels' centers."""

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
# With the background on the left: the corner of a pixel where the outline arrives from a step in each direction, the
# corner where it leaves for one, and the number of the pixel's edges between; four where it turns back on a diagonal.
ARRIVES = np.array([0, 0, 1, 1, 2, 2, 3, 3])
LEAVES = np.array([1, 2, 2, 3, 3, 0, 0, 1])
EDGES = (LEAVES[None] - ARRIVES[:, None]) % 4
EDGES[[1, 3, 5, 7], [5, 7, 1, 3]] = 4


@dataclass(frozen=True, eq=False)
class Component:
    """An 8-connected part of a mask: `area` px, and OpenCV's contours of its outline and around its holes."""

    area: int
    chain: NDArray[Any]
    holes: list[NDArray[Any]]

    def outlines(self, smallest_hole: float = 0) -> list[Ring]:
        """The closed outlines, (N, 2) float64 xy px: the outer one, then those of holes of at least `smallest_hole` px.

        They run along the edges of pixels, those of holes in the other direction, with a point at each bend.
        """
        holes = [hole for hole in self.holes if _hole_area(hole) >= smallest_hole]
        return [_along_edges(chain) for chain in (self.chain, *holes)]


def find_components(mask: NDArray[np.bool_]) -> list[Component]:
    """The components of a (H, W) bool mask, the largest first."""
    chains: Sequence[NDArray[Any]]
    chains, tree = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    by_index = {i: (chain, list[NDArray[Any]]()) for i, chain in enumerate(chains) if tree[0, i, 3] < 0}
    for i, chain in enumerate(chains):
        if tree[0, i, 3] >= 0:
            by_index[tree[0, i, 3]][1].append(chain)
    parts = [
        Component(_filled_area(chain) - sum(map(_hole_area, holes)), chain, holes) for chain, holes in by_index.values()
    ]
    return sorted(parts, key=lambda part: -part.area)


def outlines(mask: NDArray[np.bool_]) -> list[Ring]:
    """The outlines of the largest component of a (H, W) bool mask, as of `Component.outlines`."""
    return find_components(mask)[0].outlines()


def _filled_area(chain: NDArray[Any]) -> int:
    """Pixels on and within a chain, by Pick's theorem; edges that the chain passes twice count twice."""
    return 1 if len(chain) == 1 else round(cv2.contourArea(chain) + len(chain) / 2) + 1


def _hole_area(chain: NDArray[Any]) -> int:
    """Pixels within a chain."""
    return round(cv2.contourArea(chain) - len(chain) / 2) + 1


def _along_edges(chain: NDArray[Any]) -> Ring:
    """The bends (M, 2) of the edges of the pixels whose centers (N, 1, 2) OpenCV's contour passes."""
    pixels = chain[::-1, 0]  # OpenCV has the background on the right
    if len(pixels) == 1:
        square: Ring = (pixels + CORNERS).astype(np.float64)
        return square
    step = np.diff(pixels, axis=0, append=pixels[:1])
    leaves = DIRECTION[3 * step[:, 1] + step[:, 0] + 4]
    arrives = np.roll(leaves, 1)
    edges = EDGES[arrives, leaves]
    pixel = np.repeat(np.arange(len(pixels)), edges)
    edge = (ARRIVES[arrives] - np.cumsum(edges) + edges)[pixel] + np.arange(len(pixel)) & 3
    bends = edge != np.roll(edge, 1)
    ring: Ring = (pixels[pixel[bends]] + CORNERS[edge[bends]]).astype(np.float64)
    return ring

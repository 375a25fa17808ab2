"""The single objects of a picture of any size: an object that crosses tiles is one, and memory stays bounded."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from model.instances import separate
from model.planes import Plane
from model.predict import likeliest
from model.rasters import Window
from model.tiles import Strip

SURE = 255  # a certainty of 1
ROWS = 128  # of a strip that are taken in at a time: what is made of them takes 19 bytes a pixel
MARGIN = 5  # px around an object that `separate` looks at: four of its smoothing, one of its tops
LARGEST_SEPARATED = 64_000_000  # px of the window around a connected part; a larger one stays one object


@dataclass(frozen=True)
class Found:
    """One object: its label, 0 for the first, its mask (h, w) bool and where that lies, and its mean probability."""

    label: int
    top: int
    left: int
    mask: NDArray[np.bool_]
    score: float

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
        return float(2 * np.sqrt(self.area / np.pi))


@dataclass
class Parts:
    """The connected parts of one label, gathered strip by strip: numbers from 0 on, some of which are one part."""

    areas: list[NDArray[np.int64]] = field(default_factory=list)
    boxes: list[NDArray[np.int64]] = field(default_factory=list)  # (N, 4) top, left, bottom, right
    seeds: list[NDArray[np.int64]] = field(default_factory=list)  # (N, 2) row, column of a pixel
    joined: list[NDArray[np.int64]] = field(default_factory=list)  # (N, 2) numbers that are one
    count: int = 0
    last: NDArray[np.int64] | None = None  # the numbers along the row above, -1 where there is none

    def add(self, top: int, mask: NDArray[np.bool_]) -> None:
        """The next rows, (h, W) bool from row `top` on."""
        found, numbered, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
        numbers = numbered.astype(np.int64) + (self.count - 1)
        numbers[numbered == 0] = -1
        left, above, width, height, area = stats[1:].astype(np.int64).T
        self.areas.append(area)
        self.boxes.append(np.stack([above + top, left, above + height + top, left + width], 1))
        places = np.flatnonzero(mask)
        first = np.zeros(found, np.int64)
        first[numbered.ravel()[places[::-1]]] = places[::-1]  # the last that is written stays
        self.seeds.append(np.stack([first[1:] // mask.shape[1] + top, first[1:] % mask.shape[1]], 1))
        if self.last is not None:
            self.joined += [_touching(self.last, numbers[0], shift) for shift in (-1, 0, 1)]
        self.last = numbers[-1].copy()
        self.count += found - 1

    def whole(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Areas (N,), boxes (N, 4) and seeds (N, 2) of the whole parts."""
        if not self.count:
            return np.zeros(0, np.int64), np.zeros((0, 4), np.int64), np.zeros((0, 2), np.int64)
        pairs = np.concatenate([*self.joined, np.zeros((0, 2), np.int64)])
        links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(self.count, self.count))
        total, owner = connected_components(links, directed=False)
        areas, boxes = np.zeros(total, np.int64), np.zeros((total, 4), np.int64)
        boxes[:, :2] = np.iinfo(np.int64).max
        each = np.concatenate(self.boxes)
        np.add.at(areas, owner, np.concatenate(self.areas))
        np.minimum.at(boxes[:, :2], owner, each[:, :2])
        np.maximum.at(boxes[:, 2:], owner, each[:, 2:])
        seeds = np.zeros((total, 2), np.int64)
        seeds[owner[::-1]] = np.concatenate(self.seeds)[::-1]
        return areas, boxes, seeds


def _touching(above: NDArray[np.int64], below: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """Pairs of numbers (N, 2) of two rows where one pixel lies below the other, or `shift` px beside that."""
    width = len(above)
    a = above[max(shift, 0) : width + min(shift, 0)]
    b = below[max(-shift, 0) : width + min(-shift, 0)]
    both = (a >= 0) & (b >= 0)
    pairs: NDArray[np.int64] = np.unique(np.stack([a[both], b[both]], 1), axis=0)
    return pairs


class Map:
    """What a decoder found in a picture: the class of every pixel, and the objects."""

    def __init__(
        self, size: tuple[int, int], labels: int, separated: frozenset[int] = frozenset(), folder: Path | None = None
    ) -> None:
        """`separated`: the labels, 0 for the first, whose touching objects are told apart; `folder`: for its files."""
        self.size = size
        self.separated = separated
        self.classes = Plane(size, np.uint8, folder)
        self._certainty = Plane(size, np.uint8, folder)
        self._distance = Plane(size, np.float16, folder) if separated else None
        self._parts = [Parts() for _ in range(labels)]
        self._lacking = 0.0
        self._pixels = 0

    def fill(self, strips: Iterable[Strip]) -> Iterator[int]:
        """Take in what the decoder says, from top to bottom; yields the number of rows done."""
        for strip in strips:
            height = len(strip.known)
            for top in range(0, height, ROWS):
                rows = slice(top, min(top + ROWS, height))
                winner = likeliest(
                    strip.probabilities[:, rows], None if strip.classes is None else strip.classes[:, rows]
                )
                self._take(
                    strip.top + top, winner, strip.probabilities[:, rows], strip.distance[rows], strip.known[rows]
                )
            yield strip.top + height

    def _take(
        self,
        top: int,
        winner: NDArray[np.uint8],
        probabilities: NDArray[np.float16],
        distance: NDArray[np.float16],
        known: NDArray[np.bool_],
    ) -> None:
        """Rows of a strip, from row `top` on."""
        winner[~known] = 0
        best = probabilities.max(0).astype(np.float32)
        self.classes.put(top, winner)
        self._certainty.put(top, np.rint(np.clip(best, 0, 1) * SURE))
        if self._distance is not None:
            self._distance.put(top, distance)
        present = np.bincount(winner.ravel(), minlength=len(self._parts) + 1)
        for k, parts in enumerate(self._parts, 1):
            if present[k]:
                parts.add(top, winner == k)
            else:
                parts.last = None  # nothing of it in these rows that the next could touch
        self._lacking += float((1 - best[known]).sum(dtype=np.float64))
        self._pixels += int(known.sum())

    @property
    def confidence(self) -> float:
        """How sure the decoder is of the picture, as `model.predict.confidence`; 1 where nothing is known."""
        classes = len(self._parts) + 1
        lacking = max(self._lacking / max(self._pixels, 1), 0.0)
        return 1 - float(np.sqrt(lacking * classes / max(classes - 1, 1)))

    def objects(self, min_area: int) -> Iterator[Found]:
        """All objects of `min_area` px or more, label by label, the connected parts by falling size."""
        for label, parts in enumerate(self._parts):
            areas, boxes, seeds = parts.whole()
            for i in np.argsort(-areas, kind="stable"):
                if areas[i] < max(min_area, 1):
                    break
                yield from self._of_part(label, int(areas[i]), boxes[i].tolist(), seeds[i].tolist(), min_area)

    def _of_part(self, label: int, area: int, box: list[int], seed: list[int], min_area: int) -> Iterator[Found]:
        top, left, bottom, right = box
        apart = label in self.separated and (bottom - top) * (right - left) <= LARGEST_SEPARATED
        margin = MARGIN if apart else 0
        window = top - margin, left - margin, bottom - top + 2 * margin, right - left + 2 * margin
        mask = self.classes.read(window) == label + 1
        if np.count_nonzero(mask) != area:
            _, numbered = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
            mask = numbered == numbered[seed[0] - window[0], seed[1] - window[1]]
        certainty = self._certainty.read(window)
        masks = [mask]
        if apart and self._distance is not None:
            masks = separate(mask, self._distance.read(window).astype(np.float32), min_area)
        for each in masks:
            yield _cut(label, window, each, certainty)

    def close(self) -> None:
        """Delete its files."""
        for plane in filter(None, (self.classes, self._certainty, self._distance)):
            plane.close()


def _cut(label: int, window: Window, mask: NDArray[np.bool_], certainty: NDArray[np.uint8]) -> Found:
    """An object in its bounding box."""
    rows, columns = find_objects(mask.view(np.uint8))[0]
    score = float(certainty[mask].mean()) / SURE
    return Found(label, window[0] + rows.start, window[1] + columns.start, mask[rows, columns].copy(), score)

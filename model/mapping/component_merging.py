"""The single objects of a picture of any size: an object that crosses tiles is one, and memory stays bounded.

What is held of every pixel is on disk. Of an object whose bounding box is too large for an array, area, centre and
score are summed up as the strips come, and its mask is read again strip by strip (`masks.region.StreamedRegion`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from skylight.model.decoder.inference import MARGIN, likeliest
from skylight.model.decoder.watershed import separate
from skylight.model.images.disk_array import DiskArray
from skylight.model.images.raster import Window
from skylight.model.mapping.tiled_inference import Strip
from skylight.model.masks.region import MaskRegion, StreamedRegion

UNKNOWN = 255  # in a label map: nothing is known of the pixel
SURE = 255  # a certainty of 1
ROWS = 128  # of a strip that are taken in at a time: what is made of them takes 19 bytes a pixel
# px of the window around a connected part. What is larger stays one object: telling apart takes some 40 bytes a pixel.
LARGEST_SEPARATED = 16_000_000
LARGEST_WHOLE = 4_000_000  # px of an object's bounding box; what is larger is read some rows at a time


@dataclass(frozen=True)
class Whole:
    """The N connected parts of a label, joined across strips."""

    areas: NDArray[np.int64]  # (N,) px
    boxes: NDArray[np.int64]  # (N, 4) top, left, bottom, right
    seeds: NDArray[np.int64]  # (N, 2) row, column of a pixel
    centroids: NDArray[np.float64]  # (N, 2) x, y px
    scores: NDArray[np.float64]  # (N,) mean certainty, in [0, 1]
    owner: NDArray[np.int64]  # of each number that a strip gave, which part it is of


@dataclass
class Parts:
    """The connected parts of one label, gathered strip by strip: numbers from 0 on, some of which are one part."""

    areas: list[NDArray[np.int64]] = field(default_factory=list)
    boxes: list[NDArray[np.int64]] = field(default_factory=list)  # (N, 4) top, left, bottom, right
    seeds: list[NDArray[np.int64]] = field(default_factory=list)  # (N, 2) row, column of a pixel
    sums: list[NDArray[np.float64]] = field(default_factory=list)  # (N, 3) of x, y, certainty over the pixels
    joined: list[NDArray[np.int64]] = field(default_factory=list)  # (N, 2) numbers that are one
    strips: list[tuple[int, int, int]] = field(default_factory=list)  # row, rows, and the first number in them
    count: int = 0
    last: NDArray[np.int64] | None = None  # the numbers along the row above, -1 where there is none

    def add(self, top: int, mask: NDArray[np.bool_], certainty: NDArray[np.uint8]) -> None:
        """The next rows, (h, W) bool from row `top` on, and how sure they are, (h, W) uint8."""
        if not mask.any():
            return self.skip(top, len(mask))
        self.strips.append((top, len(mask), self.count))
        found, numbered, stats, centres = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
        left, above, width, height, area = stats[1:].astype(np.int64).T
        self.areas.append(area)
        self.boxes.append(np.stack([above + top, left, above + height + top, left + width], 1))
        places = np.flatnonzero(mask)
        own = numbered.ravel()[places]
        first = np.zeros(found, np.int64)
        first[own[::-1]] = places[::-1]  # the last that is written stays
        self.seeds.append(np.stack([first[1:] // mask.shape[1] + top, first[1:] % mask.shape[1]], 1))
        sure = np.bincount(own, certainty.ravel()[places], found)[1:]
        middle = centres[1:] + (0.5, top + 0.5)
        self.sums.append(np.column_stack([middle * area[:, None], sure]))
        rows = [np.where(row > 0, row.astype(np.int64) + (self.count - 1), -1) for row in (numbered[0], numbered[-1])]
        if self.last is not None:
            self.joined += [_touching(self.last, rows[0], shift) for shift in (-1, 0, 1)]
        self.last = rows[1]
        self.count += found - 1

    def skip(self, top: int, height: int) -> None:
        """The next rows, `height` of them from row `top` on, hold nothing of it."""
        self.strips.append((top, height, self.count))
        self.last = None

    def whole(self) -> Whole:
        """The whole parts."""
        if not self.count:
            none = np.zeros(0, np.int64)
            return Whole(none, none.reshape(0, 4), none.reshape(0, 2), np.zeros((0, 2)), np.zeros(0), none)
        pairs = np.concatenate([*self.joined, np.zeros((0, 2), np.int64)])
        links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(self.count, self.count))
        total, owner = connected_components(links, directed=False)
        areas, boxes, sums = np.zeros(total, np.int64), np.zeros((total, 4), np.int64), np.zeros((total, 3))
        boxes[:, :2] = np.iinfo(np.int64).max
        each = np.concatenate(self.boxes)
        np.add.at(areas, owner, np.concatenate(self.areas))
        np.add.at(sums, owner, np.concatenate(self.sums))
        np.minimum.at(boxes[:, :2], owner, each[:, :2])
        np.maximum.at(boxes[:, 2:], owner, each[:, 2:])
        seeds = np.zeros((total, 2), np.int64)
        seeds[owner[::-1]] = np.concatenate(self.seeds)[::-1]
        means = sums / areas[:, None]
        return Whole(areas, boxes, seeds, means[:, :2], means[:, 2] / SURE, owner.astype(np.int64))


def _touching(above: NDArray[np.int64], below: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """Pairs of numbers (N, 2) of two rows where one pixel lies below the other, or `shift` px beside that."""
    width = len(above)
    a = above[max(shift, 0) : width + min(shift, 0)]
    b = below[max(-shift, 0) : width + min(-shift, 0)]
    both = (a >= 0) & (b >= 0)
    pairs: NDArray[np.int64] = np.unique(np.stack([a[both], b[both]], 1), axis=0)
    return pairs


class Map:
    """What a decoder found in a picture: the class of every pixel, `UNKNOWN` where it has none, and the objects."""

    def __init__(
        self, size: tuple[int, int], labels: int, separated: frozenset[int] = frozenset(), folder: Path | None = None
    ) -> None:
        """`separated`: the labels, 0 for the first, whose touching objects are told apart; `folder`: for its files."""
        self.size = size
        self.separated = separated
        self.classes = DiskArray(size, np.uint8, folder)
        self._certainty = DiskArray(size, np.uint8, folder)
        self._distance = DiskArray(size, np.float16, folder) if separated else None
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
        winner[~known] = UNKNOWN
        best = probabilities.max(0).astype(np.float32)
        certainty = np.rint(np.clip(best, 0, 1) * SURE).astype(np.uint8)
        self.classes.put(top, winner)
        self._certainty.put(top, certainty)
        if self._distance is not None:
            self._distance.put(top, distance)
        present = np.bincount(winner.ravel(), minlength=len(self._parts) + 1)
        for k, parts in enumerate(self._parts, 1):
            if present[k]:
                parts.add(top, winner == k, certainty)
            else:
                parts.skip(top, len(winner))
        self._lacking += float((1 - best[known]).sum(dtype=np.float64))
        self._pixels += int(known.sum())

    @property
    def confidence(self) -> float:
        """How sure the decoder is of the picture, as `skylight.model.decoder.inference.confidence`; 1 where nothing
        is known."""
        classes = len(self._parts) + 1
        lacking = max(self._lacking / max(self._pixels, 1), 0.0)
        return 1 - float(np.sqrt(lacking * classes / max(classes - 1, 1)))

    @property
    def known(self) -> float:
        """The share of the picture's pixels of which something is known."""
        return self._pixels / max(self.size[0] * self.size[1], 1)

    def objects(self, min_area: int, surest_first: bool = False) -> Iterator[MaskRegion | StreamedRegion]:
        """All objects of `min_area` px or more, label by label, the connected parts by falling size.

        With `surest_first` the connected parts of all labels by falling score.
        """
        of_labels = [parts.whole() for parts in self._parts]
        labels = np.repeat(np.arange(len(of_labels)), [len(whole.areas) for whole in of_labels])
        numbers = np.concatenate([np.arange(len(whole.areas)) for whole in of_labels])
        areas = np.concatenate([whole.areas for whole in of_labels])
        scores = np.concatenate([whole.scores for whole in of_labels])
        order = np.lexsort((-areas, -scores) if surest_first else (-areas, labels))
        for i in order[areas[order] >= max(min_area, 1)].tolist():
            yield from self._of_part(int(labels[i]), of_labels[labels[i]], int(numbers[i]), min_area)

    def _of_part(self, label: int, whole: Whole, number: int, min_area: int) -> Iterator[MaskRegion | StreamedRegion]:
        top, left, bottom, right = whole.boxes[number].tolist()
        pixels = (bottom - top) * (right - left)
        apart = label in self.separated and pixels <= LARGEST_SEPARATED
        if pixels > LARGEST_WHOLE and not apart:
            yield self._wide(label, whole, number)
            return
        margin = MARGIN if apart else 0
        window = top - margin, left - margin, bottom - top + 2 * margin, right - left + 2 * margin
        mask = self.classes.read(window) == label + 1
        if np.count_nonzero(mask) != whole.areas[number]:
            _, numbered = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
            row, column = whole.seeds[number].tolist()
            mask = numbered == numbered[row - window[0], column - window[1]]
        certainty = self._certainty.read(window)
        if not apart or self._distance is None:
            yield _cut(label, window, mask, (slice(None), slice(None)), certainty)
            return
        numbered = separate(mask, self._distance.read(window).astype(np.float32), min_area)
        for k, part in enumerate(find_objects(numbered), 1):
            yield _cut(label, window, numbered[part] == k, part, certainty[part])

    def _wide(self, label: int, whole: Whole, number: int) -> StreamedRegion:
        """A connected part that is too large for an array."""
        top, left, bottom, right = whole.boxes[number].tolist()

        def read() -> Iterator[tuple[int, NDArray[np.bool_]]]:
            for row, height, first in self._parts[label].strips:
                if row + height <= top or row >= bottom:
                    continue
                mask = self.classes.read((row, 0, height, self.size[1])) == label + 1
                count, numbered = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)  # as it was numbered
                mine = np.concatenate([[False], whole.owner[first : first + count - 1] == number])
                begin, end = max(top - row, 0), min(bottom - row, height)
                yield row + begin, mine[numbered[begin:end, left:right]]

        x, y = whole.centroids[number].tolist()
        area, score = int(whole.areas[number]), float(whole.scores[number])
        return StreamedRegion(label, top, left, bottom - top, right - left, area, (x, y), score, read)

    def close(self) -> None:
        """Delete its files."""
        for plane in filter(None, (self.classes, self._certainty, self._distance)):
            plane.close()


def _cut(
    label: int, window: Window, mask: NDArray[np.bool_], part: tuple[slice, slice], certainty: NDArray[np.uint8]
) -> MaskRegion:
    """An object in its bounding box, a `part` of the window."""
    score = float(certainty[mask].mean()) / SURE
    return MaskRegion(label, window[0] + (part[0].start or 0), window[1] + (part[1].start or 0), mask, score)

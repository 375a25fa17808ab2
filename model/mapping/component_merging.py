"""The objects of an image of any size, merged across strips, in bounded memory.

Arrays of the image's size are on disk. Of an object whose bounding box is too large for an array, area, centre and
score are summed up strip by strip, and its mask is read again strip by strip (`masks.region.StreamedRegion`).
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

UNKNOWN = 255  # in a label map: the pixel has no data
CERTAIN = 255  # a probability of 1
ROWS = 128  # of a strip that are processed at a time: they take 19 bytes a pixel
# px of the bounding box of a component. Larger ones are not separated: that takes some 40 bytes a pixel.
LARGEST_SEPARATED = 16_000_000
LARGEST_ARRAY = 4_000_000  # px of an object's bounding box; larger ones are read some rows at a time


@dataclass(frozen=True)
class Components:
    """The N connected components of a label, merged across strips."""

    areas: NDArray[np.int64]  # (N,) px
    boxes: NDArray[np.int64]  # (N, 4) top, left, bottom, right
    seeds: NDArray[np.int64]  # (N, 2) row, column of a pixel
    centroids: NDArray[np.float64]  # (N, 2) x, y px
    scores: NDArray[np.float64]  # (N,) mean certainty, in [0, 1]
    owner: NDArray[np.int64]  # of each number that a strip gave, the index of its component


@dataclass
class StripComponents:
    """The connected components of a label, collected strip by strip; numbered from 0, several may be one component."""

    areas: list[NDArray[np.int64]] = field(default_factory=list)
    boxes: list[NDArray[np.int64]] = field(default_factory=list)  # (N, 4) top, left, bottom, right
    seeds: list[NDArray[np.int64]] = field(default_factory=list)  # (N, 2) row, column of a pixel
    sums: list[NDArray[np.float64]] = field(default_factory=list)  # (N, 3) of x, y, certainty over the pixels
    links: list[NDArray[np.int64]] = field(default_factory=list)  # (N, 2) numbers of the same component
    strips: list[tuple[int, int, int]] = field(default_factory=list)  # row, rows, and the first number in them
    count: int = 0
    last: NDArray[np.int64] | None = None  # the numbers along the row above, -1 in other classes

    def add(self, top: int, mask: NDArray[np.bool_], certainty: NDArray[np.uint8]) -> None:
        """Add the next rows, (h, W) bool from row `top` on, and their probabilities, (h, W) uint8 of `CERTAIN`."""
        if not mask.any():
            return self.skip(top, len(mask))
        self.strips.append((top, len(mask), self.count))
        count, numbered, stats, centres = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
        left, above, width, height, area = stats[1:].astype(np.int64).T
        self.areas.append(area)
        self.boxes.append(np.stack([above + top, left, above + height + top, left + width], 1))
        places = np.flatnonzero(mask)
        own = numbered.ravel()[places]
        first = np.zeros(count, np.int64)
        first[own[::-1]] = places[::-1]  # the last one written stays
        self.seeds.append(np.stack([first[1:] // mask.shape[1] + top, first[1:] % mask.shape[1]], 1))
        sure = np.bincount(own, certainty.ravel()[places], count)[1:]
        middle = centres[1:] + (0.5, top + 0.5)
        self.sums.append(np.column_stack([middle * area[:, None], sure]))
        rows = [np.where(row > 0, row.astype(np.int64) + (self.count - 1), -1) for row in (numbered[0], numbered[-1])]
        if self.last is not None:
            self.links += [_adjacent(self.last, rows[0], shift) for shift in (-1, 0, 1)]
        self.last = rows[1]
        self.count += count - 1

    def skip(self, top: int, height: int) -> None:
        """Add `height` rows from row `top` on that hold nothing of the label."""
        self.strips.append((top, height, self.count))
        self.last = None

    def merged(self) -> Components:
        """The components, merged across strips."""
        if not self.count:
            none = np.zeros(0, np.int64)
            return Components(none, none.reshape(0, 4), none.reshape(0, 2), np.zeros((0, 2)), np.zeros(0), none)
        pairs = np.concatenate([*self.links, np.zeros((0, 2), np.int64)])
        graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(self.count, self.count))
        total, owner = connected_components(graph, directed=False)
        areas, boxes, sums = np.zeros(total, np.int64), np.zeros((total, 4), np.int64), np.zeros((total, 3))
        boxes[:, :2] = np.iinfo(np.int64).max
        strip_boxes = np.concatenate(self.boxes)
        np.add.at(areas, owner, np.concatenate(self.areas))
        np.add.at(sums, owner, np.concatenate(self.sums))
        np.minimum.at(boxes[:, :2], owner, strip_boxes[:, :2])
        np.maximum.at(boxes[:, 2:], owner, strip_boxes[:, 2:])
        seeds = np.zeros((total, 2), np.int64)
        seeds[owner[::-1]] = np.concatenate(self.seeds)[::-1]
        means = sums / areas[:, None]
        return Components(areas, boxes, seeds, means[:, :2], means[:, 2] / CERTAIN, owner.astype(np.int64))


def _adjacent(above: NDArray[np.int64], below: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """Pairs (N, 2) of numbers of two rows, of pixels one below the other, or `shift` px beside that."""
    width = len(above)
    a = above[max(shift, 0) : width + min(shift, 0)]
    b = below[max(-shift, 0) : width + min(-shift, 0)]
    both = (a >= 0) & (b >= 0)
    pairs: NDArray[np.int64] = np.unique(np.stack([a[both], b[both]], 1), axis=0)
    return pairs


class LabelMap:
    """A decoder's label map of an image, with the class of each pixel, or `UNKNOWN`, and its objects."""

    def __init__(
        self, size: tuple[int, int], labels: int, separated: frozenset[int] = frozenset(), folder: Path | None = None
    ) -> None:
        """`separated`: the labels, 0 for the first, whose touching objects are separated; `folder`: for its files."""
        self.size = size
        self.separated = separated
        self.classes = DiskArray(size, np.uint8, folder)
        self._certainty = DiskArray(size, np.uint8, folder)
        self._distance = DiskArray(size, np.float16, folder) if separated else None
        self._components = [StripComponents() for _ in range(labels)]
        self._lacking = 0.0
        self._pixels = 0

    def fill(self, strips: Iterable[Strip]) -> Iterator[int]:
        """Add the decoder's prediction, from top to bottom; yields the number of rows done."""
        for strip in strips:
            height = len(strip.known)
            for top in range(0, height, ROWS):
                rows = slice(top, min(top + ROWS, height))
                winner = likeliest(
                    strip.probabilities[:, rows], None if strip.classes is None else strip.classes[:, rows]
                )
                self._add(
                    strip.top + top, winner, strip.probabilities[:, rows], strip.distance[rows], strip.known[rows]
                )
            yield strip.top + height

    def _add(
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
        certainty = np.rint(np.clip(best, 0, 1) * CERTAIN).astype(np.uint8)
        self.classes.put(top, winner)
        self._certainty.put(top, certainty)
        if self._distance is not None:
            self._distance.put(top, distance)
        present = np.bincount(winner.ravel(), minlength=len(self._components) + 1)
        for k, components in enumerate(self._components, 1):
            if present[k]:
                components.add(top, winner == k, certainty)
            else:
                components.skip(top, len(winner))
        self._lacking += float((1 - best[known]).sum(dtype=np.float64))
        self._pixels += int(known.sum())

    @property
    def confidence(self) -> float:
        """The decoder's confidence in the image, as `skylight.model.decoder.inference.confidence`; 1 without
        data."""
        classes = len(self._components) + 1
        lacking = max(self._lacking / max(self._pixels, 1), 0.0)
        return 1 - float(np.sqrt(lacking * classes / max(classes - 1, 1)))

    @property
    def known(self) -> float:
        """The share of the image's pixels that have data."""
        return self._pixels / max(self.size[0] * self.size[1], 1)

    def objects(self, min_area: int, surest_first: bool = False) -> Iterator[MaskRegion | StreamedRegion]:
        """All objects of `min_area` px or more, label by label, the components by falling size.

        With `surest_first` the components of all labels by falling score.
        """
        of_labels = [components.merged() for components in self._components]
        labels = np.repeat(np.arange(len(of_labels)), [len(components.areas) for components in of_labels])
        numbers = np.concatenate([np.arange(len(components.areas)) for components in of_labels])
        areas = np.concatenate([components.areas for components in of_labels])
        scores = np.concatenate([components.scores for components in of_labels])
        order = np.lexsort((-areas, -scores) if surest_first else (-areas, labels))
        for i in order[areas[order] >= max(min_area, 1)].tolist():
            yield from self._of_component(int(labels[i]), of_labels[labels[i]], int(numbers[i]), min_area)

    def _of_component(
        self, label: int, components: Components, number: int, min_area: int
    ) -> Iterator[MaskRegion | StreamedRegion]:
        top, left, bottom, right = components.boxes[number].tolist()
        pixels = (bottom - top) * (right - left)
        apart = label in self.separated and pixels <= LARGEST_SEPARATED
        if pixels > LARGEST_ARRAY and not apart:
            yield self._streamed(label, components, number)
            return
        margin = MARGIN if apart else 0
        window = top - margin, left - margin, bottom - top + 2 * margin, right - left + 2 * margin
        mask = self.classes.read(window) == label + 1
        if np.count_nonzero(mask) != components.areas[number]:
            _, numbered = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
            row, column = components.seeds[number].tolist()
            mask = numbered == numbered[row - window[0], column - window[1]]
        certainty = self._certainty.read(window)
        if not apart or self._distance is None:
            yield _cut(label, window, mask, (slice(None), slice(None)), certainty)
            return
        numbered = separate(mask, self._distance.read(window).astype(np.float32), min_area)
        for k, part in enumerate(find_objects(numbered), 1):
            yield _cut(label, window, numbered[part] == k, part, certainty[part])

    def _streamed(self, label: int, components: Components, number: int) -> StreamedRegion:
        """A component that is too large for an array."""
        top, left, bottom, right = components.boxes[number].tolist()

        def read() -> Iterator[tuple[int, NDArray[np.bool_]]]:
            for row, height, first in self._components[label].strips:
                if row + height <= top or row >= bottom:
                    continue
                mask = self.classes.read((row, 0, height, self.size[1])) == label + 1
                count, numbered = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)  # as it was numbered
                mine = np.concatenate([[False], components.owner[first : first + count - 1] == number])
                begin, end = max(top - row, 0), min(bottom - row, height)
                yield row + begin, mine[numbered[begin:end, left:right]]

        x, y = components.centroids[number].tolist()
        area, score = int(components.areas[number]), float(components.scores[number])
        return StreamedRegion(label, top, left, bottom - top, right - left, area, (x, y), score, read)

    def close(self) -> None:
        """Delete its files."""
        for plane in filter(None, (self.classes, self._certainty, self._distance)):
            plane.close()


def _cut(
    label: int, window: Window, mask: NDArray[np.bool_], part: tuple[slice, slice], certainty: NDArray[np.uint8]
) -> MaskRegion:
    """An object in its bounding box, a `part` of the window."""
    score = float(certainty[mask].mean()) / CERTAIN
    return MaskRegion(label, window[0] + (part[0].start or 0), window[1] + (part[1].start or 0), mask, score)

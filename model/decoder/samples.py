"""Training samples of a domain decoder, and the targets that its grid of cells gets from their label maps."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from skylight.model.masks.distance_transform import distance_targets
from skylight.model.masks.instance_map import count_touching
from skylight.model.masks.label_map import IGNORE
from skylight.model.sam.types import Embedding

# Classes per cell whose shares are stored: a third one is rare, as a cell of an image of 512 px has 2 x 2 px.
SHARES = 2
UNKNOWN = -1.0  # distance where it is not known which object a pixel belongs to
# A label's touching objects are separated if at least this share of its pixels lies in single objects, and this share
# of the objects comes within a cell of the prediction of another one: docs/decisions/decoder-constants.md
SINGLE_OBJECTS, TOUCHING = 0.8, 0.15


@dataclass(frozen=True)
class Sample:
    """An image to train on: its embedding, and a label map (H, W) uint8 of the image's size.

    `task` is the annotated task's key. `instances` (H, W) uint16 holds k where the k-th single object lies, 0
    elsewhere; None if no single objects are known. `image` is the sha256 of the image file, "" if that is not known.
    """

    task: str
    embedding: Embedding
    label_map: NDArray[np.uint8]
    instances: NDArray[np.uint16] | None = None
    image: str = ""

    @property
    def group(self) -> str:
        """What must not be on both sides of a split: the image, in however many tasks it is."""
        return self.image or self.task


def context_tensor(embedding: Embedding) -> Tensor:
    """An embedding's context, (C, h, w); C is 0 if it has none."""
    if embedding.context is None:
        return torch.zeros(0, *embedding.features.shape[1:], dtype=torch.float16)
    return torch.from_numpy(embedding.context)


def detail_tensor(embedding: Embedding) -> Tensor:
    """An embedding's detail, (D, 2h, 2w); D is 0 if it has none."""
    if embedding.detail is None:
        return torch.zeros(0, *(2 * cells for cells in embedding.features.shape[1:]), dtype=torch.float16)
    return torch.from_numpy(embedding.detail)


def cell_shares(sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A label map at the decoder's resolution: each cell's two largest classes, and their shares of it, 255 for all.

    Both (2, 8h, 8w) uint8, the larger first. The shares are zero where the label map says ignore for half the cell or
    more, and outside the image. Only the bounding box of each class is read, so that many labels take no longer.
    """
    side = len(sample.embedding.thumbnail)
    extent = sample.embedding.extent(side)
    classes = np.zeros((SHARES, side, side), np.uint8)
    shares = np.zeros((SHARES, side, side), np.float32)
    total = np.zeros((side, side), np.float32)
    for k, window in enumerate(ndimage.find_objects(sample.label_map.astype(np.int16) + 1)):
        if window is None or k == IGNORE:
            continue
        cells, share = _class_share(sample.label_map, k, window, extent)
        total[cells] += share
        largest, largest_class = shares[:, cells[0], cells[1]], classes[:, cells[0], cells[1]]
        first = share > largest[0]
        second = ~first & (share > largest[1])
        largest[1] = np.where(first, largest[0], largest[1])
        largest_class[1] = np.where(first, largest_class[0], largest_class[1])
        largest[0][first], largest_class[0][first] = share[first], k
        largest[1][second], largest_class[1][second] = share[second], k
    shares[:, total <= 0.5] = 0
    return classes, np.rint(255 * shares).astype(np.uint8)


def _class_share(
    label_map: NDArray[np.uint8], k: int, window: tuple[slice, slice], extent: tuple[int, int]
) -> tuple[tuple[slice, slice], NDArray[np.float32]]:
    """The cells of an `extent` (rows, columns) that the window of class k lies in, and its share of each of them."""
    cells, pixels, box = [], [], []
    for span, count, length in zip(window, extent, label_map.shape, strict=True):
        size = length / count  # of a cell, px
        begin, end = int(span.start / size), min(math.ceil(span.stop / size), count)
        low, high = math.floor(begin * size), min(math.ceil(end * size), length)
        cells.append(slice(begin, end))
        pixels.append(slice(low, high))
        box.append((begin * size - low, min(end * size - low, high - low)))
    part = Image.fromarray((label_map[pixels[0], pixels[1]] == k).astype(np.float32))
    (top, bottom), (left, right) = box
    shape = cells[1].stop - cells[1].start, cells[0].stop - cells[0].start
    share = part.resize(shape, Image.Resampling.BOX, box=(left, top, right, bottom))
    return (cells[0], cells[1]), np.asarray(share)


def dense_targets(classes: Tensor, shares: Tensor, selected: Tensor, labels: int) -> Tensor:
    """Targets (B, K, h, w) float32 in [0, 1] of the `selected` classes (K,) int64.

    `classes` and `shares` (B, 2, h, w) uint8 as of `cell_shares`; what other classes have is left out. `labels` is the
    highest class.
    """
    position = torch.full((labels + 1,), len(selected))  # beyond the last: left out
    position[selected] = torch.arange(len(selected))
    batch, _, height, width = classes.shape
    targets = torch.zeros(batch, len(selected) + 1, height, width)
    targets.scatter_add_(1, position[classes.long()], shares.float() / 255)
    return targets[:, :-1]


def boundary_distances(sample: Sample) -> NDArray[np.float32]:
    """How deep each cell lies in its object, (8h, 8w) in [0, 1], 0 on the boundary; `UNKNOWN` outside of objects."""
    side = len(sample.embedding.thumbnail)
    distance = np.full((side, side), UNKNOWN, np.float32)
    if sample.instances is not None:
        rows, columns = sample.embedding.extent(side)
        small = Image.fromarray((sample.instances > 0).astype(np.float32)).resize((columns, rows), Image.Resampling.BOX)
        depth = distance_targets(sample.instances, rows, columns)
        distance[:rows, :columns] = np.where(np.asarray(small) > 0.5, depth, UNKNOWN)
    return distance


def separable_labels(
    samples: Sequence[Sample], labels: Sequence[str], check: Callable[[], None] = lambda: None
) -> tuple[str, ...]:
    """The labels whose pixels lie almost all in single objects, enough of which touch.

    `check` is called before each sample and may raise.
    """
    pixels, single = np.zeros(256, np.int64), np.zeros(256, np.int64)
    objects, crowded = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for sample in samples:
        check()
        pixels += np.bincount(sample.label_map.ravel(), minlength=256)
        if sample.instances is None:
            continue
        single += np.bincount(sample.label_map[sample.instances > 0], minlength=256)
        cell = max(round(max(sample.label_map.shape) / len(sample.embedding.thumbnail)), 1)
        step = max(cell // 2, 1)  # an image of 4096 px has cells of 16
        numbers = sample.instances[::step, ::step]
        classes = np.where(numbers > 0, sample.label_map[::step, ::step], 0)
        for k, window in enumerate(ndimage.find_objects(classes)[: len(labels)], 1):
            if window is not None:
                own = np.where(classes[window] == k, numbers[window], 0)
                count, close = count_touching(own, cell // step)
                objects[k], crowded[k] = objects[k] + count, crowded[k] + close
    mostly_single = pixels * SINGLE_OBJECTS <= single
    rarely_touching = objects * TOUCHING > crowded
    return tuple(
        label for k, label in enumerate(labels, 1) if pixels[k] and mostly_single[k] and not rarely_touching[k]
    )

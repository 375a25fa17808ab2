"""What a domain decoder is trained on: samples, and augmented crops of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from skylight.model.masks.instance_map import distance_targets
from skylight.model.masks.label_map import IGNORE
from skylight.model.sam.segmenter import PER_CELL, Embedding

# Share of crops whose context is all zero. With 5 images context is worth 0.23 mean IoU on procedural pits and 0.06 on
# cats, but alone it is learned by heart: nuclei lost 0.03 and lesions 0.08, of which this leaves 0.02 and 0.01.
WITHOUT_CONTEXT = 0.5
# Share of crops whose detail is all zero. With 5 prompt-annotated images, 4 seeds, 12 test images: IoU on lesions,
# THEMIS, nuclei and procedural pits without any detail 0.660, 0.402, 0.707, 0.897; with it 0.708, 0.382, 0.779, 0.900;
# never dropped 0.714, 0.385, 0.764, 0.892; dropped with the context 0.686, 0.402, 0.770, 0.906. Of a layer at four
# times the grid beside it nothing came but 0.8 MB an image.
WITHOUT_DETAIL = 0.25
# Classes of a cell whose shares are kept: a third one is rare, as a cell of a picture of 512 px has 2 x 2 px.
SHARES = 2
# Classes that one step of a training tells apart, the background among them. With more, those that a batch holds, and
# some of the others, which stand for all of them: so a step takes as long with 150 labels as with 31.
MOST_CLASSES = 32
UNKNOWN = -1.0  # distance where it is not known which object a pixel belongs to


@dataclass(frozen=True)
class Sample:
    """What training reads: an embedding, a label map (H, W) uint8 of the image's size, and whose task it is.

    `instances` (H, W) uint16 holds k where the k-th single object lies, 0 elsewhere; None if none are known. `image`
    is the sha256 of the picture's file, "" where it is not known.
    """

    task: str
    embedding: Embedding
    label_map: NDArray[np.uint8]
    instances: NDArray[np.uint16] | None = None
    image: str = ""

    @property
    def group(self) -> str:
        """What must not be on both sides of a split: the picture, in however many tasks it is."""
        return self.image or self.task


@dataclass(frozen=True)
class Batch:
    """Crops: features (B, 256 + C, c, c), picture (B, 3, 8c, 8c) in [-1, 1], and what is true of them.

    `targets` (B, K, 8c, 8c): each cell's share of every class of `classes`, all zero where ignored. `distance`
    (B, 1, 8c, 8c) in [0, 1], 0 on an object's rim, 1 at its deepest; `UNKNOWN` outside of objects. `detail`
    (B, D, 2c, 2c), of which D may be 0. `classes` (K,) int64, rising, the background first; `offsets` (K,) is added
    to their logits, for those that stand for others too; both None if they are all classes.
    """

    features: Tensor
    picture: Tensor
    targets: Tensor
    distance: Tensor
    detail: Tensor
    classes: Tensor | None = None
    offsets: Tensor | None = None


def context_of(embedding: Embedding) -> Tensor:
    """An embedding's context, (C, h, w); C is 0 if it has none."""
    if embedding.context is None:
        return torch.zeros(0, *embedding.features.shape[1:], dtype=torch.float16)
    return torch.from_numpy(embedding.context)


def detail_of(embedding: Embedding) -> Tensor:
    """An embedding's detail, (D, 2h, 2w); D is 0 if it has none."""
    if embedding.detail is None:
        return torch.zeros(0, *(2 * cells for cells in embedding.features.shape[1:]), dtype=torch.float16)
    return torch.from_numpy(embedding.detail)


def cell_shares(sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A label map at the decoder's resolution: each cell's two largest classes, and their shares of it, 255 for all.

    Both (2, 8h, 8w) uint8, the larger first. The shares are zero where the label map says ignore for half the cell or
    more, and outside the image. Only the window of each class is looked at, so that many labels take no longer.
    """
    side = len(sample.embedding.thumbnail)
    extent = sample.embedding.extent(side)
    classes = np.zeros((SHARES, side, side), np.uint8)
    shares = np.zeros((SHARES, side, side), np.float32)
    total = np.zeros((side, side), np.float32)
    for k, window in enumerate(ndimage.find_objects(sample.label_map.astype(np.int16) + 1)):
        if window is None or k == IGNORE:
            continue
        cells, share = _share(sample.label_map, k, window, extent)
        total[cells] += share
        kept, known = shares[:, cells[0], cells[1]], classes[:, cells[0], cells[1]]
        first = share > kept[0]
        second = ~first & (share > kept[1])
        kept[1], known[1] = np.where(first, kept[0], kept[1]), np.where(first, known[0], known[1])
        kept[0][first], known[0][first] = share[first], k
        kept[1][second], known[1][second] = share[second], k
    shares[:, total <= 0.5] = 0
    return classes, np.rint(255 * shares).astype(np.uint8)


def _share(
    label_map: NDArray[np.uint8], k: int, window: tuple[slice, slice], extent: tuple[int, int]
) -> tuple[tuple[slice, slice], NDArray[np.float32]]:
    """The cells of an `extent` (rows, columns) that a class's window lies in, and its share of each of them."""
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


def dense_targets(classes: Tensor, shares: Tensor, wanted: Tensor, labels: int) -> Tensor:
    """Shares (B, 2, h, w) uint8 of `classes` (B, 2, h, w) uint8 as (B, K, h, w) float32 of the `wanted` (K,) int64.

    What other classes have is left out; `labels` is the highest class.
    """
    place = torch.full((labels + 1,), len(wanted))  # beyond the last: left out
    place[wanted] = torch.arange(len(wanted))
    batch, _, height, width = classes.shape
    targets = torch.zeros(batch, len(wanted) + 1, height, width)
    targets.scatter_add_(1, place[classes.long()], shares.float() / 255)
    return targets[:, :-1]


def rim_distances(sample: Sample) -> NDArray[np.float32]:
    """How deep each cell lies in its object, (8h, 8w) in [0, 1]; `UNKNOWN` where it lies in none."""
    side = len(sample.embedding.thumbnail)
    distance = np.full((side, side), UNKNOWN, np.float32)
    if sample.instances is not None:
        rows, columns = sample.embedding.extent(side)
        small = Image.fromarray((sample.instances > 0).astype(np.float32)).resize((columns, rows), Image.Resampling.BOX)
        found = distance_targets(sample.instances, rows, columns)
        distance[:rows, :columns] = np.where(np.asarray(small) > 0.5, found, UNKNOWN)
    return distance


class Objects:
    """The objects of a sample, and which cells of the embedding's grid each of them lies in.

    A single object is one of `instances`; where none is known, an 8-connected part of a label is.
    """

    def __init__(self, sample: Sample) -> None:
        self._rows, self._columns = sample.embedding.extent(sample.embedding.features.shape[-1])
        cells = self._rows * self._columns
        known = (sample.label_map != 0) & (sample.label_map != IGNORE)
        rows, columns = (
            np.arange(length) * count // length
            for length, count in zip(sample.label_map.shape, (self._rows, self._columns), strict=True)
        )
        places = (_numbered(sample, known) * cells + rows[:, None] * self._columns + columns)[known]
        runs = places[np.append(True, places[1:] != places[:-1])] if len(places) else places
        pairs = np.unique(runs)  # of object and cell; an object's number begins with its label
        self._cells = (pairs % cells).astype(np.int32)
        numbers, firsts = np.unique(pairs // cells, return_index=True)
        self._ends = np.append(firsts, len(pairs))
        self._labels: NDArray[np.uint8] = (numbers // _NUMBERS).astype(np.uint8)

    @property
    def labels(self) -> NDArray[np.uint8]:
        """The label of each object, (N,) rising, 1 for the first."""
        return self._labels

    def draw(self, label: int, rng: np.random.Generator) -> tuple[int, int]:
        """Row and column of a cell of an object of a label, each object as likely, and each of its cells."""
        low, high = np.searchsorted(self._labels, [label, label + 1])
        chosen = int(rng.integers(low, high))
        cell = self._cells[rng.integers(self._ends[chosen], self._ends[chosen + 1])]
        return int(cell) // self._columns, int(cell) % self._columns


_NUMBERS = 1 << 33  # more than there are of objects of a label: known ones below the half of it, parts above


def _numbered(sample: Sample, known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The number of the object that each pixel belongs to, (H, W) int64, its label times `_NUMBERS` added to it."""
    numbers = sample.label_map.astype(np.int64) * _NUMBERS
    single = np.zeros(known.shape, bool) if sample.instances is None else known & (sample.instances > 0)
    if sample.instances is not None:
        numbers[single] += sample.instances[single]
    rest = np.where(known & ~single, sample.label_map, 0)
    for k, window in enumerate(ndimage.find_objects(rest), 1):
        if window is not None:
            _, parts = cv2.connectedComponents((rest[window] == k).view(np.uint8), connectivity=8)
            numbers[window] += np.where(parts > 0, parts.astype(np.int64) + _NUMBERS // 2, 0)
    return numbers


class CropSource:
    """Draws batches of augmented crops from samples.

    Their embeddings are not copied: beside them it takes 1.0 MB each for the tiny SAM, for however many labels.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: int,
        rng: np.random.Generator,
        batch: int,
        crop: float,
        centred: float,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` is called for every sample, which takes some 10 ms, and may raise."""
        self.labels, self.rng, self.batch, self.crop, self.centred = labels, rng, batch, crop, centred
        self.items: list[tuple[Tensor, ...]] = []
        self.extents, self.objects = [], []
        for sample in samples:
            check()
            embedding = sample.embedding
            classes, shares = cell_shares(sample)
            self.items.append(
                (
                    torch.from_numpy(embedding.features),
                    context_of(embedding),
                    torch.from_numpy(embedding.thumbnail).permute(2, 0, 1),
                    torch.from_numpy(np.concatenate([classes, shares])),
                    torch.from_numpy(rim_distances(sample))[None].half(),
                    detail_of(embedding),
                )
            )
            self.extents.append(embedding.extent(embedding.features.shape[-1]))
            self.objects.append(Objects(sample))
        self.holding: dict[int, list[int]] = {}  # by label, the samples that have an object of it
        for i, objects in enumerate(self.objects):
            for label in np.unique(objects.labels).tolist():
                self.holding.setdefault(label, []).append(i)

    def draw(self) -> Batch:
        """A batch of crops, each turned and mirrored at random, its picture's contrast and brightness changed."""
        parts = [self._crop(*self._place()) for _ in range(self.batch)]
        features, context, picture, known, distance, detail = (
            torch.stack(tensors) for tensors in zip(*parts, strict=True)
        )
        context[torch.from_numpy(self.rng.random(len(parts)) < WITHOUT_CONTEXT)] = 0
        detail[torch.from_numpy(self.rng.random(len(parts)) < WITHOUT_DETAIL)] = 0
        # torch's own generator is the process's: two trainings side by side would disturb each other.
        gain, shift = (
            torch.from_numpy(self.rng.uniform(low, high, (len(parts), 1, 1, 1)).astype(np.float32))
            for low, high in ((0.8, 1.25), (-0.15, 0.15))
        )
        shifted = (picture.float() / 127.5 - 1) * gain + shift
        classes, shares = torch.split(known, SHARES, 1)
        wanted, offsets = self._told_apart(classes[shares > 0])
        return Batch(
            torch.cat([features.float(), context.float()], 1),
            shifted.clamp(-1, 1),
            dense_targets(classes, shares, torch.arange(self.labels + 1) if wanted is None else wanted, self.labels),
            distance.float(),
            detail.float(),
            wanted,
            offsets,
        )

    def _told_apart(self, present: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """As `Batch.classes` and `Batch.offsets`; `present` are the classes of cells, each any number of times.

        The logits of what is not present are raised by the logarithm of how many each stands for, so that the sum in
        the softmax is expected to be that over all classes (sampled softmax, arXiv 1412.2007).
        """
        if self.labels < MOST_CLASSES:
            return None, None
        there = np.flatnonzero(np.bincount(present.numpy(), minlength=self.labels + 1)[1:]) + 1
        absent = np.setdiff1d(np.arange(1, self.labels + 1), there)
        there = self.rng.permutation(there)[: MOST_CLASSES - 1]
        some = self.rng.permutation(absent)[: MOST_CLASSES - 1 - len(there)]
        chosen = np.sort(np.concatenate([[0], there, some]))
        raised = math.log(len(absent) / len(some)) if len(some) else 0.0
        offsets = np.where(np.isin(chosen, some), raised, 0).astype(np.float32)
        return torch.from_numpy(chosen), torch.from_numpy(offsets)

    def _place(self) -> tuple[int, tuple[int, int] | None]:
        """A sample, and a cell of one of its objects if the crop is to lie around it.

        A label first, then a sample that has it, then one of its objects, whatever their sizes.
        """
        if not self.holding or self.rng.random() >= self.centred:
            return int(self.rng.integers(len(self.items))), None
        label = int(self.rng.choice(list(self.holding)))
        i = int(self.rng.choice(self.holding[label]))
        return i, self.objects[i].draw(label, self.rng)

    def _crop(self, i: int, centre: tuple[int, int] | None) -> tuple[Tensor, ...]:
        rng, grid = self.rng, self.items[i][0].shape[-1]
        side = max(round(grid * self.crop), 1)
        corner = []
        for axis, extent in enumerate(self.extents[i]):
            room = max(extent - side, 0)
            start = rng.integers(room + 1) if centre is None else centre[axis] - rng.integers(side)
            corner.append(int(np.clip(start, 0, room)))
        turns, flip = int(rng.integers(4)), bool(rng.random() < 0.5)
        parts = []
        for tensor, scale in zip(self.items[i], (1, 1, PER_CELL, PER_CELL, PER_CELL, 2), strict=True):
            y, x, size = corner[0] * scale, corner[1] * scale, side * scale
            part = torch.rot90(tensor[:, y : y + size, x : x + size], turns, (1, 2))
            parts.append(part.flip(2) if flip else part)
        return tuple(parts)

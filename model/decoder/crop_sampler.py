"""Batches of augmented crops of training samples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from skylight.model.decoder.samples import (
    SHARES,
    Sample,
    boundary_distances,
    cell_shares,
    context_tensor,
    dense_targets,
    detail_tensor,
)
from skylight.model.masks.label_map import IGNORE
from skylight.model.sam.types import PER_CELL

# Shares of crops whose context, or detail, is all zero, as both are overfitted: docs/decisions/decoder-constants.md
WITHOUT_CONTEXT = 0.5
WITHOUT_DETAIL = 0.25
# Classes that one training step tells apart, the background among them. With more, those that a batch holds, and some
# of the others, which stand for all of them: so a step takes as long with 150 labels as with 31.
MOST_CLASSES = 32
_NUMBERS = 1 << 33  # object numbers per label: known objects below the half of it, connected components above


@dataclass(frozen=True)
class Batch:
    """Crops: features (B, 256 + C, c, c), thumbnails (B, 3, 8c, 8c) in [-1, 1], and their targets.

    `targets` (B, K, 8c, 8c): each cell's share of every class of `classes`, all zero where ignored. `distance`
    (B, 1, 8c, 8c) in [0, 1], 0 on an object's boundary, 1 at its deepest; `UNKNOWN` outside of objects. `detail`
    (B, D, 2c, 2c), of which D may be 0. `classes` (K,) int64, rising, the background first; `offsets` (K,) is added
    to their logits, for those that stand for others too; both None if they are all classes.
    """

    features: Tensor
    thumbnail: Tensor
    targets: Tensor
    distance: Tensor
    detail: Tensor
    classes: Tensor | None = None
    offsets: Tensor | None = None


class ObjectIndex:
    """The objects of a sample, and which cells of the embedding's grid each of them lies in.

    A single object is one of `instances`; where none is known, an 8-connected component of a label is.
    """

    def __init__(self, sample: Sample) -> None:
        self._rows, self._columns = sample.embedding.extent(sample.embedding.features.shape[-1])
        cells = self._rows * self._columns
        known = (sample.label_map != 0) & (sample.label_map != IGNORE)
        rows, columns = (
            np.arange(length) * count // length
            for length, count in zip(sample.label_map.shape, (self._rows, self._columns), strict=True)
        )
        codes = (_object_numbers(sample, known) * cells + rows[:, None] * self._columns + columns)[known]
        runs = codes[np.append(True, codes[1:] != codes[:-1])] if len(codes) else codes
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
        """Row and column of a random cell of a random object of a label, all objects equally likely."""
        low, high = np.searchsorted(self._labels, [label, label + 1])
        chosen = int(rng.integers(low, high))
        cell = self._cells[rng.integers(self._ends[chosen], self._ends[chosen + 1])]
        return int(cell) // self._columns, int(cell) % self._columns


def _object_numbers(sample: Sample, known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The number of the object that each pixel belongs to, (H, W) int64, its label times `_NUMBERS` added to it."""
    numbers = sample.label_map.astype(np.int64) * _NUMBERS
    single = np.zeros(known.shape, bool) if sample.instances is None else known & (sample.instances > 0)
    if sample.instances is not None:
        numbers[single] += sample.instances[single]
    rest = np.where(known & ~single, sample.label_map, 0)
    for k, window in enumerate(ndimage.find_objects(rest), 1):
        if window is not None:
            _, components = cv2.connectedComponents((rest[window] == k).view(np.uint8), connectivity=8)
            numbers[window] += np.where(components > 0, components.astype(np.int64) + _NUMBERS // 2, 0)
    return numbers


class CropSampler:
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
        """`batch`, `crop` and `centred` as in `TrainConfig`. `check` is called before each sample is prepared, which
        takes some 10 ms, and may raise.
        """
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
                    context_tensor(embedding),
                    torch.from_numpy(embedding.thumbnail).permute(2, 0, 1),
                    torch.from_numpy(np.concatenate([classes, shares])),
                    torch.from_numpy(boundary_distances(sample))[None].half(),
                    detail_tensor(embedding),
                )
            )
            self.extents.append(embedding.extent(embedding.features.shape[-1]))
            self.objects.append(ObjectIndex(sample))
        self.holding: dict[int, list[int]] = {}  # by label, the samples that have an object of it
        for i, objects in enumerate(self.objects):
            for label in np.unique(objects.labels).tolist():
                self.holding.setdefault(label, []).append(i)

    def draw(self) -> Batch:
        """A batch of crops, each randomly rotated and mirrored, its image's contrast and brightness changed."""
        crops = [self._crop(*self._random_place()) for _ in range(self.batch)]
        features, context, thumbnail, targets, distance, detail = (
            torch.stack(tensors) for tensors in zip(*crops, strict=True)
        )
        context[torch.from_numpy(self.rng.random(len(crops)) < WITHOUT_CONTEXT)] = 0
        detail[torch.from_numpy(self.rng.random(len(crops)) < WITHOUT_DETAIL)] = 0
        # torch's own generator is the process's: two trainings side by side would disturb each other.
        gain, shift = (
            torch.from_numpy(self.rng.uniform(low, high, (len(crops), 1, 1, 1)).astype(np.float32))
            for low, high in ((0.8, 1.25), (-0.15, 0.15))
        )
        shifted = (thumbnail.float() / 127.5 - 1) * gain + shift
        classes, shares = torch.split(targets, SHARES, 1)
        selected, offsets = self._select_classes(classes[shares > 0])
        every = torch.arange(self.labels + 1)
        return Batch(
            torch.cat([features.float(), context.float()], 1),
            shifted.clamp(-1, 1),
            dense_targets(classes, shares, every if selected is None else selected, self.labels),
            distance.float(),
            detail.float(),
            selected,
            offsets,
        )

    def _select_classes(self, present: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """As `Batch.classes` and `Batch.offsets`; `present` are the classes of cells, each any number of times.

        The logits of classes that are not present are raised by the logarithm of how many each stands for, so that the
        expected sum in the softmax is that over all classes (sampled softmax, arXiv 1412.2007).
        """
        if self.labels < MOST_CLASSES:
            return None, None
        held = np.flatnonzero(np.bincount(present.numpy(), minlength=self.labels + 1)[1:]) + 1
        absent = np.setdiff1d(np.arange(1, self.labels + 1), held)
        held = self.rng.permutation(held)[: MOST_CLASSES - 1]
        drawn = self.rng.permutation(absent)[: MOST_CLASSES - 1 - len(held)]
        selected = np.sort(np.concatenate([[0], held, drawn]))
        raised = math.log(len(absent) / len(drawn)) if len(drawn) else 0.0
        offsets = np.where(np.isin(selected, drawn), raised, 0).astype(np.float32)
        return torch.from_numpy(selected), torch.from_numpy(offsets)

    def _random_place(self) -> tuple[int, tuple[int, int] | None]:
        """A sample's index, and a cell of one of its objects if the crop is to lie around it.

        A label is drawn first, then a sample that has it, then one of its objects, whatever their sizes.
        """
        if not self.holding or self.rng.random() >= self.centred:
            return int(self.rng.integers(len(self.items))), None
        label = int(self.rng.choice(list(self.holding)))
        i = int(self.rng.choice(self.holding[label]))
        return i, self.objects[i].draw(label, self.rng)

    def _crop(self, i: int, centre: tuple[int, int] | None) -> tuple[Tensor, ...]:
        """The same window of all tensors of a sample, rotated by quarter turns and mirrored at random."""
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

"""What a domain decoder is trained on: samples, and augmented crops of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.instances import distance_targets
from model.sam import PER_CELL, Embedding

IGNORE = 255  # label-map value that neither trains nor counts
# Share of crops whose context is all zero. With 5 images context is worth 0.23 mean IoU on procedural pits and 0.06 on
# cats, but alone it is learned by heart: nuclei lost 0.03 and lesions 0.08, of which this leaves 0.02 and 0.01.
WITHOUT_CONTEXT = 0.5
# Share of crops whose detail is all zero. With 5 prompt-annotated images, 4 seeds, 12 test images: IoU on lesions,
# THEMIS, nuclei and procedural pits without any detail 0.660, 0.402, 0.707, 0.897; with it 0.708, 0.382, 0.779, 0.900;
# never dropped 0.714, 0.385, 0.764, 0.892; dropped with the context 0.686, 0.402, 0.770, 0.906. Of a layer at four
# times the grid beside it nothing came but 0.8 MB an image.
WITHOUT_DETAIL = 0.25
UNKNOWN = -1.0  # distance where it is not known which object a pixel belongs to


@dataclass(frozen=True)
class Sample:
    """What training reads: an embedding, a label map (H, W) uint8 of the image's size, and whose task it is.

    `instances` (H, W) uint16 holds k where the k-th single object lies, 0 elsewhere; None if none are known.
    """

    task: str
    embedding: Embedding
    label_map: NDArray[np.uint8]
    instances: NDArray[np.uint16] | None = None


@dataclass(frozen=True)
class Batch:
    """Crops: features (B, 256 + C, c, c), picture (B, 3, 8c, 8c) in [-1, 1], and what is true of them.

    `targets` (B, L + 1, 8c, 8c): each cell's share of every class, all zero where ignored. `distance` (B, 1, 8c, 8c)
    in [0, 1], 0 on an object's rim, 1 at its deepest; `UNKNOWN` outside of objects. `detail` (B, D, 2c, 2c), of
    which D may be 0.
    """

    features: Tensor
    picture: Tensor
    targets: Tensor
    distance: Tensor
    detail: Tensor


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


def soft_targets(sample: Sample, labels: int) -> NDArray[np.float32]:
    """A label map at the decoder's resolution, (labels + 1, 8h, 8w): each cell's share of every class.

    Zero in all classes where the label map says ignore for half the cell or more, and outside the image.
    """
    side = len(sample.embedding.thumbnail)
    rows, columns = sample.embedding.extent(side)
    targets = np.zeros((labels + 1, side, side), np.float32)
    for k in range(labels + 1):
        share = Image.fromarray((sample.label_map == k).astype(np.float32))
        targets[k, :rows, :columns] = np.asarray(share.resize((columns, rows), Image.Resampling.BOX))
    targets[:, targets.sum(0) <= 0.5] = 0
    return targets


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


class CropSource:
    """Draws batches of augmented crops from samples.

    Their embeddings are not copied: beside them it takes 0.9 MB each, where it was 1.5, for the tiny SAM and one label.
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
        self.rng, self.batch, self.crop, self.centred = rng, batch, crop, centred
        self.items: list[tuple[Tensor, ...]] = []
        self.extents, self.objects = [], []
        for sample in samples:
            check()
            embedding, targets = sample.embedding, soft_targets(sample, labels)
            self.items.append(
                (
                    torch.from_numpy(embedding.features),
                    context_of(embedding),
                    torch.from_numpy(embedding.thumbnail).permute(2, 0, 1),
                    torch.from_numpy(np.rint(255 * targets).astype(np.uint8)),
                    torch.from_numpy(rim_distances(sample))[None].half(),
                    detail_of(embedding),
                )
            )
            self.extents.append(embedding.extent(embedding.features.shape[-1]))
            self.objects.append(np.argwhere(targets[1:].sum(0) > 0.5).astype(np.int16) // PER_CELL)

    def draw(self) -> Batch:
        """A batch of crops, each turned and mirrored at random, its picture's contrast and brightness changed."""
        parts = [self._crop(int(i)) for i in self.rng.integers(len(self.items), size=self.batch)]
        batch = (torch.stack(tensors).float() for tensors in zip(*parts, strict=True))
        features, context, picture, targets, distance, detail = batch
        context[torch.from_numpy(self.rng.random(len(parts)) < WITHOUT_CONTEXT)] = 0
        detail[torch.from_numpy(self.rng.random(len(parts)) < WITHOUT_DETAIL)] = 0
        # torch's own generator is the process's: two trainings side by side would disturb each other.
        gain, shift = (
            torch.from_numpy(self.rng.uniform(low, high, (len(parts), 1, 1, 1)).astype(np.float32))
            for low, high in ((0.8, 1.25), (-0.15, 0.15))
        )
        shifted = (picture / 127.5 - 1) * gain + shift
        return Batch(torch.cat([features, context], 1), shifted.clamp(-1, 1), targets / 255, distance, detail)

    def _crop(self, i: int) -> tuple[Tensor, ...]:
        rng, grid = self.rng, self.items[i][0].shape[-1]
        side = max(round(grid * self.crop), 1)
        corner = []
        objects = self.objects[i]
        centre = rng.choice(objects) if len(objects) and rng.random() < self.centred else None
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

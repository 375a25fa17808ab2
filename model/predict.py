"""What a domain decoder says of an embedded image: probabilities, instances, and how sure it is."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import find_objects
from torch import Tensor

from model import guided
from model.decoder import DomainDecoder
from model.instances import separate
from model.masks import components
from model.sam import Embedding


@dataclass(frozen=True)
class Instance:
    """One found region: label k (0 is the project's first), and its mean probability `score` in [0, 1].

    `part` (h, w) bool is its mask from row `top`, column `left` on of an image of `size` (H, W); all of it by itself.
    """

    label: int
    part: NDArray[np.bool_]
    score: float
    top: int = 0
    left: int = 0
    size: tuple[int, int] | None = None

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The mask at the image's size, (H, W) bool; made anew each time, as many of them would fill the memory."""
        height, width = self.part.shape
        if self.size is None or self.size == self.part.shape:
            return self.part
        out = np.zeros(self.size, bool)
        out[self.top : self.top + height, self.left : self.left + width] = self.part
        return out


def as_tensors(embedding: Embedding) -> tuple[Tensor, Tensor, Tensor | None]:
    """A decoder's inputs, a batch of one: features and context (1, 256 + C, h, w) float32, the thumbnail
    (1, 3, 8h, 8w) in [-1, 1], and the detail (1, D, 2h, 2w) float32 if there is one.
    """
    features = torch.from_numpy(embedding.learned_from)[None].float()
    detail = None if embedding.detail is None else torch.from_numpy(embedding.detail)[None].float()
    return features, torch.from_numpy(embedding.thumbnail).permute(2, 0, 1)[None].float() / 127.5 - 1, detail


@dataclass(frozen=True)
class Prediction:
    """What a decoder says of every pixel of an image.

    `probabilities` (labels + 1, H, W) float32, index 0 is background; `distance` (H, W) float32 in [0, 1], 0 on an
    object's rim and 1 at its deepest; `separate`: the labels, 0 for the first, whose touching objects `distance` parts.
    """

    probabilities: NDArray[np.float32]
    distance: NDArray[np.float32]
    separate: frozenset[int]


def predict_pixels(decoder: DomainDecoder, embedding: Embedding) -> Prediction:
    """All that the decoder says, at the image's own size, its rims along the image's edges. Thread-safe."""
    config = decoder.config
    with torch.inference_mode():
        inputs = as_tensors(embedding)
        (logits,), (distance,) = decoder(*inputs)
        cells = logits.shape[-1]
        rows, columns = embedding.extent(cells)
        inside = torch.zeros(cells, cells)
        inside[:rows, :columns] = 1
        seen = guided.grey((inputs[1][0] + 1) * 127.5)
        slope, start = guided.lines((logits[1:] - logits[:1]) / config.temperature, seen, inside)
        every = torch.cat([slope, start, distance, seen[None]])[None, :, :rows, :columns]
        scaled = F.interpolate(every, embedding.size, mode="bilinear", align_corners=False)[0]
        slope, start = scaled[:-2].chunk(2)
        fine = scaled[-1] if embedding.picture is None else _grey(embedding.picture, embedding.size)
        probabilities: NDArray[np.float32] = guided.probabilities(slope, start, fine).numpy()
        single = frozenset(config.labels.index(label) for label in config.separate)
        return Prediction(probabilities, scaled[-2].sigmoid().numpy(), single)


def _grey(picture: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """An embedding's JPEG as grey in [0, 1], (H, W) float32 of `size`; only its luma is decoded."""
    with Image.open(io.BytesIO(picture.tobytes())) as file:
        file.draft("L", file.size)
        luma = np.asarray(file.convert("L"), np.float32) / 255
    return torch.from_numpy(luma if luma.shape == size else cv2.resize(luma, size[::-1]))


def predict(decoder: DomainDecoder, embedding: Embedding) -> NDArray[np.float32]:
    """Probabilities (labels + 1, H, W) float32 at the image's own size; index 0 is background. Thread-safe."""
    return predict_pixels(decoder, embedding).probabilities


@dataclass(frozen=True)
class Regions:
    """All regions of a prediction, numbered from 1 on, label by label, the biggest first; 0 is background.

    `numbers` (H, W) int32; of each number its label (N + 1,) int64, its `areas` (N + 1,) int64 px, and its mean
    probability `scores` (N + 1,) float64.
    """

    numbers: NDArray[np.int32]
    labels: NDArray[np.int64]
    areas: NDArray[np.int64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels) - 1

    def surest(self, most: int | None = None) -> Iterator[Instance]:
        """One by one, by number; of more than `most` those with the highest scores, the bigger of equal ones."""
        kept = np.arange(1, len(self.labels))
        if most is not None and len(kept) > most:
            kept = np.sort(kept[np.lexsort((-self.areas[kept], -self.scores[kept]))[:most]])
        windows, size = find_objects(self.numbers), (self.numbers.shape[0], self.numbers.shape[1])
        for k in kept.tolist():
            rows, columns = windows[k - 1]
            part = self.numbers[rows, columns] == k
            yield Instance(int(self.labels[k]), part, float(self.scores[k]), rows.start, columns.start, size)


def instances(prediction: Prediction, min_area: int) -> Iterator[Instance]:
    """The regions of each label with `min_area` px or more, see `find_regions`."""
    return find_regions(prediction, min_area).surest()


def find_regions(prediction: Prediction, min_area: int) -> Regions:
    """The regions of each label with `min_area` px or more: single objects where those were learned, else parts."""
    winner = prediction.probabilities.argmax(0).astype(np.uint8)
    numbers = np.zeros(winner.shape, np.int32)
    labels = [np.full(1, -1)]
    count = 0
    for label, window in enumerate(find_objects(winner)):
        if window is None:
            continue
        if label in prediction.separate:
            window = np.s_[:, :]  # its distances are smoothed and must not end at the window's rim
            found = separate(winner == label + 1, prediction.distance, min_area)
        else:
            found = components(winner[window] == label + 1, min_area)
        there = found > 0
        numbers[window][there] = found[there] + count
        total = int(found.max())
        labels.append(np.full(total, label))
        count += total
    areas = np.bincount(numbers.ravel(), minlength=count + 1)
    sums = np.bincount(numbers.ravel(), prediction.probabilities.max(0).ravel(), count + 1)
    return Regions(numbers, np.concatenate(labels), areas, sums / np.maximum(areas, 1))


def confidence(probabilities: NDArray[np.float32]) -> float:
    """How sure a prediction (classes, H, W) is of the image's pixels, in [0, 1].

    1 - sqrt(u), u the mean over the pixels of how much the likeliest class lacks to 1, over the most that it can lack:
    1 where every pixel is certain, 0 where every class is as likely. Doubt adds up, so that of the tiles of a map those
    come first that have most to decide, before empty ground; the root spreads the values, most of which are small.
    """
    classes = len(probabilities)
    lacking = max(1 - float(probabilities.max(0).mean(dtype=np.float64)), 0.0)
    return 1 - float(np.sqrt(lacking * classes / max(classes - 1, 1)))

"""Prediction of a domain decoder for an embedded image: probabilities, regions, and its confidence."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import find_objects
from torch import Tensor

from skylight.model.decoder import edge_refinement
from skylight.model.decoder.network import DomainDecoder
from skylight.model.decoder.ranked_labels import RANKS, ImageLuma, rank
from skylight.model.decoder.watershed import separate
from skylight.model.masks.components import components
from skylight.model.sam.types import Embedding

# Classes, the background among them, up to which every one has a plane in a prediction. With more, an image takes the
# memory and time of so many, for however many labels.
MOST_PLANES = 12
MARGIN = 5  # px around a label's pixels that `separate` looks at: four of its smoothing, one of its tops

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Instance:
    """A predicted region: label k (0 is the project's first), and its mean probability `score` in [0, 1].

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
        """The mask at the image's size, (H, W) bool; not stored, as many of them would fill the memory."""
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
    features = torch.from_numpy(embedding.decoder_features)[None].float()
    detail = None if embedding.detail is None else torch.from_numpy(embedding.detail)[None].float()
    return features, torch.from_numpy(embedding.thumbnail).permute(2, 0, 1)[None].float() / 127.5 - 1, detail


@dataclass(frozen=True)
class Prediction:
    """A decoder's prediction for every pixel of an image.

    `probabilities` (K, H, W) float32, the first of the background; `distance` (H, W) float32 in [0, 1], 0 on an
    object's boundary and 1 at its deepest; `separate`: the labels, 0 for the first, whose touching objects `distance`
    separates.
    With `MOST_PLANES` classes or fewer K is their number, and plane k is of class k. With more, the planes are of the
    background and of the likeliest labels at each pixel, given by `classes` (K, H, W) uint8, and `count` is the number
    of classes.
    """

    probabilities: NDArray[np.float32]
    distance: NDArray[np.float32]
    separate: frozenset[int]
    classes: NDArray[np.uint8] | None = None
    count: int | None = None

    @property
    def winner(self) -> NDArray[np.uint8]:
        """The likeliest class of each pixel, (H, W) uint8."""
        return likeliest(self.probabilities, self.classes)

    @property
    def confidence(self) -> float:
        """As `confidence`."""
        return confidence(self.probabilities, self.count)

    def of(self, label: int, window: Window = np.s_[:, :]) -> NDArray[np.float32]:
        """The probability of a label, 0 for the first, in a window (h, w) float32; 0 where others are likelier."""
        if self.classes is None:
            plane: NDArray[np.float32] = self.probabilities[label + 1][window]
            return plane
        ranked = (slice(1, None), *window)
        own: NDArray[np.float32] = np.where(self.classes[ranked] == label + 1, self.probabilities[ranked], 0).sum(0)
        return own


def planes(count: int) -> int:
    """Number of planes in the prediction of a decoder with `count` classes."""
    return count if count <= MOST_PLANES else RANKS + 1


def likeliest(probabilities: NDArray[Any], classes: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """The likeliest class (H, W) uint8 of planes (K, H, W), as of a `Prediction`."""
    plane = probabilities.argmax(0)
    if classes is None:
        first: NDArray[np.uint8] = plane.astype(np.uint8)
        return first
    winner: NDArray[np.uint8] = np.take_along_axis(classes, plane[None], 0)[0]
    return winner


def predict_pixels(decoder: DomainDecoder, embedding: Embedding) -> Prediction:
    """The decoder's prediction at the image's own size, its boundaries aligned with the image's edges. Thread-safe."""
    config = decoder.config
    separate = frozenset(config.labels.index(label) for label in config.separate)
    count = len(config.labels) + 1
    if count <= MOST_PLANES:
        return Prediction(*_dense(decoder, embedding), separate)
    with torch.inference_mode():
        inputs = as_tensors(embedding)
        trunk = decoder.trunk(*inputs)
        cells = inputs[1].shape[-1]
        rows, columns = embedding.extent(cells)
        luma = edge_refinement.luma((inputs[1][0] + 1) * 127.5)
        fine = _luma(embedding.picture, embedding.size) if embedding.picture is not None else None
        distance = F.pixel_shuffle(decoder.distance(trunk), 2)
        planes = torch.cat([distance, luma[None, None]], 1)[..., :rows, :columns]
        scaled = F.interpolate(planes, embedding.size, mode="bilinear", align_corners=False)[0]
        image = ImageLuma(luma, (rows, columns), scaled[1] if fine is None else fine)
        probabilities, classes = rank(decoder, trunk, image)
        return Prediction(probabilities, scaled[0].sigmoid().numpy(), separate, classes, count)


def _dense(decoder: DomainDecoder, embedding: Embedding) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities (labels + 1, H, W) float32, and the distance (H, W) float32."""
    with torch.inference_mode():
        inputs = as_tensors(embedding)
        (logits,), (distance,) = decoder(*inputs)
        cells = logits.shape[-1]
        rows, columns = embedding.extent(cells)
        inside = torch.zeros(cells, cells)
        inside[:rows, :columns] = 1
        luma = edge_refinement.luma((inputs[1][0] + 1) * 127.5)
        log_odds = (logits[1:] - logits[:1]) / decoder.config.temperature
        slope, intercept = edge_refinement.fit_lines(log_odds, luma, inside)
        planes = torch.cat([slope, intercept, distance, luma[None]])[None, :, :rows, :columns]
        scaled = F.interpolate(planes, embedding.size, mode="bilinear", align_corners=False)[0]
        slope, intercept = scaled[:-2].chunk(2)
        fine = scaled[-1] if embedding.picture is None else _luma(embedding.picture, embedding.size)
        probabilities: NDArray[np.float32] = edge_refinement.probabilities(slope, intercept, fine).numpy()
        return probabilities, scaled[-2].sigmoid().numpy()


def _luma(picture: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """The luma of an embedding's JPEG, (H, W) float32 of `size` in [0, 1]; only that is decoded."""
    with Image.open(io.BytesIO(picture.tobytes())) as file:
        file.draft("L", file.size)
        luma = np.asarray(file.convert("L"), np.float32) / 255
    return torch.from_numpy(luma if luma.shape == size else cv2.resize(luma, size[::-1]))


def predict(decoder: DomainDecoder, embedding: Embedding) -> NDArray[np.float32]:
    """Probabilities (labels + 1, H, W) float32 at the image's own size; index 0 is background. Thread-safe.

    With a plane for each label; with many labels `predict_pixels` takes a fraction of the memory.
    """
    return _dense(decoder, embedding)[0]


@dataclass(frozen=True)
class Regions:
    """All regions of a prediction, numbered from 1 on, label by label, the largest first; 0 is background.

    `numbers` (H, W) int32; of each number its label (N + 1,) int64, its `areas` (N + 1,) int64 px, and its mean
    probability `scores` (N + 1,) float64.
    """

    numbers: NDArray[np.int32]
    labels: NDArray[np.int64]
    areas: NDArray[np.int64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels) - 1

    def surest(self, limit: int | None = None) -> Iterator[Instance]:
        """The regions by number; of more than `limit` those with the highest scores, the larger of equal ones."""
        selected = np.arange(1, len(self.labels))
        if limit is not None and len(selected) > limit:
            selected = np.sort(selected[np.lexsort((-self.areas[selected], -self.scores[selected]))[:limit]])
        windows, size = find_objects(self.numbers), (self.numbers.shape[0], self.numbers.shape[1])
        for k in selected.tolist():
            rows, columns = windows[k - 1]
            part = self.numbers[rows, columns] == k
            yield Instance(int(self.labels[k]), part, float(self.scores[k]), rows.start, columns.start, size)


def instances(prediction: Prediction, min_area: int) -> Iterator[Instance]:
    """The regions of each label with `min_area` px or more, see `find_regions`."""
    return find_regions(prediction, min_area).surest()


def find_regions(prediction: Prediction, min_area: int) -> Regions:
    """The regions of each label with `min_area` px or more: single objects where those were learned, else connected
    components.
    """
    winner, best = prediction.winner, prediction.probabilities.max(0)
    numbers = np.zeros(winner.shape, np.int32)
    labels = [np.full(1, -1)]
    count = 0
    for label, window in enumerate(find_objects(winner)):
        if window is None:
            continue
        around = _with_margin(window, MARGIN, winner.shape)
        own = winner[around] == label + 1
        if label in prediction.separate:
            regions = separate(own, prediction.distance[around], min_area)
        else:
            regions = components(own, min_area)
        inside = regions > 0
        numbers[around][inside] = regions[inside] + count
        total = int(regions.max())
        labels.append(np.full(total, label))
        count += total
    areas = np.bincount(numbers.ravel(), minlength=count + 1)
    sums = np.bincount(numbers.ravel(), best.ravel(), count + 1)
    return Regions(numbers, np.concatenate(labels), areas, sums / np.maximum(areas, 1))


def _with_margin(window: Window, margin: int, size: tuple[int, ...]) -> Window:
    """A window of an image of `size` (H, W), `margin` px larger on each side, within the image."""
    rows, columns = (
        slice(max(span.start - margin, 0), min(span.stop + margin, length))
        for span, length in zip(window, size, strict=True)
    )
    return rows, columns


def confidence(probabilities: NDArray[np.float32], count: int | None = None) -> float:
    """Confidence of a prediction (K, H, W) in an image, in [0, 1]; `count` is the number of classes, if not K.

    1 - sqrt(u), where u is the mean over the pixels of 1 - p, p the probability of the likeliest class, relative to its
    maximum: 1 if every pixel is certain, 0 if all classes are equally likely everywhere. Uncertain pixels add up, so
    that tiles with much to decide come before empty ones; the root spreads the values, most of which are small.
    """
    classes = len(probabilities) if count is None else count
    lacking = max(1 - float(probabilities.max(0).mean(dtype=np.float64)), 0.0)
    return 1 - float(np.sqrt(lacking * classes / max(classes - 1, 1)))

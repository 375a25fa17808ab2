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
from torch import Tensor

from model import guided
from model.decoder import DomainDecoder
from model.instances import separate
from model.masks import components
from model.sam import Embedding


@dataclass(frozen=True)
class Instance:
    """One found region: label k (0 is the project's first), mask (H, W) bool, and its mean probability in [0, 1]."""

    label: int
    mask: NDArray[np.bool_]
    score: float


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


def instances(prediction: Prediction, min_area: int) -> Iterator[Instance]:
    """The regions of each label with `min_area` px or more: single objects where those were learned, else parts."""
    winner = prediction.probabilities.argmax(0)
    for label, probability in enumerate(prediction.probabilities[1:]):
        found = winner == label + 1
        if label in prediction.separate:
            masks = separate(found, prediction.distance, min_area)
        else:
            masks = components(found, min_area)
        for mask in masks:
            yield Instance(label, mask, float(probability[mask].mean()))


def confidence(probabilities: NDArray[np.float32]) -> float:
    """How sure a prediction (classes, H, W) is of the image's pixels, in [0, 1].

    1 - sqrt(u), u the mean over the pixels of how much the likeliest class lacks to 1, over the most that it can lack:
    1 where every pixel is certain, 0 where every class is as likely. Doubt adds up, so that of the tiles of a map those
    come first that have most to decide, before empty ground; the root spreads the values, most of which are small.
    """
    classes = len(probabilities)
    lacking = max(1 - float(probabilities.max(0).mean(dtype=np.float64)), 0.0)
    return 1 - float(np.sqrt(lacking * classes / max(classes - 1, 1)))

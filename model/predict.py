"""What a domain decoder says of an embedded image: probabilities, instances, and how sure it is."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.decoder import DomainDecoder
from model.masks import components
from model.sam import Embedding


@dataclass(frozen=True)
class Instance:
    """One found region: label k (0 is the project's first), mask (H, W) bool, and its mean probability in [0, 1]."""

    label: int
    mask: NDArray[np.bool_]
    score: float


def as_tensors(embedding: Embedding) -> tuple[Tensor, Tensor]:
    """A decoder's two inputs: features (256, h, w) float32 and the thumbnail (3, 4h, 4w) in [-1, 1]."""
    features = torch.from_numpy(embedding.features).float()
    return features, torch.from_numpy(embedding.thumbnail).permute(2, 0, 1).float() / 127.5 - 1


def predict(decoder: DomainDecoder, embedding: Embedding) -> NDArray[np.float32]:
    """Probabilities (labels + 1, H, W) float32 at the image's own size; index 0 is background. Thread-safe."""
    features, picture = as_tensors(embedding)
    with torch.inference_mode():
        logits = decoder(features[None], picture[None]).float()
        rows, columns = embedding.extent(logits.shape[-1])
        scaled = F.interpolate(logits[..., :rows, :columns], embedding.size, mode="bilinear", align_corners=False)
        probabilities: NDArray[np.float32] = scaled.softmax(1)[0].numpy()
    return probabilities


def instances(probabilities: NDArray[np.float32], min_area: int) -> Iterator[Instance]:
    """The connected regions of each label with `min_area` px or more, from probabilities (labels + 1, H, W)."""
    winner = probabilities.argmax(0)
    for label in range(1, len(probabilities)):
        for mask in components(winner == label, min_area):
            yield Instance(label - 1, mask, float(probabilities[label][mask].mean()))


def confidence(probabilities: NDArray[np.float32]) -> float:
    """How sure a prediction (labels + 1, H, W) is, in [0, 1]; low means "look at me first".

    The winning class's probability, averaged with each pixel's probability of being an object as its weight: broad
    certain background counts little, a faint or ragged object pulls it down; 1 where nothing else is possible.
    """
    weight = 1 - probabilities[0]
    return float(((weight * probabilities.max(0)).sum() + 1e-6) / (weight.sum() + 1e-6))

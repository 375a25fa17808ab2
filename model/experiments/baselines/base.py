"""The interface of the methods that a domain decoder is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skylight.model.masks.label_map import IGNORE
from skylight.model.sam.types import Embedding


@dataclass(frozen=True)
class Example:
    """An annotated image: (H, W, 3) uint8 RGB, its label map (H, W) uint8 (255 = ignore), and its embedding."""

    image: NDArray[np.uint8]
    label_map: NDArray[np.uint8]
    embedding: Embedding


class Baseline(Protocol):
    """A method that learns segmentation from a few annotated images."""

    @property
    def recipe(self) -> str:
        """All settings that decide what it learns, as text; results of another recipe are those of another method."""

    def fit(self, examples: Sequence[Example], labels: int, seed: int) -> None:
        """Learn labels 1 to `labels` from scratch, repeatably with the same examples and seed on the same machine.

        Raises ValueError if there is nothing to learn from, or a label map holds another label.
        """

    def predict(self, image: NDArray[np.uint8], embedding: Embedding) -> NDArray[np.uint8]:
        """The label map (H, W) of an image (H, W, 3) uint8 RGB, never 255. Only after `fit`."""


def check_examples(examples: Sequence[Example], labels: int) -> None:
    """Raise ValueError if there is nothing to learn from, or a label map holds a label that is none of `labels`."""
    held = {int(k) for example in examples for k in np.unique(example.label_map)} - {IGNORE}
    if not held:
        raise ValueError(f"{len(examples)} examples without a pixel to learn from; give one that is not all {IGNORE}")
    if max(held) > labels:
        raise ValueError(f"a label map holds {max(held)}, but there are {labels} labels; say {IGNORE} for ignore")

"""A random forest on multi-scale features of each pixel, as in ilastik (Berg et al. 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.feature import multiscale_basic_features

from skylight.model.experiments.baselines.base import Example, check_examples
from skylight.model.experiments.baselines.decision_bias import all_classes, best_bias, biased_argmax
from skylight.model.masks.label_map import IGNORE
from skylight.model.sam.types import Embedding


@dataclass(frozen=True)
class ForestConfig:
    """How a forest is grown."""

    trees: int = 100
    pixels: int = 20_000  # to learn from, as many of each class as there are
    side: int = 512  # px, the longest to which an image is scaled down
    sigma_min: float = 0.7  # px, the smallest and
    sigma_max: float = 10.0  # the largest scale, as in ilastik
    sigmas: int = 5  # scales


class Forest:
    """A random forest on multi-scale features of each pixel.

    It learns from at most `pixels` pixels. Its decision bias follows from its out-of-bag votes, each weighing as many
    pixels as it was drawn from (docs/decisions/baselines.md).

    It works in one thread: scikit-learn 1.9 saves and restores the warning filters in each of its threads, although
    they belong to the process, so that with two threads filters get lost.
    """

    def __init__(self, config: ForestConfig = ForestConfig()) -> None:  # noqa: B008 (frozen)
        self.config = config

    @property
    def recipe(self) -> str:
        """As `Baseline.recipe`."""
        return repr(self.config)

    def fit(self, examples: Sequence[Example], labels: int, seed: int) -> None:
        """As `Baseline.fit`."""
        from sklearn.ensemble import RandomForestClassifier

        check_examples(examples, labels)
        self.gray = all(is_gray(each.image) for each in examples)
        rows, classes, weights = self._sample(examples, labels, np.random.default_rng(seed))
        forest = RandomForestClassifier(self.config.trees, oob_score=True, random_state=seed)
        self.classifier: Any = forest.fit(rows, classes)
        votes = all_classes(forest.oob_decision_function_, forest.classes_, labels)
        self.bias, _ = best_bias(votes, classes, weights)

    def predict(self, image: NDArray[np.uint8], embedding: Embedding) -> NDArray[np.uint8]:
        """As `Baseline.predict`; the embedding is not used."""
        small = shrunk(image, self.config.side, Image.Resampling.BOX)
        rows = self._features(small)
        classes = [self._classes(rows[i : i + 65536]) for i in range(0, len(rows), 65536)]
        small_map = Image.fromarray(np.concatenate(classes).reshape(small.shape[:2]))
        height, width = image.shape[:2]
        return np.asarray(small_map.resize((width, height), Image.Resampling.NEAREST))

    def _classes(self, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
        votes = all_classes(self.classifier.predict_proba(rows), self.classifier.classes_, len(self.bias) - 1)
        return biased_argmax(votes, self.bias)

    def _features(self, small: NDArray[np.uint8]) -> NDArray[np.float32]:
        return pixel_features(small[..., :1] if self.gray else small, self.config)

    def _sample(
        self, examples: Sequence[Example], labels: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float64]]:
        """Features (N, F) of some pixels, their classes (N,), and how many pixels each was drawn from (N,)."""
        maps = [shrunk(each.label_map, self.config.side, Image.Resampling.NEAREST).ravel() for each in examples]
        flat = np.concatenate(maps)
        share = self.config.pixels // np.count_nonzero(np.bincount(flat[flat != IGNORE]))
        places = [np.flatnonzero(flat == k) for k in range(labels + 1)]
        chosen = np.sort(np.concatenate([rng.choice(p, min(share, len(p)), replace=False) for p in places]))
        weights = np.array([max(len(p) / share, 1.0) for p in places])
        parts, start = [], 0
        for each, own in zip(examples, maps, strict=True):
            here = chosen[(chosen >= start) & (chosen < start + len(own))] - start
            parts.append(self._features(shrunk(each.image, self.config.side, Image.Resampling.BOX))[here])
            start += len(own)
        return np.concatenate(parts), flat[chosen], weights[flat[chosen]]


def pixel_features(image: NDArray[np.uint8], config: ForestConfig) -> NDArray[np.float32]:
    """Features of each pixel, (H W, 4 S C) float32, of an image (H, W, C) uint8.

    For each channel and each of S scales: smoothed intensity, gradient magnitude, and the eigenvalues of the Hessian.
    """
    scales = config.sigma_min, config.sigma_max, config.sigmas
    threads = 1  # by position, as scikit-image 0.26 renamed it
    features = multiscale_basic_features(  # type: ignore[no-untyped-call]
        image, True, True, True, *scales, threads, channel_axis=-1
    )
    return np.asarray(features, np.float32).reshape(-1, features.shape[-1])


def is_gray(image: NDArray[np.uint8]) -> bool:
    """Whether the channels of an image (H, W, 3) are equal."""
    return bool((image == image[..., :1]).all())


def shrunk(array: NDArray[np.uint8], side: int, resample: Image.Resampling) -> NDArray[np.uint8]:
    """An image or a label map scaled down so that no side is longer than `side` px; never up."""
    height, width = array.shape[:2]
    scale = min(side / max(height, width), 1)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(Image.fromarray(array).resize(size, resample))

"""A random forest on multi-scale features of each pixel, as in ilastik (Berg et al. 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from skylight.model.decoder.decision_bias import best_odds, likeliest, spread
from skylight.model.experiments.baselines.base import Example, check
from skylight.model.masks.label_map import IGNORE
from skylight.model.sam.segmenter import Embedding


@dataclass(frozen=True)
class ForestConfig:
    """How a forest is grown."""

    trees: int = 100
    pixels: int = 20_000  # to learn from, as many of each class as there are
    side: int = 512  # px, the longest to which a picture is scaled down
    sigmas: tuple[float, ...] = (0.7, 1.6, 3.5, 5.0, 10.0)  # px; ilastik's, but for 1.0


class Forest:
    """A random forest on multi-scale features of each pixel.

    It learns from at most `pixels` pixels. Its odds follow from its out-of-bag votes, each weighing as many pixels as
    it was drawn from: mean IoU with 5 images 0.673 on procedural pits and 0.853 on nuclei; plain votes 0.416 and 0.874,
    the true shares as odds 0.685 and 0.774 (50 trees, one seed, 3 test images of each).

    It works in one thread. scikit-learn 1.9 sets the warnings' filters aside in each of its threads, although they
    belong to the process: with two threads 12 filters were 5 after 30 forests, and once none is left every tree warns.
    """

    def __init__(self, config: ForestConfig = ForestConfig()) -> None:  # noqa: B008 (frozen)
        self.config = config

    @property
    def recipe(self) -> str:
        """As `Alternative.recipe`."""
        return repr(self.config)

    def fit(self, examples: Sequence[Example], labels: int, seed: int) -> None:
        """As `Alternative.fit`."""
        from sklearn.ensemble import RandomForestClassifier

        check(examples, labels)
        self.gray = all(is_gray(each.image) for each in examples)
        rows, classes, weights = self._sample(examples, labels, np.random.default_rng(seed))
        forest = RandomForestClassifier(self.config.trees, oob_score=True, random_state=seed)
        self.classifier: Any = forest.fit(rows, classes)
        votes = spread(forest.oob_decision_function_, forest.classes_, labels)
        self.odds, _ = best_odds(votes, classes, weights)

    def predict(self, image: NDArray[np.uint8], embedding: Embedding) -> NDArray[np.uint8]:
        """As `Alternative.predict`; the embedding is not used."""
        small = shrunk(image, self.config.side, Image.Resampling.BOX)
        rows = self._features(small)
        found = [self._classes(rows[i : i + 65536]) for i in range(0, len(rows), 65536)]
        small_map = Image.fromarray(np.concatenate(found).reshape(small.shape[:2]))
        height, width = image.shape[:2]
        return np.asarray(small_map.resize((width, height), Image.Resampling.NEAREST))

    def _classes(self, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
        votes = spread(self.classifier.predict_proba(rows), self.classifier.classes_, len(self.odds) - 1)
        return likeliest(votes, self.odds)

    def _features(self, small: NDArray[np.uint8]) -> NDArray[np.float32]:
        return pixel_features(small[..., :1] if self.gray else small, self.config.sigmas)

    def _sample(
        self, examples: Sequence[Example], labels: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float64]]:
        """Features (N, F) of some pixels, their classes (N,), and how many pixels each of them was drawn from (N,)."""
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


def pixel_features(image: NDArray[np.uint8], sigmas: Sequence[float]) -> NDArray[np.float32]:
    """What ilastik looks at, (H W, 41 C) float32, of an image (H, W, C) uint8.

    Per channel its intensity; and at each of `sigmas`: smoothed, gradient magnitude, Laplacian, difference of
    Gaussians (to 0.66 sigma), eigenvalues of the structure tensor (gathered over 0.5 sigma) and of the Hessian.
    """
    layers = []
    for channel in np.moveaxis(image.astype(np.float32) / 255, 2, 0):
        layers.append(channel)
        for sigma in sigmas:
            smooth = ndimage.gaussian_filter(channel, sigma)
            dy, dx = np.gradient(smooth)
            (yy, yx), xx = np.gradient(dy), np.gradient(dx, axis=1)
            gathered = [ndimage.gaussian_filter(each, sigma / 2) for each in (dy * dy, dy * dx, dx * dx)]
            finer = ndimage.gaussian_filter(channel, 0.66 * sigma)
            layers += [smooth, np.hypot(dy, dx), yy + xx, smooth - finer, *_eigenvalues(*gathered)]
            layers += _eigenvalues(yy, yx, xx)
    return np.stack([layer.ravel() for layer in layers], 1)


def _eigenvalues(a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Of the matrices ((a, b), (b, c)), the larger first."""
    middle, reach = (a + c) / 2, np.hypot((a - c) / 2, b)
    return [middle + reach, middle - reach]


def is_gray(image: NDArray[np.uint8]) -> bool:
    """Whether the channels of an image (H, W, 3) are equal."""
    return bool((image == image[..., :1]).all())


def shrunk(array: NDArray[np.uint8], side: int, resample: Image.Resampling) -> NDArray[np.uint8]:
    """An image or a label map scaled down so that no side is longer than `side` px; never up."""
    height, width = array.shape[:2]
    scale = min(side / max(height, width), 1)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(Image.fromarray(array).resize(size, resample))

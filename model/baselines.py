"""What a user would reach for instead of a domain decoder, each trained on the very same few images and masks.

They are meant to be as good as a competent user gets them: each sees the picture at the size it would in use, and those
that decide pixel by pixel have the odds of rare labels set for the best IoU (`best_odds`) instead of being left to
argmax. scikit-learn comes with the extra `simulate`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from model.crops import IGNORE
from model.sam import Embedding
from model.unet import UNetConfig, apply_unet, train_unet

SIGMAS = (0.7, 1.6, 3.5, 5.0, 10.0)  # px; ilastik's, but for 1.0
ODDS = tuple(sorted((2.0 ** (k / 2) for k in range(-16, 13)), key=lambda odds: abs(np.log(odds))))  # 1 first: ties stay
SMOOTHING = 2.0  # levels of brightness; a histogram of few pixels is ragged
# Tried for the probe: scikit-learn's C, the inverse of the regularisation. Mean IoU by 0.01 and by 1.0: one image of
# nuclei 0.28 and 0.14, five of pits 0.39 and 0.46; with ten 0.1 and 1.0 are alike. 0.001 was best for none of them but
# one image of nuclei, by 0.02.
STRENGTHS = (0.01, 0.1, 1.0)
FOLDS = 5  # parts of the examples, each left out once to find the probe's odds


@dataclass(frozen=True)
class Example:
    """An annotated image: (H, W, 3) uint8 RGB, its label map (H, W) uint8 (255 = ignore), and its embedding."""

    image: NDArray[np.uint8]
    label_map: NDArray[np.uint8]
    embedding: Embedding


class Alternative(Protocol):
    """A way to learn segmentation from a few examples."""

    def fit(self, examples: Sequence[Example], labels: int, seed: int) -> None:
        """Learn labels 1 to `labels` anew; the same examples and seed give the same answers on the same machine.

        Raises ValueError if there is nothing to learn from, or a label map holds another label.
        """

    def predict(self, image: NDArray[np.uint8], embedding: Embedding) -> NDArray[np.uint8]:
        """The label map (H, W) of an image (H, W, 3) uint8 RGB, never 255. Only after `fit`."""


class Convolutional:
    """A U-Net, from scratch or on ImageNet's weights."""

    def __init__(self, config: UNetConfig = UNetConfig()) -> None:  # noqa: B008 (frozen)
        self.config = config

    def fit(self, examples: Sequence[Example], labels: int, seed: int) -> None:
        """As `Alternative.fit`."""
        check(examples, labels)
        self.network = train_unet([(each.image, each.label_map) for each in examples], labels, self.config, seed)

    def predict(self, image: NDArray[np.uint8], embedding: Embedding) -> NDArray[np.uint8]:
        """As `Alternative.predict`; the embedding is not used."""
        return apply_unet(self.network, image, self.config.side)


class Forest:
    """A random forest on multi-scale features of each pixel, as in ilastik (Berg et al. 2019).

    It learns from at most `pixels` pixels, as many of each class as there are, on pictures scaled down to `side` px.
    Its odds follow from its out-of-bag votes, each weighing as many pixels as it was drawn from: mean IoU with 5 images
    0.673 on procedural pits and 0.853 on nuclei; plain votes 0.416 and 0.874, the true shares as odds 0.685 and 0.774
    (50 trees, one seed, 3 test images of each).
    """

    def __init__(self, trees: int = 100, pixels: int = 20_000, side: int = 512, jobs: int = 2) -> None:
        self.trees, self.pixels, self.side, self.jobs = trees, pixels, side, jobs

    def fit(self, examples: Sequence[Example], labels: int, seed: int) -> None:
        """As `Alternative.fit`."""
        from sklearn.ensemble import RandomForestClassifier

        check(examples, labels)
        self.gray = all(is_gray(each.image) for each in examples)
        rows, classes, weights = self._sample(examples, labels, np.random.default_rng(seed))
        forest = RandomForestClassifier(self.trees, oob_score=True, n_jobs=self.jobs, random_state=seed)
        self.classifier: Any = forest.fit(rows, classes)
        votes = spread(forest.oob_decision_function_, forest.classes_, labels)
        self.odds, _ = best_odds(votes, classes, weights)

    def predict(self, image: NDArray[np.uint8], embedding: Embedding) -> NDArray[np.uint8]:
        """As `Alternative.predict`; the embedding is not used."""
        small = shrunk(image, self.side, Image.Resampling.BOX)
        rows = self._features(small)
        found = [self._classes(rows[i : i + 65536]) for i in range(0, len(rows), 65536)]
        small_map = Image.fromarray(np.concatenate(found).reshape(small.shape[:2]))
        height, width = image.shape[:2]
        return np.asarray(small_map.resize((width, height), Image.Resampling.NEAREST))

    def _classes(self, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
        votes = spread(self.classifier.predict_proba(rows), self.classifier.classes_, len(self.odds) - 1)
        return likeliest(votes, self.odds)

    def _features(self, small: NDArray[np.uint8]) -> NDArray[np.float32]:
        return pixel_features(small[..., :1] if self.gray else small)

    def _sample(
        self, examples: Sequence[Example], labels: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float64]]:
        """Features (N, F) of some pixels, their classes (N,), and how many pixels each of them was drawn from (N,)."""
        maps = [shrunk(each.label_map, self.side, Image.Resampling.NEAREST).ravel() for each in examples]
        flat = np.concatenate(maps)
        share = self.pixels // np.count_nonzero(np.bincount(flat[flat != IGNORE]))
        places = [np.flatnonzero(flat == k) for k in range(labels + 1)]
        chosen = np.sort(np.concatenate([rng.choice(p, min(share, len(p)), replace=False) for p in places]))
        weights = np.array([max(len(p) / share, 1.0) for p in places])
        parts, start = [], 0
        for each, own in zip(examples, maps, strict=True):
            here = chosen[(chosen >= start) & (chosen < start + len(own))] - start
            parts.append(self._features(shrunk(each.image, self.side, Image.Resampling.BOX))[here])
            start += len(own)
        return np.concatenate(parts), flat[chosen], weights[flat[chosen]]


class Probe:
    """Logistic regression from an embedding's cell to its class: what the frozen features alone know.

    A cell on a rim counts for each of its classes by its share. The regularisation and the odds are those that are best
    for images that were left out of the fit, a fifth at a time (`folds`); on 5 and 10 images of nuclei these odds gain
    0.05 to 0.18 mean IoU, on pits they move it by -0.03 to 0.1.
    """

    def fit(self, examples: Sequence[Example], labels: int, seed: int) -> None:
        """As `Alternative.fit`; there is no chance in it, so `seed` is not used."""
        check(examples, labels)
        parts = [cell_classes(each, labels) for each in examples]
        cells, classes, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
        fold = folds([part[1] for part in parts])
        best = -1.0
        for strength in STRENGTHS:
            found = np.zeros((len(cells), labels + 1))
            for k in np.unique(fold):
                rest = fold != k
                other = regression(cells[rest], classes[rest], weights[rest], strength)
                found[~rest] = spread(other.predict_proba(cells[~rest]), other.classes_, labels)
            odds, reached = best_odds(found, classes, weights)
            if reached > best:
                best, self.odds, chosen = reached, odds, strength
        self.classifier = regression(cells, classes, weights, chosen)

    def predict(self, image: NDArray[np.uint8], embedding: Embedding) -> NDArray[np.uint8]:
        """As `Alternative.predict`; of the image, only the size is used."""
        rows, columns = embedding.extent(embedding.features.shape[-1])
        cells = embedding.features[:, :rows, :columns].reshape(256, -1).T.astype(np.float32)
        found = spread(self.classifier.predict_proba(cells), self.classifier.classes_, len(self.odds) - 1) * self.odds
        grid = torch.from_numpy(found.T.reshape(1, -1, rows, columns))
        full = F.interpolate(grid, image.shape[:2], mode="bilinear", align_corners=False)
        return full[0].argmax(0).numpy().astype(np.uint8)


class Threshold:
    """Brightness alone: one cut, above or below, for one label; the likeliest class of every level for several."""

    def fit(self, examples: Sequence[Example], labels: int, seed: int) -> None:
        """As `Alternative.fit`; there is no chance in it, so `seed` is not used."""
        check(examples, labels)
        counts = np.zeros((labels + 1, 256))  # pixels of each class at each level
        for each in examples:
            level = brightness(each.image)
            for k in range(labels + 1):
                counts[k] += np.bincount(level[each.label_map == k], minlength=256)
        self.class_of = best_cut(counts[0], counts[1]) if labels == 1 else best_levels(counts)

    def predict(self, image: NDArray[np.uint8], embedding: Embedding) -> NDArray[np.uint8]:
        """As `Alternative.predict`; the embedding is not used."""
        found: NDArray[np.uint8] = self.class_of[brightness(image)]
        return found


ALTERNATIVES: Mapping[str, Callable[[], Alternative]] = {
    "unet": Convolutional,
    "unet_imagenet": lambda: Convolutional(UNetConfig(imagenet=True)),
    "forest": Forest,
    "probe": Probe,
    "threshold": Threshold,
}


def check(examples: Sequence[Example], labels: int) -> None:
    """Raise ValueError if there is nothing to learn from, or a label map holds a label that is none of `labels`."""
    held = {int(k) for each in examples for k in np.unique(each.label_map)} - {IGNORE}
    if not held:
        raise ValueError(f"{len(examples)} examples without a pixel to learn from; give one that is not all {IGNORE}")
    if max(held) > labels:
        raise ValueError(f"a label map holds {max(held)}, but there are {labels} labels; say {IGNORE} for ignore")


def best_odds(
    found: NDArray[np.float64], classes: NDArray[np.uint8], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Factors (C,) on probabilities `found` (N, C) under which argmax has the best mean IoU of the labels 1 to C - 1.

    And that IoU. `classes` (N,) is the truth, `weights` (N,) how much each row counts. One label at a time, two rounds.
    """
    odds = np.ones(found.shape[1])
    present = [k for k in range(1, len(odds)) if weights[classes == k].sum() > 0]
    best = _mean_iou(found, classes, weights, present)
    for k in present * (1 if len(present) == 1 else 2):
        for factor in ODDS:
            tried = odds.copy()
            tried[k] = factor
            reached = _mean_iou(found * tried, classes, weights, present)
            if reached > best:
                best, odds = reached, tried
    return odds, best


def _mean_iou(
    found: NDArray[np.float64], classes: NDArray[np.uint8], weights: NDArray[np.float64], labels: Sequence[int]
) -> float:
    winner, size = found.argmax(1), found.shape[1]
    table = np.bincount(classes * np.int64(size) + winner, weights, size * size).reshape(size, size)
    union = table.sum(0) + table.sum(1) - table.diagonal()
    return sum(float(table[k, k] / union[k]) for k in labels) / max(len(labels), 1)


def best_cut(background: NDArray[np.float64], inside: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Class, 0 or 1, of each level (256,): all above or all below the cut with the best IoU; counts (256,) each."""
    levels = np.arange(256)
    cuts = [levels < 0, *(levels <= t for t in range(256)), *(levels > t for t in range(256))]
    reached = [inside[cut].sum() / max(inside.sum() + background[cut].sum(), 1) for cut in cuts]
    return cuts[int(np.argmax(reached))].astype(np.uint8)


def best_levels(counts: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Class of each level (256,) from counts (C, 256) of every class's pixels, the odds set for the best mean IoU."""
    share = ndimage.gaussian_filter1d(counts, SMOOTHING, axis=1, mode="nearest").T + 1e-9
    share /= share.sum(1, keepdims=True)
    classes = np.repeat(np.arange(len(counts)), 256).astype(np.uint8)
    odds, _ = best_odds(np.tile(share, (len(counts), 1)), classes, counts.ravel())
    return likeliest(share, odds)


def likeliest(found: NDArray[np.float64], odds: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The class (N,) of each row of probabilities (N, C) under odds (C,)."""
    winner: NDArray[np.uint8] = (found * odds).argmax(1).astype(np.uint8)
    return winner


def regression(
    cells: NDArray[np.float32], classes: NDArray[np.uint8], weights: NDArray[np.float64], strength: float
) -> Any:
    """A fitted scikit-learn classifier of cells (N, 256) with classes (N,) and weights (N,): logistic, standardised."""
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(classes)) == 1:
        return DummyClassifier().fit(cells, classes)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
    return pipeline.fit(cells, classes, logisticregression__sample_weight=weights)


def spread(found: NDArray[np.float64], classes: NDArray[np.uint8], labels: int) -> NDArray[np.float64]:
    """Probabilities (N, labels + 1) from those (N, K) of the K classes that a classifier has seen."""
    full = np.zeros((len(found), labels + 1))
    full[:, classes] = found
    return full


def cell_classes(example: Example, labels: int) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float64]]:
    """An embedding's cells (N, 256), the class of each (N,), and how far it is of that class (N,) in (0, 1].

    A cell of several classes comes once for each; one that is ignored for half or more does not.
    """
    rows, columns = example.embedding.extent(example.embedding.features.shape[-1])
    shares = np.zeros((rows * columns, labels + 1))
    for k in range(labels + 1):
        share = Image.fromarray((example.label_map == k).astype(np.float32))
        shares[:, k] = np.asarray(share.resize((columns, rows), Image.Resampling.BOX)).ravel()
    shares[shares.sum(1) <= 0.5] = 0
    which, classes = np.nonzero(shares)
    cells = example.embedding.features[:, :rows, :columns].reshape(256, -1).T.astype(np.float32)
    return cells[which], classes.astype(np.uint8), shares[which, classes]


def folds(classes: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """Which of `FOLDS` parts each cell falls into, (N,), from the classes (n,) of every image's cells in reading order.

    Whole images, or, where some class is in one image alone and could not be learned without it, bands of each.
    """
    holders = np.bincount(np.concatenate([np.unique(own) for own in classes]))
    if holders[holders > 0].min() > 1:
        return np.repeat(np.arange(len(classes)) % FOLDS, [len(own) for own in classes])
    return np.concatenate([np.arange(len(own)) * FOLDS // max(len(own), 1) for own in classes])


def pixel_features(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What ilastik looks at, (H W, 41 C) float32, of an image (H, W, C) uint8.

    Per channel its intensity; and at each of `SIGMAS`: smoothed, gradient magnitude, Laplacian, difference of
    Gaussians (to 0.66 sigma), eigenvalues of the structure tensor (gathered over 0.5 sigma) and of the Hessian.
    """
    layers = []
    for channel in np.moveaxis(image.astype(np.float32) / 255, 2, 0):
        layers.append(channel)
        for sigma in SIGMAS:
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


def brightness(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma (H, W) uint8 of an image (H, W, 3) uint8 RGB (ITU-R 601)."""
    return np.asarray(Image.fromarray(image).convert("L"))


def shrunk(array: NDArray[np.uint8], side: int, resample: Image.Resampling) -> NDArray[np.uint8]:
    """An image or a label map scaled down so that no side is longer than `side` px; never up."""
    height, width = array.shape[:2]
    scale = min(side / max(height, width), 1)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(Image.fromarray(array).resize(size, resample))

"""Logistic regression on the cells of an embedding, a linear probe of SAM's frozen features."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from skylight.model.experiments.baselines.base import Example, check_examples
from skylight.model.experiments.baselines.decision_bias import all_classes, best_bias
from skylight.model.sam.types import Embedding

STRENGTHS = (0.01, 0.1, 1.0)  # scikit-learn's C, the inverse of the regularization: docs/decisions/baselines.md
FOLDS = 5  # parts of the examples, each left out once to find the probe's bias


class Probe:
    """Logistic regression from an embedding's cell to its class.

    A cell on a boundary counts for each of its classes by its share. Regularization and bias are those that are best
    for images that were left out of the fit, a fifth at a time (`folds`).
    """

    @property
    def recipe(self) -> str:
        """As `Baseline.recipe`."""
        return f"Probe(strengths={STRENGTHS}, folds={FOLDS})"

    def fit(self, examples: Sequence[Example], labels: int, seed: int) -> None:
        """As `Baseline.fit`; it is deterministic, so `seed` is not used."""
        check_examples(examples, labels)
        parts = [cell_classes(example, labels) for example in examples]
        cells, classes, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
        fold = folds([part[1] for part in parts])
        best = -1.0
        for strength in STRENGTHS:
            held_out = np.zeros((len(cells), labels + 1))
            for k in np.unique(fold):
                rest = fold != k
                other = regression(cells[rest], classes[rest], weights[rest], strength)
                held_out[~rest] = all_classes(other.predict_proba(cells[~rest]), other.classes_, labels)
            bias, reached = best_bias(held_out, classes, weights)
            if reached > best:
                best, self.bias, chosen = reached, bias, strength
        self.classifier = regression(cells, classes, weights, chosen)

    def predict(self, image: NDArray[np.uint8], embedding: Embedding) -> NDArray[np.uint8]:
        """As `Baseline.predict`; of the image, only the size is used."""
        rows, columns = embedding.extent(embedding.features.shape[-1])
        cells = embedding.features[:, :rows, :columns].reshape(256, -1).T.astype(np.float32)
        classifier, labels = self.classifier, len(self.bias) - 1
        votes = all_classes(classifier.predict_proba(cells), classifier.classes_, labels) * self.bias
        grid = torch.from_numpy(votes.T.reshape(1, -1, rows, columns))
        full = F.interpolate(grid, image.shape[:2], mode="bilinear", align_corners=False)
        return full[0].argmax(0).numpy().astype(np.uint8)


def regression(
    cells: NDArray[np.float32], classes: NDArray[np.uint8], weights: NDArray[np.float64], strength: float
) -> Any:
    """A fitted scikit-learn classifier of cells (N, 256) with classes (N,) and weights (N,): logistic, standardized."""
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(classes)) == 1:
        return DummyClassifier().fit(cells, classes)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
    return pipeline.fit(cells, classes, logisticregression__sample_weight=weights)


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
    """The fold, of `FOLDS`, of each cell, (N,) int64, from the classes (n,) of every image's cells in reading order.

    A fold has whole images, or, where a class is in one image alone and could not be learned without it, bands of each.
    """
    holders = np.bincount(np.concatenate([np.unique(own) for own in classes]))
    if holders[holders > 0].min() > 1:
        return np.repeat(np.arange(len(classes)) % FOLDS, [len(own) for own in classes])
    return np.concatenate([np.arange(len(own)) * FOLDS // max(len(own), 1) for own in classes])

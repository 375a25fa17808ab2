"""Logistic regression on the cells of an embedding: what SAM's frozen features know by themselves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from skylight.model.decoder.decision_bias import best_odds, spread
from skylight.model.experiments.baselines.base import Example, check
from skylight.model.sam.types import Embedding

# Tried for the probe: scikit-learn's C, the inverse of the regularisation. Mean IoU by 0.01 and by 1.0: one image of
# nuclei 0.28 and 0.14, five of pits 0.39 and 0.46; with ten 0.1 and 1.0 are alike. 0.001 was best for none of them but
# one image of nuclei, by 0.02.
STRENGTHS = (0.01, 0.1, 1.0)
FOLDS = 5  # parts of the examples, each left out once to find the probe's odds


class Probe:
    """Logistic regression from an embedding's cell to its class: what the frozen features alone know.

    A cell on a rim counts for each of its classes by its share. The regularisation and the odds are those that are best
    for images that were left out of the fit, a fifth at a time (`folds`); on 5 and 10 images of nuclei these odds gain
    0.05 to 0.18 mean IoU, on pits they move it by -0.03 to 0.1.
    """

    @property
    def recipe(self) -> str:
        """As `Alternative.recipe`."""
        return f"Probe(strengths={STRENGTHS}, folds={FOLDS})"

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

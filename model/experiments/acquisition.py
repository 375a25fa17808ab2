"""Orders in which an annotator gets the images of a pool: random, by the decoder's confidence, or by diversity."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skylight.model.active_learning.clustering import cluster_centres, nearest_centres
from skylight.model.active_learning.novelty import familiarity, farthest_first, mean_feature, spacing
from skylight.model.experiments.splits import Source
from skylight.model.sam.types import Embedding
from skylight.model.storage import atomic_write

ORDERS = ("random", "uncertainty", "novelty", "clustered", "diversity")

Confidence = Callable[[Source], float]  # of a decoder in an image, in [0, 1]


class AcquisitionOrder:
    """A seed's order of a pool, extended as it is needed: what `first` gives is the start of all that it gives later.

    `sizes` are the numbers of images at which a decoder is trained, which then selects the images up to the next size;
    `train` gives that decoder's confidence, or None while the images so far have no object: then the order goes on at
    random, as no version is trained before that. "uncertainty" takes the least confident images; "clustered" takes
    these from the clusters in turn, as Label Studio's uncertainty sampling does; "novelty" multiplies the confidence by
    `familiarity`. These three are stored in `path`, so that a resumed run need not train for them.
    """

    def __init__(
        self,
        kind: str,
        pool: Sequence[Source],
        seed: int,
        sizes: Sequence[int],
        embed: Callable[[Source], Embedding],
        train: Callable[[Sequence[Source]], Confidence | None],
        path: Path,
    ) -> None:
        self.kind, self.sizes = kind, sorted(sizes)
        self._pool = {source.stem: source for source in pool}
        self._embed, self._train, self._path = embed, train, path
        self._rng = np.random.default_rng(seed)
        self._shuffled = [list(self._pool)[i] for i in self._rng.permutation(len(self._pool))]
        self._chosen: list[str] = []
        if kind == "random":
            self._chosen = self._shuffled
        elif kind in ("uncertainty", "novelty", "clustered"):
            self._chosen = self._stored()

    def first(self, count: int) -> list[Source]:
        """The first `count` images. Raises ValueError if the pool has fewer."""
        if count > len(self._pool):
            raise ValueError(f"the pool has {len(self._pool)} images, not {count}")
        if len(self._chosen) < count and self.kind == "diversity":
            self._chosen = self._diverse()
        while len(self._chosen) < count:
            self._extend()
        return [self._pool[stem] for stem in self._chosen[:count]]

    def _diverse(self) -> list[str]:
        return [self._shuffled[i] for i in farthest_first(self._means(self._shuffled))]

    def _means(self, stems: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([mean_feature(self._embed(self._pool[stem])) for stem in stems])

    def _in_turn(self, stems: Sequence[str]) -> list[str]:
        """The first of each cluster, then the second of each, and so on, otherwise in the order given."""
        means = self._means(stems)
        centres = cluster_centres(means)
        if not len(centres):
            return list(stems)
        taken: Counter[int] = Counter()
        turns = {}
        for stem, cluster in zip(stems, nearest_centres(means, centres).tolist(), strict=True):
            turns[stem] = taken[cluster]
            taken[cluster] += 1
        return sorted(stems, key=lambda stem: turns[stem])

    def _extend(self) -> None:
        """Add the images up to the next size: the decoder's least confident ones, the first ones at random."""
        open_ones = [stem for stem in self._shuffled if stem not in self._chosen]
        target = next((size for size in self.sizes if size > len(self._chosen)), len(self._pool))
        confidence = self._train([self._pool[stem] for stem in self._chosen]) if self._chosen else None
        if confidence is not None:
            sure = np.array([confidence(self._pool[stem]) for stem in open_ones])
            if self.kind == "novelty":
                places = lowest_first(sure, self._means(open_ones), self._means(self._chosen))
            else:
                places = np.argsort(sure, kind="stable").tolist()
            open_ones = [open_ones[i] for i in places]
            if self.kind == "clustered":
                open_ones = self._in_turn(open_ones)
        self._chosen = self._chosen + open_ones[: target - len(self._chosen)]
        atomic_write.write(self._path, json.dumps(self._chosen).encode())

    def _stored(self) -> list[str]:
        stems: list[str] = json.loads(self._path.read_text()) if self._path.is_file() else []
        return stems


def lowest_first(sure: NDArray[np.float64], points: NDArray[np.float32], known: NDArray[np.float32]) -> list[int]:
    """An order of open images by confidence (N,) times `familiarity`, the lowest first; each is known from then on."""
    scale, order, left = spacing(known), list[int](), np.ones(len(sure), bool)
    familiar = familiarity(points, known, scale)
    while left.any():
        order.append(int(np.where(left, sure * familiar, np.inf).argmin()))
        left[order[-1]] = False
        familiar = np.maximum(familiar, familiarity(points, points[order[-1:]], scale))
    return order

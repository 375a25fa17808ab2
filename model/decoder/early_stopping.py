"""Early stopping of a training, and scores that the validation images did not choose themselves.

docs/decisions/honest-validation.md
"""

import copy
from collections.abc import Sequence

from skylight.model.decoder.held_out import HeldOut
from skylight.model.decoder.network import DomainDecoder
from skylight.model.decoder.samples import Sample
from skylight.model.decoder.validation_split import parts


class BestCheckpoint:
    """Which of several checkpoints has the best score, and whether the training would have stopped since."""

    def __init__(self, patience: int) -> None:
        self.patience, self.count, self.index, self.score, self.stopped = patience, 0, 0, -1.0, False

    def add(self, score: float) -> bool:
        """Count the next checkpoint; gives whether it is the best so far."""
        if self.stopped:
            return False
        number, self.count = self.count, self.count + 1
        if score >= self.score:
            self.index, self.score = number, score
            return True
        self.stopped = number - self.index >= self.patience
        return False


class EarlyStopping:
    """The checkpoints of a training: the best one by all validation images, and by each half of them alone."""

    def __init__(self, validation: Sequence[Sample], patience: int) -> None:
        images = {sample.group for sample in validation}
        halves = parts(images, 2) if len(images) > 1 else []
        self._all = BestCheckpoint(patience)
        self._halves = [(half, BestCheckpoint(patience)) for half in halves]
        self._history: list[HeldOut] = []
        self.decoder: DomainDecoder
        self.step: int
        self.best: HeldOut

    def add(self, decoder: DomainDecoder, step: int, held: HeldOut) -> None:
        """Count a checkpoint: the decoder after a step, and its scores on some validation images."""
        for half, best in self._halves:
            best.add(held.mean_of(half))
        if self._all.add(held.scores.mean):
            self.decoder, self.step, self.best = copy.deepcopy(decoder), step, held
        self._history.append(held.scores_only())

    @property
    def stopped(self) -> bool:
        """Whether neither all images nor one of their halves waits for anything better."""
        return self._all.stopped and all(best.stopped for _, best in self._halves)

    def cross_fitted(self, held: HeldOut) -> HeldOut:
        """Scores of the selected decoder, but on each half of the images those of the other half's best checkpoint.

        Only of images that the checkpoints were measured on.
        """
        sources: dict[str, HeldOut] = {}
        for (half, _), (_, other) in zip(self._halves, self._halves[::-1], strict=True):
            sources |= {image: self._history[other.index] for image in half if image in self.best.images}
        return held.replace_scores(sources)

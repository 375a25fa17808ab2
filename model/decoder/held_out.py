"""Scores and calibration of a decoder on images that it was not trained on."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from skylight.model.decoder.calibration import CalibrationPixels, uncalibrated
from skylight.model.decoder.inference import predict_pixels
from skylight.model.decoder.network import DomainDecoder
from skylight.model.decoder.samples import Sample
from skylight.model.evaluation.metrics import LabelScores


class HeldOut:
    """Predictions of one or several decoders on images that they were not trained on, at temperature 1, scored."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.scores = LabelScores(labels)
        self.per_task: dict[str, float] = {}  # mean foreground IoU of each, over all its annotations
        self.image_of: dict[str, str] = {}  # the `Sample.group` of each task
        self.calibration = CalibrationPixels()
        self._by_task: dict[str, LabelScores] = {}
        self._by_image: dict[str, LabelScores] = {}

    @property
    def images(self) -> frozenset[str]:
        """The different images it was measured on, by `Sample.group`."""
        return frozenset(self._by_image)

    @property
    def error(self) -> float | None:
        """Standard error of `scores.mean` with these images, by leaving each out once; None with fewer than two.

        The jackknife (Efron & Stein 1981): the mean IoU is a ratio of sums, whose images are not alike.
        """
        count = len(self._by_image)
        if count < 2:
            return None
        without = np.array([self.scores.without(scores).mean for scores in self._by_image.values()])
        return float(np.sqrt((count - 1) * without.var()))

    def mean_of(self, images: Collection[str]) -> float:
        """Mean foreground IoU over some of the images; those that were not measured do not count."""
        scores = LabelScores(self.scores.labels)
        for image in images:
            if image in self._by_image:
                scores.include(self._by_image[image])
        return scores.mean

    def scores_only(self) -> "HeldOut":
        """The scores without the pixels for the calibration."""
        other = HeldOut(self.scores.labels)
        other.scores, other.image_of, other.per_task = self.scores, self.image_of, self.per_task
        other._by_task, other._by_image = self._by_task, self._by_image
        return other

    def replace_scores(self, sources: Mapping[str, "HeldOut"]) -> "HeldOut":
        """A copy with the scores of some images, by `Sample.group`, taken from others."""
        other = HeldOut(self.scores.labels)
        other.image_of, other.calibration = self.image_of, self.calibration
        for task, image in self.image_of.items():
            other._by_task[task] = sources.get(image, self)._by_task[task]
            other.per_task[task] = other._by_task[task].mean
        for image in self._by_image:
            other._by_image[image] = sources.get(image, self)._by_image[image]
            other.scores.include(other._by_image[image])
        return other

    def add(self, decoder: DomainDecoder, sample: Sample) -> None:
        """Score a decoder's prediction of a sample."""
        prediction = predict_pixels(uncalibrated(decoder), sample.embedding)
        winner = prediction.winner
        for scores, key in ((self._by_task, sample.task), (self._by_image, sample.group)):
            scores.setdefault(key, LabelScores(self.scores.labels)).add(winner, sample.label_map)
        self.scores.add(winner, sample.label_map)
        self.image_of[sample.task] = sample.group
        self.per_task[sample.task] = self._by_task[sample.task].mean
        self.calibration.add(sample.group, prediction, sample.label_map)

    def temperature(self, leaving_out: Collection[str] = ()) -> float:
        """As `CalibrationPixels.temperature`."""
        return self.calibration.temperature(leaving_out)

    def ece(self, temperature: float | None = None, least: float = 0.0) -> float:
        """As `CalibrationPixels.ece`."""
        return self.calibration.ece(temperature, least)


def validate(decoder: DomainDecoder, samples: Sequence[Sample], check: Callable[[], None] = lambda: None) -> HeldOut:
    """Measure a decoder on samples, at the images' own resolution and temperature 1.

    `check` is called before each sample and may raise.
    """
    held = HeldOut(decoder.config.labels)
    decoder.eval()
    for sample in samples:
        check()
        held.add(decoder, sample)
    return held

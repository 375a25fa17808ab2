"""Temperature scaling and calibration error of a decoder's probabilities, on pixels of held-out images.

Guo et al. 2017 (arXiv 1706.04599): the logits are divided by one temperature before they are probabilities.
"""

import copy
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from skylight.model.decoder.edge_refinement import FOREGROUND_LOGIT_BIAS, with_background
from skylight.model.decoder.inference import Prediction
from skylight.model.decoder.network import DomainDecoder
from skylight.model.decoder.validation_split import parts
from skylight.model.evaluation.metrics import Calibration
from skylight.model.masks.label_map import IGNORE

NEUTRAL_TEMPERATURE = 1.0  # of a decoder that was not calibrated
TEMPERATURES = np.geomspace(0.5, 5, 47)
PIXELS = 4096  # per image, at random
SAME_LOSS = 1e-9  # two temperatures whose losses differ by less are equally good


class CalibrationPixels:
    """Log-odds at temperature 1 and true classes of some pixels of held-out images."""

    def __init__(self) -> None:
        self.log_odds: dict[str, list[Tensor]] = {}  # by image: (K, N) of its labels at some of its pixels
        self.classes: dict[str, list[Tensor]] = {}  # by image: (N,) which of them, 1 for the first, is true; 0: none

    def add(self, image: str, prediction: Prediction, label_map: NDArray[np.uint8]) -> None:
        """Add random pixels of an image that are not ignored in its label map (H, W) uint8."""
        known = torch.from_numpy(np.flatnonzero(label_map.ravel() != IGNORE))
        drawn = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[:PIXELS]]
        log_odds, classes = _log_odds(prediction, label_map, drawn)
        self.log_odds.setdefault(image, []).append(log_odds)
        self.classes.setdefault(image, []).append(classes)

    def temperature(self, leaving_out: Collection[str] = ()) -> float:
        """The temperature with the least cross-entropy over the pixels of all other images.

        `NEUTRAL_TEMPERATURE` if there are none. Of several that are as good, the one nearest to it.
        """
        images = [image for image in self.log_odds if image not in leaving_out]
        pairs = [pair for image in images for pair in zip(self.log_odds[image], self.classes[image], strict=True)]
        if not sum(len(classes) for _, classes in pairs):
            return NEUTRAL_TEMPERATURE
        classes = torch.cat([classes for _, classes in pairs])
        log_odds = torch.cat([log_odds for log_odds, _ in pairs], 1)
        losses = np.array([float(F.cross_entropy(with_background(log_odds / t).T, classes)) for t in TEMPERATURES])
        good = np.flatnonzero(losses <= losses.min() + SAME_LOSS)
        if not len(good):  # all losses are NaN
            return NEUTRAL_TEMPERATURE
        return float(min(TEMPERATURES[good], key=lambda temperature: abs(np.log(temperature / NEUTRAL_TEMPERATURE))))

    def ece(self, temperature: float | None = None, least: float = 0.0) -> float:
        """Expected calibration error, in [0, 1], of the probabilities at a temperature.

        Without one, of each half of the images at the temperature that the other half gives, or `least` if that is
        higher.
        """
        calibration = Calibration()
        count = 1 if temperature is not None or len(self.log_odds) < 2 else 2
        for part in parts(self.log_odds, count):
            divisor = max(self.temperature(part), least) if temperature is None else temperature
            for image in part:
                for log_odds, classes in zip(self.log_odds[image], self.classes[image], strict=True):
                    probabilities = with_background(log_odds / divisor).softmax(0).numpy()[:, None]
                    calibration.add(probabilities, classes.numpy().astype(np.uint8)[None])
        return calibration.ece


def _log_odds(prediction: Prediction, label_map: NDArray[np.uint8], pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-odds (K, N) of labels at some pixels (N,) of an image, and which of them, 1 for the first, is true there.

    Where the prediction ranks only some labels at each pixel, the last of the K stands for the others together.
    """
    probabilities = torch.from_numpy(prediction.probabilities).flatten(1)[:, pixels]
    truth = torch.from_numpy(label_map.ravel()[pixels.numpy()].astype(np.int64))
    if prediction.classes is not None:
        rest = (1 - probabilities.sum(0, keepdim=True)).clamp(min=0)
        probabilities = torch.cat([probabilities, rest])
        same = torch.from_numpy(prediction.classes).flatten(1)[1:, pixels] == truth
        truth = torch.where(truth == 0, 0, torch.where(same.any(0), same.int().argmax(0) + 1, len(same) + 1))
    logarithms = probabilities.clamp(min=1e-6).log()
    return logarithms[1:] - logarithms[:1] - FOREGROUND_LOGIT_BIAS, truth


def uncalibrated(decoder: DomainDecoder) -> DomainDecoder:
    """The same weights at temperature 1."""
    if decoder.config.temperature == NEUTRAL_TEMPERATURE:
        return decoder
    other = copy.copy(decoder)
    other.config = replace(decoder.config, temperature=NEUTRAL_TEMPERATURE)
    return other

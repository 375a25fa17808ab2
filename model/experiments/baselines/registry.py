"""The methods that a domain decoder is compared with, each trained on the same few images and masks.

They are meant to be as good as a competent user gets them: each sees the image at the size it would in use, and those
that decide pixel by pixel have a bias towards rare labels that is best for the IoU (`best_bias`). Most need the extra
`simulate`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from skylight.model.experiments.baselines.base import Baseline, Example, check_examples
from skylight.model.experiments.baselines.decision_bias import best_bias, biased_argmax
from skylight.model.experiments.baselines.linear_probe import Probe
from skylight.model.experiments.baselines.random_forest import Forest
from skylight.model.experiments.baselines.unet import UNetConfig, apply_unet, build_unet, train_unet
from skylight.model.sam.types import Embedding

SMOOTHING = 2.0  # levels of brightness; a histogram of few pixels is ragged


class UNetBaseline:
    """A U-Net, from scratch or with an encoder that was pretrained on ImageNet."""

    def __init__(self, config: UNetConfig = UNetConfig()) -> None:  # noqa: B008 (frozen)
        self.config = config

    @property
    def recipe(self) -> str:
        """As `Baseline.recipe`; with the size of the network for one label."""
        return f"{self.config!r}, {sum(p.numel() for p in build_unet(1, self.config).parameters())} parameters"

    def fit(self, examples: Sequence[Example], labels: int, seed: int) -> None:
        """As `Baseline.fit`."""
        check_examples(examples, labels)
        self.network = train_unet([(each.image, each.label_map) for each in examples], labels, self.config, seed)

    def predict(self, image: NDArray[np.uint8], embedding: Embedding) -> NDArray[np.uint8]:
        """As `Baseline.predict`; the embedding is not used."""
        return apply_unet(self.network, image, self.config.side)


class Threshold:
    """A threshold on brightness for one label; the likeliest class of each brightness for several."""

    @property
    def recipe(self) -> str:
        """As `Baseline.recipe`."""
        return f"Threshold(smoothing={SMOOTHING})"

    def fit(self, examples: Sequence[Example], labels: int, seed: int) -> None:
        """As `Baseline.fit`; it is deterministic, so `seed` is not used."""
        check_examples(examples, labels)
        counts = np.zeros((labels + 1, 256))  # pixels of each class at each level
        for each in examples:
            level = brightness(each.image)
            for k in range(labels + 1):
                counts[k] += np.bincount(level[each.label_map == k], minlength=256)
        self.class_of = best_cut(counts[0], counts[1]) if labels == 1 else best_levels(counts)

    def predict(self, image: NDArray[np.uint8], embedding: Embedding) -> NDArray[np.uint8]:
        """As `Baseline.predict`; the embedding is not used."""
        label_map: NDArray[np.uint8] = self.class_of[brightness(image)]
        return label_map


BASELINES: Mapping[str, Callable[[], Baseline]] = {
    "unet": UNetBaseline,
    "unet_imagenet": lambda: UNetBaseline(UNetConfig(imagenet=True)),
    "forest": Forest,
    "probe": Probe,
    "threshold": Threshold,
}


def best_cut(background: NDArray[np.float64], inside: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Class, 0 or 1, of each level (256,): all above or all below the cut with the best IoU; counts (256,) each."""
    levels = np.arange(256)
    cuts = [levels < 0, *(levels <= t for t in range(256)), *(levels > t for t in range(256))]
    reached = [inside[cut].sum() / max(inside.sum() + background[cut].sum(), 1) for cut in cuts]
    return cuts[int(np.argmax(reached))].astype(np.uint8)


def best_levels(counts: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Class (256,) of each level from counts (C, 256) of every class's pixels, by the bias best for the mean IoU."""
    share = ndimage.gaussian_filter1d(counts, SMOOTHING, axis=1, mode="nearest").T + 1e-9
    share /= share.sum(1, keepdims=True)
    classes = np.repeat(np.arange(len(counts)), 256).astype(np.uint8)
    bias, _ = best_bias(np.tile(share, (len(counts), 1)), classes, counts.ravel())
    return biased_argmax(share, bias)


def brightness(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma (H, W) uint8 of an image (H, W, 3) uint8 RGB (ITU-R 601)."""
    return np.asarray(Image.fromarray(image).convert("L"))

"""Scores of a trained method on a pack's test images: pixels, boundaries, instances, seconds and effort."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.model.decoder.inference import Instance, instances, predict_pixels
from skylight.model.decoder.network import DomainDecoder
from skylight.model.decoder.sam_refinement import refine
from skylight.model.evaluation.metrics import Calibration, InstanceScores, LabelScores, boundary_f
from skylight.model.experiments import annotation_cost
from skylight.model.experiments.simulated_annotator import SMALLEST, Annotated
from skylight.model.masks.components import components
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Embedding


@dataclass(frozen=True)
class EmbeddedImage:
    """An image with its embedding: (H, W, 3) uint8 RGB, its true instances (H, W) uint16, its embedding."""

    stem: str
    image: NDArray[np.uint8]
    truth: NDArray[np.uint16]
    embedding: Embedding
    digest: str


class MethodScores:
    """Scores of a method's predictions for the test images; with `refiner`, also of its regions refined by that SAM."""

    def __init__(self, labels: Sequence[str], refiner: Segmenter | None = None) -> None:
        self._refiner = refiner
        self._pixels = LabelScores(labels)
        self._rims: list[float] = []
        self._seconds: list[float] = []
        self._calibration = Calibration()
        self._instances: dict[str, InstanceScores] = {}  # by what comes before a column's name
        self._efforts: list[list[float]] = []

    def add(self, predictor: Any, image: EmbeddedImage) -> None:
        """Score a baseline on an image."""
        started = time.perf_counter()
        found = predictor.predict(image.image, image.embedding)
        self._seconds.append(time.perf_counter() - started)
        self._count(found, image)

    def add_decoder(self, decoder: DomainDecoder, image: EmbeddedImage, clicked: Annotated | None) -> None:
        """Score a decoder on an image and its instances; with `clicked`, also the seconds to correct them."""
        started = time.perf_counter()
        prediction = predict_pixels(decoder, image.embedding)
        found = prediction.winner
        self._seconds.append(time.perf_counter() - started)
        self._count(found, image)
        self._calibration.add(prediction.probabilities, (image.truth > 0).astype(np.uint8))
        regions = list(instances(prediction, SMALLEST))
        self._compare("", regions, image)
        sure = prediction.probabilities[1]
        parts = components(found > 0, SMALLEST)
        masks = [parts == number for number in range(1, int(parts.max()) + 1)]
        self._compare("parts_", [Instance(0, mask, float(sure[mask].mean())) for mask in masks], image)
        if self._refiner is not None:
            self._compare("refined_", list(refine(self._refiner, image.embedding, prediction, regions)), image)
        if clicked is not None:
            self._efforts.append(efforts([region.mask for region in regions], image.truth, clicked))

    def _compare(self, kind: str, regions: Sequence[Instance], image: EmbeddedImage) -> None:
        scores = self._instances.setdefault(kind, InstanceScores())
        scores.add([region.mask for region in regions], [region.score for region in regions], image.truth)

    def _count(self, found: NDArray[np.uint8], image: EmbeddedImage) -> None:
        truth = image.truth > 0
        self._pixels.add(found, truth.astype(np.uint8))
        self._rims.append(boundary_f(found > 0, truth))

    def scores(self) -> dict[str, Any]:
        """The columns of a `Row` about the test images."""
        hand, clicks, preannotated, settled = np.mean(self._efforts, axis=0).tolist() if self._efforts else [None] * 4
        objects: dict[str, Any] = {}
        for kind in ("", "parts_", "refined_"):
            found = self._instances.get(kind)
            objects |= {f"{kind}ap50": found and found.ap50, f"{kind}pq": found and found.panoptic_quality}
        return {
            "test_images": self._pixels.images,
            "iou": self._pixels.mean,
            "boundary_f": float(np.mean(self._rims)),
            "ece": self._calibration.ece if self._instances else None,
            **objects,
            "predict_seconds": float(np.mean(self._seconds)),
            "hand_seconds": hand,
            "sam_seconds": clicks,
            "preannotated_seconds": preannotated,
            "settled_seconds": settled,
        }


def efforts(found: Sequence[NDArray[np.bool_]], truth: NDArray[np.uint16], clicked: Annotated) -> list[float]:
    """Seconds for one image: outlined by hand, by clicks alone, by correcting the regions, or only the worse ones."""
    by_hand = [
        annotation_cost.outline_log(annotation_cost.outline_vertices(truth == number)) for number in clicked.reached
    ]
    by_clicks = [annotation_cost.click_log(turns) for turns in clicked.reached.values()]
    reviews = [annotation_cost.review_log(found, truth, clicked.reached, settle) for settle in (False, True)]
    return [
        annotation_cost.seconds(log)
        for log in (annotation_cost.image_log(by_hand), annotation_cost.image_log(by_clicks), *reviews)
    ]


def prompt_scores(given: Sequence[Annotated]) -> dict[str, Any]:
    """The columns of a `Row` about the annotated images: what they cost and how good their masks are."""
    accepted = [value for each in given for value in each.accepted]
    clicks = sum(each.clicks for each in given)
    return {
        "objects": len(accepted),
        "clicks": clicks / len(accepted) if accepted else None,
        "prompt_iou": float(np.mean(accepted)) if accepted else None,
    }

"""How one trained method does on a pack's test images: pixels, rims, instances, seconds and effort."""

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
class Subject:
    """An image at work: (H, W, 3) uint8 RGB, its true instances (H, W) uint16, its embedding."""

    stem: str
    image: NDArray[np.uint8]
    truth: NDArray[np.uint16]
    embedding: Embedding
    digest: str


class Trial:
    """What one trained method said of the test images; with `refiner`, also what that SAM makes of instances."""

    def __init__(self, labels: Sequence[str], refiner: Segmenter | None = None) -> None:
        self._refiner = refiner
        self._pixels = LabelScores(labels)
        self._rims: list[float] = []
        self._seconds: list[float] = []
        self._calibration = Calibration()
        self._instances: dict[str, InstanceScores] = {}  # by what comes before a column's name
        self._efforts: list[list[float]] = []

    def ask(self, predictor: Any, subject: Subject) -> None:
        """Ask an alternative about an image."""
        started = time.perf_counter()
        found = predictor.predict(subject.image, subject.embedding)
        self._seconds.append(time.perf_counter() - started)
        self._count(found, subject)

    def ask_decoder(self, decoder: DomainDecoder, subject: Subject, clicked: Annotated | None) -> None:
        """Ask a decoder about an image and its instances; with `clicked`, also how long putting them right takes."""
        started = time.perf_counter()
        prediction = predict_pixels(decoder, subject.embedding)
        found = prediction.winner
        self._seconds.append(time.perf_counter() - started)
        self._count(found, subject)
        self._calibration.add(prediction.probabilities, (subject.truth > 0).astype(np.uint8))
        regions = list(instances(prediction, SMALLEST))
        self._compare("", regions, subject)
        sure = prediction.probabilities[1]
        parts = components(found > 0, SMALLEST)
        masks = [parts == number for number in range(1, int(parts.max()) + 1)]
        self._compare("parts_", [Instance(0, mask, float(sure[mask].mean())) for mask in masks], subject)
        if self._refiner is not None:
            self._compare("refined_", list(refine(self._refiner, subject.embedding, prediction, regions)), subject)
        if clicked is not None:
            self._efforts.append(efforts([region.mask for region in regions], subject.truth, clicked))

    def _compare(self, kind: str, regions: Sequence[Instance], subject: Subject) -> None:
        scores = self._instances.setdefault(kind, InstanceScores())
        scores.add([region.mask for region in regions], [region.score for region in regions], subject.truth)

    def _count(self, found: NDArray[np.uint8], subject: Subject) -> None:
        truth = subject.truth > 0
        self._pixels.add(found, truth.astype(np.uint8))
        self._rims.append(boundary_f(found > 0, truth))

    def scores(self) -> dict[str, Any]:
        """The columns of a `Row` that a trial gives."""
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
    """Seconds for one image: outlined by hand, by clicks alone, by putting the found regions right, or settling."""
    by_hand = [
        annotation_cost.outlined(annotation_cost.outline_vertices(truth == number)) for number in clicked.reached
    ]
    by_clicks = [annotation_cost.prompted(turns) for turns in clicked.reached.values()]
    reviews = [annotation_cost.reviewed(found, truth, clicked.reached, settle) for settle in (False, True)]
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

"""A trial of a decoder: its probabilities, and its instances beside connected components and what SAM makes of them."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

from skylight.model.decoder.inference import Prediction
from skylight.model.experiments import method_scores
from skylight.model.experiments.method_scores import EmbeddedImage, MethodScores
from skylight.model.masks.distance_transform import distance_targets
from skylight.model.sam.types import Embedding, Prompt, Segmentation

SIZE = (64, 64)
TRUTH = np.zeros(SIZE, np.uint16)
TRUTH[20:40, 10:30], TRUTH[20:40, 30:50] = 1, 2  # two squares that touch
BLACK = np.zeros((*SIZE, 3), np.uint8)
SUBJECT = EmbeddedImage("a", BLACK, TRUTH, Embedding(np.zeros((256, 8, 8), np.float16), SIZE, BLACK), "")


def slope(mask: NDArray[np.bool_], steepness: float) -> NDArray[np.float64]:
    """Logits that cross 0 at a mask's rim."""
    return steepness * (ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask))


class Knowing:
    """A SAM that gives the square under the click, its rim steep."""

    def segment(self, embedding: Embedding, prompt: Prompt, logits: Any = None, candidates: int = 3) -> Segmentation:
        x, y = prompt.points[0].astype(int)
        mask = TRUTH[y, x] == TRUTH
        low = ndimage.zoom(slope(mask, 4.0), 0.5, order=1).astype(np.float32)
        return Segmentation(mask[None], np.array([0.9], np.float32), low[None])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> MethodScores:
    """A trial of a decoder that found both squares, but for a pixel all around, in one piece."""
    found = ndimage.binary_erosion(TRUTH > 0)
    sure = expit(slope(found, 0.2)).astype(np.float32)
    distance = distance_targets(TRUTH, *SIZE)
    monkeypatch.setattr(
        method_scores, "predict_pixels", lambda *given: Prediction(np.stack([1 - sure, sure]), distance, frozenset({0}))
    )
    made = MethodScores(["square"], Knowing())  # type: ignore[arg-type]
    made.add_decoder(None, SUBJECT, None)  # type: ignore[arg-type]
    return made


def test_touching_objects_are_one_component_and_two_instances(asked: MethodScores) -> None:
    scores = asked.scores()
    assert scores["ap50"] == 1 and 0.8 < scores["pq"] < 1
    assert scores["parts_ap50"] == 0 and scores["parts_pq"] == 0  # half of it is the other square


def test_sam_sharpens_them(asked: MethodScores) -> None:
    scores = asked.scores()
    assert scores["refined_ap50"] == 1 and scores["refined_pq"] == 1


def test_a_decoder_that_is_less_sure_than_right_is_not_calibrated(asked: MethodScores) -> None:
    scores = asked.scores()
    sure = np.maximum(*(expit(sign * slope(ndimage.binary_erosion(TRUTH > 0), 0.2)) for sign in (1, -1)))
    right = np.mean(ndimage.binary_erosion(TRUTH > 0) == (TRUTH > 0))
    assert 0.05 < scores["ece"] < 0.5 and scores["ece"] >= abs(right - sure.mean()) - 1e-6


def test_without_a_sam_none_is_asked(asked: MethodScores) -> None:
    alone = MethodScores(["square"])
    alone.add_decoder(None, SUBJECT, None)  # type: ignore[arg-type]
    assert alone.scores()["refined_pq"] is None and alone.scores()["pq"] == asked.scores()["pq"]

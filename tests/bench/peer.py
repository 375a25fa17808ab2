"""A click by segment-anything's SamPredictor, the SDK's mask2rle and json: the yardstick of goals that were set in ms.

Those goals are from a machine where Label Studio's SAM example answered a click on 1024 px in `CLICK` ms. Machines
differ by a factor of three, so what is held against a goal is a share of this click on the machine at hand, in the same
run.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from label_studio_sdk.converter.brush import mask2rle
from numpy.typing import NDArray
from segment_anything import SamPredictor

from skylight.model.sam.mobile_sam import build_mobile_sam
from tests.bench.serving import scene
from tests.bench.timing import Times, interleaved
from tests.support.random_weights import random_weights

CLICK = 115.0  # ms
SIDE = 1024
ROUNDS = 10


def answer(predictor: SamPredictor, points: NDArray[Any], positive: NDArray[Any]) -> str:
    """The best mask for some points on the predictor's image, as JSON."""
    masks, scores, _ = predictor.predict(points, positive.astype(int), multimask_output=True)
    return json.dumps({"rle": mask2rle(masks[scores.argmax()].astype(np.uint8) * 255), "score": float(scores.max())})


def clicking() -> Callable[[], str]:
    """Such a click on 1024 px, with a mask decoder on a 64 x 64 grid, of weights of chance."""
    network = build_mobile_sam()
    network.load_state_dict(random_weights(network, 3))
    predictor = SamPredictor(network)
    predictor.set_image(scene(SIDE))
    return lambda: answer(predictor, np.array([[0.4 * SIDE, 0.6 * SIDE]]), np.array([1]))


def times() -> Times:
    """Some of them now."""
    return interleaved({"": clicking()}, ROUNDS)[""]

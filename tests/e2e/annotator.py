"""A simulated annotator: knows the truth, and works through Label Studio as the editor does."""

import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.backend.labelstudio.client import LabelStudio
from skylight.model.evaluation.metrics import iou
from skylight.model.evaluation.simulated_clicks import correction_click
from skylight.model.experiments.annotation_cost import SATISFIED
from skylight.model.experiments.simulated_annotator import CORRECTIONS, SMALLEST
from skylight.model.masks.brush_rle import decode_rle
from skylight.model.masks.geometry import interior_point
from tests.support.interactive import send_click

Mask = NDArray[np.bool_]


@dataclass
class Log:
    """What one annotator did."""

    clicks: list[int] = field(default_factory=list)  # per object
    first: list[float] = field(default_factory=list)  # IoU after one click
    third: list[float] = field(default_factory=list)  # best IoU within three clicks


def annotate(
    client: LabelStudio, backend: int, task: int, objects: list[Mask], label: str, log: Log, rng: np.random.Generator
) -> None:
    """Click every object of a task, correct, accept, and submit the task."""
    accepted = [
        region
        for mask in objects
        if mask.sum() >= SMALLEST and (region := click(client, backend, task, mask, label, log, rng))
    ]
    client.create_annotation(task, accepted)


def click(
    client: LabelStudio, backend: int, task: int, truth: Mask, label: str, log: Log, rng: np.random.Generator
) -> dict[str, Any] | None:
    """The region that the annotator accepts for one object: the best it saw, as it would undo a bad correction."""
    height, width = truth.shape
    clicks = [(*interior_point(truth, rng, central=True), True)]
    best: tuple[float, dict[str, Any] | None] = (0.0, None)
    reached = []
    for _ in range(1 + CORRECTIONS):
        context = {"result": [key_point(x, y, positive, width, height, label) for x, y, positive in clicks]}
        answer = send_click(client, backend, task, context)["result"]
        mask = region_mask(answer[0]) if answer else np.zeros_like(truth)
        reached.append(iou(mask, truth))
        if answer and reached[-1] > best[0]:
            best = reached[-1], answer[0]
        wrong = correction_click(mask, truth, rng)
        if reached[-1] >= SATISFIED or wrong is None:
            break
        clicks.append(wrong)
    log.clicks.append(len(reached))
    log.first.append(reached[0])
    log.third.append(max(reached[:3]))
    return best[1]


def key_point(x: float, y: float, positive: bool, width: int, height: int, label: str) -> dict[str, Any]:
    """A smart key point as the editor sends it; x, y in px of the image."""
    return {
        "id": uuid.uuid4().hex[:10],
        "from_name": "point",
        "to_name": "image",
        "type": "keypointlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "is_positive": positive,
        "value": {"x": 100 * x / width, "y": 100 * y / height, "width": 0.3, "keypointlabels": [label]},
    }


def region_mask(region: dict[str, Any]) -> Mask:
    """The mask of a brush region, (H, W) bool."""
    mask: Mask = decode_rle(region["value"]["rle"], region["original_height"], region["original_width"]) > 127
    return mask

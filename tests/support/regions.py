"""Regions of Label Studio as annotators draw them, made from masks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.backend.labelstudio.label_config import Labeling
from skylight.backend.labelstudio.region_writer import draw_regions


def make_region(labeling: Labeling, mask: NDArray[np.bool_], label: str, score: float, id: str = "") -> dict[str, Any]:
    """The region of a (H, W) bool mask by the control that has the label; of several pieces the biggest."""
    output = labeling.output(label)
    region = draw_regions(output, mask, output.own_label(label), score)[0]
    return {**region, "id": id or region["id"]}

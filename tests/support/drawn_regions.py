"""Regions of every kind of control, drawn from smooth masks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.backend.labelstudio.label_config import Labeling, parse_config
from skylight.backend.labelstudio.region_writer import draw_regions
from tests.support.editor import CONFIG, LABELS

Mask = NDArray[np.bool_]


EVERY = CONFIG.replace("</View>", "") + "".join(
    f'<{kind}Labels name="{kind}" toName="image" closable="true">{LABELS}</{kind}Labels>'
    for kind in ("Bitmask", "Polygon", "Vector")
)


EVERY += "</View>"


def labeling_for(kind: str) -> Labeling:
    return parse_config(EVERY, kind)


def regions(kind: str, mask: Mask, label: str = "Object", **more: Any) -> list[dict[str, Any]]:
    return draw_regions(labeling_for(kind).output(label), mask, label, 0.5, **more)


def blob(seed: int, height: int, width: int) -> Mask:
    """One smooth thing, possibly with a hole."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.uniform(0.25, 0.75, 2) * (height, width)
    distance, angle = np.hypot(y - cy, x - cx), np.arctan2(y - cy, x - cx)
    radius = rng.uniform(0.15, 0.45) * min(height, width)
    wave = 1 + rng.uniform(0, 0.3) * np.sin(rng.integers(2, 5) * angle + rng.uniform(0, 6))
    hole = distance < radius * rng.choice([0, 0.4])
    found: Mask = (distance < radius * wave) & ~hole
    return found

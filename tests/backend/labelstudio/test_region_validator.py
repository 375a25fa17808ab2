"""Regions that may not be sent, and why."""

from typing import Any

import numpy as np
import pytest

from skylight.backend.errors import InvalidRegion
from skylight.backend.labelstudio.region_validator import check_regions
from skylight.backend.settings import OUTPUTS
from tests.support.drawn_regions import blob, labeling_for, regions
from tests.support.editor import SIZE

GOOD = {kind: regions(kind, blob(3, *SIZE))[0] for kind in OUTPUTS}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": ""}, "no id"),
        ({"id": None}, "no id"),
        ({"from_name": "kp"}, "'kp' takes no"),
        ({"to_name": "other"}, "of 'other'"),
        ({"type": "ellipselabels"}, "ellipselabels"),
        ({"original_width": 81}, "81"),
        ({"original_height": 60.5}, "60.5"),
        ({"score": float("nan")}, "score is nan"),
        ({"score": None}, "score"),
        ({"score": 1.1}, "score is 1.1"),
        ({"item_index": -1}, "item_index"),
        ({"value": None}, "takes no"),
    ],
)
def test_a_region_that_must_not_leave_is_held_back(kind: str, change: dict[str, Any], words: str) -> None:
    labeling = labeling_for(kind)
    check_regions([GOOD[kind]], labeling, SIZE)
    with pytest.raises(InvalidRegion, match=words):
        check_regions([GOOD[kind] | change], labeling, SIZE)


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("brush", {"rle": regions("brush", np.ones((60, 81), bool))[0]["value"]["rle"]}, "RLE"),
        ("bitmask", {"imageDataURL": regions("bitmask", np.ones((61, 80), bool))[0]["value"]["imageDataURL"]}, "PNG"),
        ("polygon", {"points": [[0, 0], [1, float("inf")], [2, 2]]}, "inf %"),
        ("polygon", {"points": [[0, 0], [1, 100.1], [2, 2]]}, "100.1 %"),
        ("polygon", {"points": [[0, 0], [1, 1]]}, "2 points"),
        ("vector", {"vertices": [{"id": "a", "x": 1, "y": 1}, {"id": "a", "x": 1, "y": 2}]}, "same id"),
        ("vector", {"vertices": [{"id": i, "x": -1, "y": 1} for i in "abc"]}, "-1 %"),
        ("rectangle", {"width": 0}, "sides"),
        ("rectangle", {"x": 99.0}, "%"),
        ("rectangle", {"x": float("nan")}, "nan %"),
        ("brush", {"brushlabels": ["Cat"]}, "no label"),
        ("polygon", {"polygonlabels": []}, "no label"),
    ],
)
def test_a_shape_that_must_not_leave_is_held_back(kind: str, value: dict[str, Any], words: str) -> None:
    wrong = GOOD[kind] | {"value": GOOD[kind]["value"] | value}
    with pytest.raises(InvalidRegion, match=words):
        check_regions([wrong], labeling_for(kind), SIZE)


def test_two_regions_of_one_id_are_held_back() -> None:
    with pytest.raises(InvalidRegion, match="two regions"):
        check_regions([GOOD["brush"], GOOD["polygon"] | {"id": GOOD["brush"]["id"]}], labeling_for("brush"), SIZE)

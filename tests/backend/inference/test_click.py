"""What is on a task already."""

from typing import Any

import numpy as np
import pytest

from skylight.backend.inference.click import covered_pixels
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.labelstudio.prompts import ClickRequest, read_prompt
from tests.support.editor import CONFIG, SIZE, box, brushed, point

LABELING = parse_config(CONFIG)
LEFT, TOP = np.zeros((2, *SIZE), bool)
LEFT[:, :20], TOP[:10] = True, True


def asked(**more: Any) -> ClickRequest:
    found = read_prompt([point(50, 50, **more)], LABELING)
    assert found is not None
    return found


def on(task: dict[str, Any], **more: Any) -> list[str]:
    """Which of the two masks a task is said to have."""
    found = covered_pixels(task, asked(**more), LABELING)
    assert found.shape == SIZE
    names = [name for name, mask in (("left", LEFT), ("top", TOP)) if (found & mask).sum() == mask.sum()]
    assert found.sum() == sum(({"left": LEFT, "top": TOP}[n] for n in names), np.zeros(SIZE, bool)).astype(bool).sum()
    return names


def annotation(*regions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": 7, "result": list(regions), **more}


def test_masks_of_annotations_and_drafts_count() -> None:
    task = {"annotations": [annotation(brushed(LEFT))], "drafts": [annotation(brushed(TOP), annotation=None)]}
    assert on(task) == ["left", "top"]
    assert on({}) == on({"annotations": None, "drafts": []}) == []


def test_an_annotation_that_is_being_changed_counts_as_its_draft_says() -> None:
    task = {"annotations": [annotation(brushed(LEFT))], "drafts": [annotation(brushed(TOP), id=1, annotation=7)]}
    assert on(task) == ["top"]


def test_skipped_annotations_and_predictions_do_not_count() -> None:
    assert on({"annotations": [annotation(brushed(LEFT), was_cancelled=True)]}) == []
    assert on({"predictions": [annotation(brushed(LEFT))]}) == []


@pytest.mark.parametrize(
    "region",
    [
        brushed(LEFT, label="Object"),
        brushed(LEFT, to_name="other"),
        brushed(LEFT, item_index=1),
        box(0, 0, 25, 100),  # a prompt that was left
        point(10, 10),
    ],
)
def test_other_labels_other_images_and_prompts_do_not_count(region: dict[str, Any]) -> None:
    assert on({"annotations": [annotation(region, brushed(TOP))]}) == ["top"]


def test_of_several_images_the_one_clicked_counts() -> None:
    task = {"annotations": [annotation(brushed(LEFT, item_index=1), brushed(TOP, item_index=0))]}
    assert on(task, item_index=1) == ["left"]


@pytest.mark.parametrize(
    "damage", [{"value": None}, {"original_width": 79}, {"value": {"brushlabels": ["Dog"], "rle": [1]}}]
)
def test_what_cannot_be_read_is_left_out(damage: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    assert on({"id": 3, "annotations": [annotation(brushed(LEFT) | damage, brushed(TOP))]}) == ["top"]
    assert "task 3" in caplog.text

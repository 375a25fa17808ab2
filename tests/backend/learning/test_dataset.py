"""Which annotations are learned from, and as what."""

import numpy as np
import pytest

from skylight.backend.learning.dataset import accepted, by_task, remap
from skylight.backend.store.samples import SampleRecord
from skylight.model.masks.label_map import IGNORE


def record(annotation: int, task: int = 1, when: int = 0, image: str = "a", **marks: bool) -> SampleRecord:
    stamp = f"2026-11-22T10:00:{when:02d}.000000Z"
    return SampleRecord(annotation, task, stamp, "/x.png", image, (8, 8), ("Pit",), 1, **marks)


def ids(records: list[SampleRecord]) -> list[int]:
    return [each.annotation for each in records]


@pytest.mark.parametrize(("accept", "expected"), [("submitted", [1, 2, 3]), ("ground_truth", [2]), ("reviewed", [3])])
def test_the_setting_says_which_annotations_count(accept: str, expected: list[int]) -> None:
    records = [record(1), record(2, ground_truth=True), record(3, reviewed=True)]
    assert ids(accepted(records, accept)) == expected


def test_of_each_task_the_newest_annotation_is_learned_from() -> None:
    records = [record(1, 2, when=5), record(2, 1, when=4), record(3, 2, when=1), record(4, 1, when=4)]
    assert [ids(task) for task in by_task(records, "newest")] == [[4], [1]]


def test_for_a_majority_all_annotations_of_a_task_count_the_newest_first() -> None:
    records = [record(1, 2, when=1), record(2, 1), record(3, 2, when=3), record(4, 2, when=2)]
    assert [ids(task) for task in by_task(records, "majority")] == [[2], [3, 4, 1]]


def test_annotations_of_an_image_that_was_replaced_have_no_vote() -> None:
    records = [record(1, when=1, image="old"), record(2, when=2, image="new"), record(3, when=3, image="new")]
    assert [ids(task) for task in by_task(records, "majority")] == [[3, 2]]


def test_a_label_map_is_put_in_the_labels_of_now():
    drawn = np.array([[0, 1, 2, 3, IGNORE]], np.uint8)
    assert remap(drawn, ("a", "b", "c"), ("a", "b", "c")) is drawn
    assert remap(drawn, ("a", "b", "c"), ("c", "x", "a")).tolist() == [[0, 3, IGNORE, 1, IGNORE]]
    assert remap(drawn, ("a", "b", "c"), ("a", "b", "c", "d")).tolist() == drawn.tolist()

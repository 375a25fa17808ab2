"""The simulated annotator, and the cache of its work."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skylight.model.experiments.simulated_annotator import MOST_OBJECTS, Annotated, annotate, cached, click, fingerprint
from skylight.model.masks.label_map import IGNORE
from skylight.model.sam.segmenter import Embedding, Prompt, Segmentation

RNG = np.random.default_rng(0)


def rectangle(y0: int, x0: int, y1: int, x1: int, side: int = 64) -> NDArray[np.bool_]:
    mask = np.zeros((side, side), bool)
    mask[y0:y1, x0:x1] = True
    return mask


class Scripted:
    """Answers the first, second, ... prompt of an object with the first, second, ... mask, and keeps the prompts."""

    def __init__(self, *masks: NDArray[np.bool_]) -> None:
        self.masks, self.prompts = masks, []

    def segment(self, embedding: Embedding, prompt: Prompt, logits: Any = None, candidates: int = 3) -> Segmentation:
        self.prompts.append(prompt)
        mask = self.masks[min(len(prompt.points), len(self.masks)) - 1]
        return Segmentation(mask[None], np.ones(1, np.float32), np.zeros((1, 4, 4), np.float32))


def embedding(side: int = 64) -> Embedding:
    return Embedding(np.zeros((256, 2, 2), np.float16), (side, side), np.zeros((16, 16, 3), np.uint8))


TRUTH = rectangle(10, 10, 30, 30)


def test_the_first_click_is_in_the_middle_and_a_good_mask_is_accepted_at_once() -> None:
    sam = Scripted(rectangle(10, 10, 30, 29))
    mask, reached = click(sam, embedding(), TRUTH, RNG)
    assert reached == [0.95] and np.array_equal(mask, sam.masks[0])
    x, y = sam.prompts[0].points[0]
    assert 19 <= x <= 20 and 19 <= y <= 20


def test_a_poor_mask_is_corrected_where_it_is_most_wrong() -> None:
    sam = Scripted(rectangle(10, 10, 30, 18), TRUTH)
    mask, reached = click(sam, embedding(), TRUTH, RNG)
    assert reached == [0.4, 1] and np.array_equal(mask, TRUTH)
    assert sam.prompts[1].positive.tolist() == [True, True]
    assert sam.prompts[1].points[1][0] >= 18


def test_after_three_corrections_the_best_mask_seen_is_accepted() -> None:
    poor, better, worse = rectangle(10, 10, 30, 14), rectangle(10, 10, 30, 22), rectangle(10, 10, 30, 16)
    mask, reached = click(Scripted(poor, better, worse), embedding(), TRUTH, RNG)
    assert reached == [0.2, 0.6, 0.3, 0.3] and np.array_equal(mask, better)


def test_masks_that_never_touch_the_object_are_rejected() -> None:
    mask, reached = click(Scripted(rectangle(40, 40, 50, 50)), embedding(), TRUTH, RNG)
    assert mask is None and reached == [0, 0, 0, 0]


class Perfect:
    """Knows the instances: answers with the one under the first click."""

    def __init__(self, truth: NDArray[np.uint16]) -> None:
        self.truth = truth

    def segment(self, embedding: Embedding, prompt: Prompt, logits: Any = None, candidates: int = 3) -> Segmentation:
        x, y = prompt.points[0].astype(int)
        mask = self.truth == self.truth[y, x]
        return Segmentation(mask[None], np.ones(1, np.float32), np.zeros((1, 4, 4), np.float32))


def grid(count: int) -> NDArray[np.uint16]:
    """Squares of 36 px in a row-wise grid of 128 px."""
    truth = np.zeros((128, 128), np.uint16)
    for k in range(count):
        y, x = 8 * np.array(divmod(k, 16))
        truth[y : y + 6, x : x + 6] = k + 1
    return truth


def test_masks_become_a_label_map_and_an_instance_map() -> None:
    truth = grid(3)
    handed_in = annotate(Perfect(truth), embedding(128), truth)
    assert np.array_equal(handed_in.label_map, (truth > 0).astype(np.uint8))
    assert np.array_equal(handed_in.instances, truth) and handed_in.instances.dtype == np.uint16
    assert handed_in.reached == {1: [1.0], 2: [1.0], 3: [1.0]}
    assert handed_in.clicks == 3 and handed_in.accepted == [1, 1, 1]


def test_specks_are_overlooked() -> None:
    truth = grid(3)
    truth[0:6, 0:6] = 0
    truth[0, 0:29] = np.where(truth[0, 0:29], truth[0, 0:29], 1)  # 29 px or fewer
    handed_in = annotate(Perfect(truth), embedding(128), truth)
    assert sorted(handed_in.reached) == [2, 3]
    assert (handed_in.label_map[truth == 1] == 0).all()


def test_objects_that_are_too_many_are_ignored_not_background() -> None:
    truth = grid(60)
    handed_in = annotate(Perfect(truth), embedding(128), truth)
    assert len(handed_in.reached) == MOST_OBJECTS
    asked = np.isin(truth, list(handed_in.reached))
    assert (handed_in.label_map[asked] == 1).all()
    assert (handed_in.label_map[(truth > 0) & ~asked] == IGNORE).all()
    assert (handed_in.label_map[truth == 0] == 0).all()
    assert len(annotate(Perfect(truth), embedding(128), truth, None).reached) == 60


def test_an_image_without_objects_is_handed_in_empty() -> None:
    handed_in = annotate(Perfect(grid(0)), embedding(128), grid(0))
    assert not handed_in.label_map.any() and not handed_in.instances.any() and handed_in.clicks == 0


def test_what_was_handed_in_is_kept_on_disk(tmp_path: Path) -> None:
    truth = grid(3)
    first = Annotated((truth > 0).astype(np.uint8), truth, {1: [0.5, 0.25, 0.75], 3: [0.9]})
    path = tmp_path / "a" / "b.npz"
    again = [cached(path, compute) for compute in (lambda: first, lambda: pytest.fail("asked again"))]
    for each in again:
        assert np.array_equal(each.label_map, first.label_map) and np.array_equal(each.instances, first.instances)
        assert each.label_map.dtype == np.uint8 and each.instances.dtype == np.uint16
        assert each.reached == first.reached


def test_another_image_or_truth_has_another_fingerprint() -> None:
    image, truth = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint16)
    assert fingerprint(image, truth) == fingerprint(image.copy(), truth.copy())
    assert len({fingerprint(image, truth), fingerprint(image + 1, truth), fingerprint(image, truth + 1)}) == 3

"""IoU, label scores, rims, instances, calibration and paired differences, against figures worked out by hand."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from skylight.model.evaluation.metrics import (
    Calibration,
    InstanceScores,
    LabelScores,
    boundary_f,
    iou,
    match_instances,
    paired_difference,
)


def square(y: int, x: int, side: int, size: tuple[int, int] = (60, 60)) -> NDArray[np.bool_]:
    """A square of true pixels, its corner at y, x."""
    mask = np.zeros(size, bool)
    mask[y : y + side, x : x + side] = True
    return mask


def numbered(*masks: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """An instance map of masks; numbers need not be dense, so here they are 7, 10, 13, ..."""
    out = np.zeros(masks[0].shape, np.uint16)
    for k, mask in enumerate(masks):
        out[mask] = 7 + 3 * k
    return out


NOTHING = np.zeros((60, 60), bool)


def test_the_same_rim_scores_1_and_a_far_one_0() -> None:
    assert boundary_f(square(10, 10, 20), square(10, 10, 20), 0) == 1
    assert boundary_f(square(2, 2, 10), square(40, 40, 10), 3) == 0


def test_a_rim_counts_within_the_tolerance_only() -> None:
    grown, truth = square(8, 8, 24), square(10, 10, 20)  # 2 px larger on every side
    assert boundary_f(grown, truth, 1) == 0
    precision, recall = (
        (92 - 4 * 3) / 92,
        1.0,
    )  # of the found rim's 92 px, three at each corner are sqrt(5) px away or more
    assert boundary_f(grown, truth, 2) == pytest.approx(2 * precision * recall / (precision + recall))
    assert boundary_f(grown, truth, 3) == 1


def test_a_hole_in_the_middle_costs_precision_but_no_recall() -> None:
    holed = square(10, 10, 30) & ~square(20, 20, 10)
    outer, inner = 116, 40  # px of the square's rim and around the hole
    precision = outer / (outer + inner)
    assert boundary_f(holed, square(10, 10, 30), 1) == pytest.approx(2 * precision / (precision + 1))


def test_the_default_tolerance_grows_with_the_picture_from_1_px() -> None:
    assert boundary_f(square(9, 9, 22), square(10, 10, 20)) > 0.9  # 60 x 60: 1 px
    assert boundary_f(square(8, 8, 24), square(10, 10, 20)) == 0
    wide = (400, 400)  # 4.2 px
    assert boundary_f(square(96, 96, 108, wide), square(100, 100, 100, wide)) > 0.9
    assert boundary_f(square(95, 95, 110, wide), square(100, 100, 100, wide)) == 0


def test_the_image_s_border_is_no_rim() -> None:
    left = np.zeros((60, 60), bool)
    left[:, :30] = True
    above = np.zeros((60, 60), bool)
    above[:, :33] = True
    assert boundary_f(left, above, 2) == 0  # they share the three borders, and nothing else
    assert boundary_f(left, above, 3) == 1


def test_masks_without_a_rim_score_1_only_if_equal() -> None:
    assert boundary_f(NOTHING, NOTHING) == boundary_f(~NOTHING, ~NOTHING) == 1
    assert boundary_f(NOTHING, ~NOTHING) == 0
    assert boundary_f(NOTHING, square(5, 5, 9)) == boundary_f(square(5, 5, 9), NOTHING) == 0


def test_rims_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(60, 60\) and \(50, 60\)"):
        boundary_f(NOTHING, NOTHING[:50])


def test_regions_are_matched_above_one_half_only() -> None:
    truth = numbered(square(0, 0, 10), square(20, 20, 10), square(40, 40, 10))
    half = square(20, 20, 10)
    half[20:25] = False  # IoU 0.5 exactly
    shifted = square(40, 41, 10)  # 90 / 110
    found = match_instances([shifted, half, square(0, 0, 10), square(0, 40, 5)], truth)
    assert found.partners.tolist() == [13, 0, 7, 0]
    assert found.overlaps.tolist() == pytest.approx([90 / 110, 0, 1, 0])
    assert (found.tp, found.fp, found.fn) == (2, 2, 1)
    assert found.summed_iou == pytest.approx(1 + 90 / 110)


def test_of_two_found_for_one_object_only_the_better_counts() -> None:
    truth = numbered(square(10, 10, 10))
    rough, exact = square(10, 11, 10), square(10, 10, 10)
    assert match_instances([rough, exact], truth).partners.tolist() == [0, 7]
    assert match_instances([rough, exact], truth, [0.9, 0.8]).partners.tolist() == [
        7,
        0,
    ]  # as a ranking by score demands
    assert match_instances([rough, exact], truth, [0.8, 0.8]).partners.tolist() == [0, 7]


def test_nothing_found_or_nothing_there_is_matched_too() -> None:
    none = match_instances([], numbered(square(0, 0, 5)))
    assert (none.tp, none.fp, none.fn, none.summed_iou) == (0, 0, 1, 0)
    invented = match_instances([square(0, 0, 5), NOTHING], numbered(NOTHING))
    assert (invented.tp, invented.fp, invented.fn) == (0, 2, 0)


def test_matching_agrees_with_iou_of_every_pair() -> None:
    rng = np.random.default_rng(0)
    truth = np.kron(rng.integers(0, 40, (12, 12)), np.ones((5, 5))).astype(np.uint16)
    found = [(truth == k) ^ (rng.random(truth.shape) < 0.01) for k in range(1, 40)]
    matching = match_instances(found, truth)
    for mask, partner, overlap in zip(found, matching.partners, matching.overlaps, strict=True):
        ious = {k: (mask & (truth == k)).sum() / (mask | (truth == k)).sum() for k in np.unique(truth) if k}
        best = max(ious, key=lambda k: ious[k])
        assert (int(partner), float(overlap)) == ((best, pytest.approx(ious[best])) if ious[best] > 0.5 else (0, 0.0))
    assert 5 < matching.tp < 39


def test_matching_400_regions_takes_no_pairwise_masks() -> None:
    cells = np.arange(1, 401, dtype=np.uint16).reshape(20, 20)
    truth = np.kron(cells, np.ones((32, 32), np.uint16))
    found = [truth == k for k in range(1, 401)]
    started = time.process_time()
    assert match_instances(found, truth).tp == 400
    assert time.process_time() - started < 3  # 0.1 s here


def test_masks_or_scores_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(50, 60\).*\(60, 60\)"):
        match_instances([NOTHING[:50]], numbered(NOTHING))
    with pytest.raises(ValueError, match="1 masks, 2 scores"):
        match_instances([NOTHING], numbered(NOTHING), [0.1, 0.2])
    with pytest.raises(ValueError, match="finite"):
        InstanceScores().add([NOTHING], [float("nan")], numbered(NOTHING))


def test_ap50_is_the_area_under_the_envelope() -> None:
    truth = numbered(*(square(15 * k, 0, 10) for k in range(4)))
    hits = [square(15 * k, 0, 10) for k in range(3)]
    scores = InstanceScores()
    # ranked: hit, miss, hit, hit, miss: precision 1, 1/2, 2/3, 3/4, 3/5 at recall 1/4, 1/4, 2/4, 3/4, 3/4
    scores.add([*hits, square(0, 40, 5), square(30, 40, 5)], [0.9, 0.7, 0.6, 0.8, 0.1], truth)
    assert scores.ap50 == pytest.approx(0.25 * 1 + 0.5 * 0.75)
    assert scores.panoptic_quality == pytest.approx(3 / (3 + 2 / 2 + 1 / 2))
    assert (scores.count, scores.images) == (4, 1)


def test_ap50_ranks_the_regions_of_all_images_together() -> None:
    truth = numbered(square(0, 0, 10))
    scores = InstanceScores()
    scores.add([square(30, 30, 10)], [0.9], truth)
    scores.add([square(0, 0, 10)], [0.5], truth)
    assert scores.ap50 == pytest.approx(0.5 * 0.5)  # recall 1/2 at precision 1/2; by image it would be 0.5
    better = InstanceScores()
    better.add([square(30, 30, 10)], [0.4], truth)
    better.add([square(0, 0, 10)], [0.5], truth)
    assert better.ap50 == pytest.approx(0.5 * 1.0)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_ap50_of_equal_scores_depends_on_no_order(order: tuple[int, int]) -> None:
    found = [square(0, 0, 10), square(30, 30, 10)]
    scores = InstanceScores()
    scores.add([found[i] for i in order], [0.5, 0.5], numbered(square(0, 0, 10)))
    assert scores.ap50 == pytest.approx(0.5)


def test_panoptic_quality_is_segmentation_times_recognition() -> None:
    truth = numbered(square(0, 0, 10), square(20, 20, 10))
    scores = InstanceScores()
    scores.add([square(0, 1, 10), square(40, 40, 10)], [1, 1], truth)
    scores.add([square(0, 0, 10), square(20, 20, 10)], [1, 1], truth)
    segmentation, recognition = (90 / 110 + 2) / 3, 3 / (3 + 0.5 + 0.5)
    assert scores.panoptic_quality == pytest.approx(segmentation * recognition)


def test_nothing_there_is_right_only_when_nothing_was_found() -> None:
    scores = InstanceScores()
    scores.add([], [], numbered(NOTHING))
    assert scores.ap50 == scores.panoptic_quality == 1 and scores.count == 0
    scores.add([square(0, 0, 5)], [0.9], numbered(NOTHING))
    assert scores.ap50 == scores.panoptic_quality == 0
    missed = InstanceScores()
    missed.add([], [], numbered(square(0, 0, 5)))
    assert missed.ap50 == missed.panoptic_quality == 0 and missed.count == 1


def test_ece_is_the_gap_between_confidence_and_accuracy() -> None:
    said = np.full((10, 10), 0.9, np.float32)
    truth = np.ones((10, 10), np.uint8)
    truth[:4] = 0  # right in 60 %
    calibration = Calibration()
    calibration.add(np.stack([1 - said, said]), truth)
    assert calibration.ece == pytest.approx(0.3, abs=1e-6)


def test_ece_weighs_the_bins_of_all_images_by_their_pixels() -> None:
    calibration = Calibration()
    calibration.add(np.full((2, 10, 10), 0.5, np.float32), np.ones((10, 10), np.uint8))  # says 0: never right, gap 0.5
    sure = np.stack([np.ones((30, 10)), np.zeros((30, 10))]).astype(np.float32)
    calibration.add(sure, np.zeros((30, 10), np.uint8))  # gap 0
    assert calibration.ece == pytest.approx(0.5 * 100 / 400)


def test_ece_is_small_for_honest_and_large_for_boastful_probabilities() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, (300, 300)).astype(np.float32)
    truth = (rng.random(p.shape) < p).astype(np.uint8)
    honest, boastful = Calibration(), Calibration()
    honest.add(np.stack([1 - p, p]), truth)
    loud = (p > 0.5) * np.float32(0.98) + np.float32(0.01)
    boastful.add(np.stack([1 - loud, loud]), truth)
    assert honest.ece < 0.01
    assert boastful.ece == pytest.approx(0.99 - 0.75, abs=0.01)


def test_ece_leaves_out_what_is_unknown() -> None:
    p = np.full((10, 10), 0.8, np.float32)
    truth = np.ones((10, 10), np.uint8)
    truth[:5] = 255
    calibration = Calibration()
    calibration.add(np.stack([1 - p, p]), truth)
    assert calibration.ece == pytest.approx(0.2, abs=1e-6)
    nothing = Calibration()
    nothing.add(np.stack([1 - p, p]), np.full((10, 10), 255, np.uint8))
    assert nothing.ece == 0
    with pytest.raises(ValueError, match="scale them"):
        calibration.add(np.stack([1 - p, p]), truth[:5])


def test_paired_differences_cancel_what_the_images_share() -> None:
    rng = np.random.default_rng(0)
    hardness = rng.uniform(0, 1, 40)
    gain = rng.normal(0.02, 0.01, 40)
    old = {str(i): float(v) for i, v in enumerate(hardness)}
    new = {str(i): float(v) for i, v in enumerate(hardness + gain)} | {"only new": 0.0}
    found = paired_difference(new, old)
    assert found.n == 40 and found.mean == pytest.approx(gain.mean())
    assert found.error == pytest.approx(gain.std(ddof=1) / np.sqrt(40))
    assert found.mean > 5 * found.error  # unpaired, the error would be 0.06


def test_one_image_or_none_has_no_error_to_give() -> None:
    one = paired_difference({"a": 0.5, "b": 1.0}, {"a": 0.2})
    assert (one.n, one.mean, one.error) == (1, pytest.approx(0.3), 0.0)
    none = paired_difference({"a": 0.5}, {"b": 0.5})
    assert (none.n, none.mean, none.error) == (0, 0.0, 0.0)


def rectangle(y0: int, x0: int, y1: int, x1: int, shape: tuple[int, int] = (60, 80)) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_iou_is_shared_pixels_over_pixels_of_either() -> None:
    a, b = rectangle(0, 0, 10, 10), rectangle(0, 5, 10, 15)
    assert iou(a, b) == iou(b, a) == 50 / 150
    assert iou(a, a) == 1
    assert iou(a, rectangle(20, 20, 30, 30)) == 0


def test_iou_of_two_empty_masks_is_1_and_of_one_0() -> None:
    empty = rectangle(0, 0, 0, 0)
    assert iou(empty, empty) == 1
    assert iou(empty, rectangle(0, 0, 1, 1)) == 0


def test_label_scores_sum_pixels_over_images() -> None:
    scores = LabelScores(("pit", "crater"))
    scores.add(np.array([[1, 1, 0, 2]], np.uint8), np.array([[1, 0, 0, 2]], np.uint8))
    scores.add(np.array([[1, 0, 2, 2]], np.uint8), np.array([[1, 1, 0, 0]], np.uint8))
    assert scores.images == 2
    assert scores.per_label == {"pit": 2 / 4, "crater": 1 / 3}
    assert scores.mean == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_ignored_pixels_count_neither_as_found_nor_as_missed() -> None:
    scores = LabelScores(("pit",))
    scores.add(np.array([[1, 1, 0, 0]], np.uint8), np.array([[1, 255, 255, 0]], np.uint8))
    assert scores.per_label == {"pit": 1}


def test_a_label_that_is_nowhere_has_no_score() -> None:
    scores = LabelScores(("pit", "crater"))
    assert scores.per_label == {} and scores.mean == 1
    scores.add(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    assert scores.per_label == {} and scores.mean == 1
    scores.add(np.array([[2, 0]], np.uint8), np.array([[0, 0]], np.uint8))
    assert scores.per_label == {"crater": 0} and scores.mean == 0

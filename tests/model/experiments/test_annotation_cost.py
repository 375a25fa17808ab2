"""What annotating takes, worked out by hand."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from skylight.model.experiments.annotation_cost import (
    Action,
    Costs,
    click_log,
    image_log,
    outline_log,
    outline_vertices,
    review_log,
    seconds,
)

PLAIN = Costs(open=100, look=1, click=10, wait=2, accept=3, undo=5, label=7, delete=20, vertex=4, submit=200)
EMPTY_IMAGE = 300  # opened and submitted, at these prices


def disc(x: float, y: float, radius: float, side: int = 100) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:side, :side]
    return np.hypot(columns - x, rows - y) <= radius


def test_a_log_takes_the_sum_of_its_actions() -> None:
    log = {Action.CLICK: 2, Action.WAIT: 2, Action.LOOK: 3, Action.ACCEPT: 1}
    assert seconds(log) == pytest.approx(2 * 1.3 + 2 * 0.5 + 3 * 0.4 + 0.28)
    assert seconds(log, PLAIN) == 20 + 4 + 3 + 3
    assert seconds({}) == 0


def test_an_action_without_a_price_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="yawn"):
        seconds(Counter({"yawn": 1}))  # type: ignore[dict-item]


def test_a_log_of_plain_names_as_json_holds_it_is_priced_alike() -> None:
    log = image_log([click_log([0.5, 0.9])])
    assert seconds({str(action): count for action, count in log.items()}) == seconds(log)  # type: ignore[misc]


def test_an_object_takes_a_look_and_a_click_a_wait_and_a_look_for_each_prompt() -> None:
    assert seconds(click_log([0.9]), PLAIN) == 1 + (10 + 2 + 1) + 3
    assert seconds(click_log([0.5, 0.7, 0.9]), PLAIN) == 1 + 3 * (10 + 2 + 1) + 3


def test_going_back_to_a_better_mask_costs_an_undo_for_each_click_since() -> None:
    assert seconds(click_log([0.5, 0.8, 0.7, 0.6]), PLAIN) == 1 + 4 * 13 + 3 + 2 * 5


def test_when_no_mask_touches_the_object_all_are_undone_and_none_accepted() -> None:
    assert seconds(click_log([0.0, 0.0]), PLAIN) == 1 + 2 * 13 + 2 * 5


def test_an_image_is_opened_and_submitted_and_its_label_chosen_once_if_something_is_drawn() -> None:
    assert seconds(image_log([]), PLAIN) == EMPTY_IMAGE
    two = image_log([outline_log(7), outline_log(5)])
    assert seconds(two, PLAIN) == EMPTY_IMAGE + 7 + (1 + 8 * 4) + (1 + 6 * 4)


def instance_map(*masks: NDArray[np.bool_]) -> NDArray[np.uint16]:
    out = np.zeros(masks[0].shape, np.uint16)
    for number, mask in enumerate(masks, 1):
        out[mask] = number
    return out


def test_good_regions_cost_only_a_look() -> None:
    a, b = disc(25, 25, 12), disc(70, 70, 12)
    truth, reached = instance_map(a, b), {1: [0.9], 2: [0.9]}
    assert seconds(review_log([a, b], truth, reached), PLAIN) == EMPTY_IMAGE + 2


def test_what_is_missing_is_clicked_what_is_wrong_deleted_what_is_poor_both() -> None:
    a, b = disc(25, 25, 12), disc(70, 70, 12)
    truth, reached = instance_map(a, b), {1: [0.9], 2: [0.5, 0.9]}
    wrong, poor = disc(25, 75, 9), disc(70, 74, 12)  # the latter's IoU with b is 0.65
    once = 1 + 13 + 3
    twice = once + 13
    assert seconds(review_log([a], truth, reached), PLAIN) == EMPTY_IMAGE + 1 + 7 + twice
    assert seconds(review_log([a, b, wrong], truth, reached), PLAIN) == EMPTY_IMAGE + 3 + 20
    assert seconds(review_log([a, poor], truth, reached), PLAIN) == EMPTY_IMAGE + 2 + 20 + 7 + twice
    assert seconds(review_log([], truth, reached), PLAIN) == EMPTY_IMAGE + 7 + once + twice


def test_who_settles_leaves_what_clicks_would_not_better() -> None:
    b = disc(70, 70, 12)
    truth, poor = instance_map(b), disc(70, 74, 12)  # its IoU is 0.65
    redone = EMPTY_IMAGE + 1 + 20 + 7 + 1 + 4 * 13 + 3
    for best, settled in ((0.6, EMPTY_IMAGE + 1), (0.7, redone)):
        reached = {1: [0.5, 0.5, 0.5, best]}
        assert seconds(review_log([poor], truth, reached), PLAIN) == redone
        assert seconds(review_log([poor], truth, reached, settle=True), PLAIN) == settled


def test_a_region_on_an_object_that_need_not_be_annotated_stays() -> None:
    a, speck = disc(25, 25, 12), disc(70, 70, 2.5)
    truth = instance_map(a, speck)
    near = disc(70.5, 70, 2.5)
    assert seconds(review_log([a, near], truth, {1: [0.9]}), PLAIN) == EMPTY_IMAGE + 2


def test_two_regions_on_one_object_do_not_both_stay() -> None:
    a = disc(50, 50, 20)
    assert seconds(review_log([a, disc(50, 50, 19.5)], instance_map(a), {1: [0.9]}), PLAIN) == EMPTY_IMAGE + 2 + 20


def test_a_disc_is_outlined_by_7_corners_and_a_square_by_no_more() -> None:
    assert outline_vertices(disc(50, 50, 40)) == 7  # regular polygons: 6 corners 0.827 of the disc, 7 corners 0.871
    square = np.zeros((100, 100), bool)
    square[20:80, 20:80] = True
    assert 4 <= outline_vertices(square) <= 7


def test_a_ragged_outline_needs_more_corners_and_a_finer_one_too() -> None:
    rows, columns = np.mgrid[:100, :100] - 50
    star = np.hypot(rows, columns) < 30 * (1 + 0.4 * np.sin(9 * np.arctan2(rows, columns)))
    assert outline_vertices(star) > 12
    assert outline_vertices(disc(50, 50, 40), 0.97) > 7


def test_an_object_at_the_border_and_one_of_a_single_pixel_can_be_outlined() -> None:
    assert outline_vertices(disc(0, 50, 30)) <= 12
    assert 3 <= outline_vertices(disc(5, 5, 0.5)) <= 8

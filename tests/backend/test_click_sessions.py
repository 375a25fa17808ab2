"""The rectangle that is still on the screen while the clicks that follow it come alone."""

from typing import Any

import numpy as np
import pytest

from skylight.backend.click_sessions import KEPT, SECONDS, ClickSessions
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.labelstudio.prompts import ClickRequest, read_prompt
from tests.support.editor import CONFIG, box, point

PLACE = ("1", "image", "Dog")
LOGITS = np.ones((4, 4), np.float32)
MASK = np.eye(4, dtype=bool)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turns(clock: Clock) -> ClickSessions:
    return ClickSessions(clock)


def asked(*items: dict[str, Any]) -> ClickRequest:
    found = read_prompt(list(items), parse_config(CONFIG))
    assert found is not None
    return found


def box_of(turns: ClickSessions, drafts: object, *items: dict[str, Any]) -> list[float] | None:
    """The rectangle that SAM is asked about."""
    found = turns.restore_box(PLACE, asked(*items), drafts).prompt.box
    return None if found is None else found.tolist()


RECTANGLE = box(25, 50, 50, 25, id="rectangle")  # 20, 30 .. 60, 45 px
CORNERS = [20, 30, 60, 45]
INSIDE, ALSO, OUTSIDE = point(50, 60, id="in"), point(40, 60, id="also"), point(5, 5, id="out")


def draft(*ids: str, updated: str = "1", number: int = 1) -> dict[str, Any]:
    return {"id": number, "updated_at": updated, "result": [{"id": each} for each in ids]}


def test_clicks_in_a_rectangle_go_with_it(turns: ClickSessions) -> None:
    assert box_of(turns, [], RECTANGLE) == CORNERS
    assert box_of(turns, [], INSIDE) == CORNERS
    assert box_of(turns, [], INSIDE, {**ALSO, "is_positive": False}) == CORNERS
    assert box_of(turns, [], INSIDE) == CORNERS  # the last one taken back


def test_a_negative_click_can_correct_a_rectangle(turns: ClickSessions) -> None:
    box_of(turns, [], RECTANGLE)
    found = turns.restore_box(PLACE, asked({**INSIDE, "is_positive": False}), [])
    assert found.prompt.box is not None and found.prompt.positive.tolist() == [False]


def test_a_click_outside_of_a_rectangle_is_about_something_else(turns: ClickSessions) -> None:
    box_of(turns, [], RECTANGLE)
    assert box_of(turns, [], OUTSIDE) is None
    assert box_of(turns, [], INSIDE) is None  # from then on


def test_other_clicks_than_before_are_about_something_else(turns: ClickSessions) -> None:
    box_of(turns, [], RECTANGLE)
    box_of(turns, [], INSIDE)
    assert box_of(turns, [], ALSO) is None


def test_a_rectangle_is_forgotten_after_a_while_and_elsewhere(turns: ClickSessions, clock: Clock) -> None:
    box_of(turns, [], RECTANGLE)
    assert turns.restore_box(("2", "image", "Dog"), asked(INSIDE), []).prompt.box is None
    clock.now += SECONDS
    assert box_of(turns, [], INSIDE) is None


def test_a_draft_without_the_rectangle_says_that_it_is_gone(turns: ClickSessions) -> None:
    for before, now, kept in (
        ([], [draft("rectangle")], True),
        ([], [draft("accepted")], False),
        ([draft("mask")], [draft("mask")], True),  # of before the rectangle: no news
        ([draft("mask")], [draft("mask", "accepted", updated="2")], False),
        ([draft("mask")], [draft("mask", "rectangle", updated="2")], True),
        ([], None, True),
        ([], "odd", True),
        ([], [{"id": 1, "result": None}], False),
    ):
        box_of(turns, before, RECTANGLE)
        assert (box_of(turns, now, INSIDE) is not None) == kept, (before, now)


def test_a_rectangle_drawn_anew_counts(turns: ClickSessions) -> None:
    box_of(turns, [], RECTANGLE)
    box_of(turns, [], RECTANGLE, box(0, 0, 50, 50, id="other"))
    assert box_of(turns, [], point(10, 10)) == [0, 0, 40, 30]


def test_an_answer_goes_on_from_rectangle_to_clicks(turns: ClickSessions) -> None:
    first = turns.restore_box(PLACE, asked(RECTANGLE), [])
    assert turns.previous(PLACE, first) is None
    mask = np.zeros((9, 7), bool)
    mask[2:5, 3] = mask[6, 1] = True
    for shown in (mask, np.zeros((9, 7), bool), np.ones((9, 7), bool)):
        turns.record(PLACE, first, LOGITS, shown)
        before = turns.previous(PLACE, turns.restore_box(PLACE, asked(INSIDE), []))
        assert before is not None
        np.testing.assert_array_equal(before.logits, LOGITS)
        np.testing.assert_array_equal(before.mask, shown)
    assert turns.previous(PLACE, asked(INSIDE)) is None


def test_the_answer_to_the_most_clicks_is_given(turns: ClickSessions) -> None:
    for count, points in enumerate(([INSIDE], [INSIDE, ALSO]), 1):
        turns.record(PLACE, asked(*points), count * LOGITS, MASK)
    assert turns.previous(PLACE, asked(INSIDE, ALSO, OUTSIDE)).logits.max() == 2  # type: ignore[union-attr]
    assert turns.previous(PLACE, asked(INSIDE, ALSO)).logits.max() == 1  # type: ignore[union-attr]
    assert turns.previous(PLACE, asked(ALSO, INSIDE)) is None


def test_no_more_than_so_many_answers_are_kept(turns: ClickSessions) -> None:
    for number in range(KEPT + 1):
        turns.record((number,), asked(INSIDE), LOGITS, MASK)
        turns.restore_box((number,), asked(RECTANGLE), [])
    after = asked(INSIDE, ALSO)
    assert turns.previous((0,), after) is None and turns.previous((1,), after) is not None
    assert turns.restore_box((0,), asked(INSIDE), []).box is None
    assert turns.restore_box((1,), asked(INSIDE), []).box is not None

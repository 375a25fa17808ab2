"""Click sessions: the last answer goes on, and the rectangle that is still on the screen while clicks come alone."""

from typing import Any

import numpy as np
import pytest

from skylight.backend.click_sessions import MAX_ANSWERS, TTL_SECONDS, ClickSessions
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.labelstudio.prompts import ClickRequest, read_prompt
from tests.support.editor import CONFIG, box, point

SESSION = ("1", "image", "Dog")
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
def sessions(clock: Clock) -> ClickSessions:
    return ClickSessions(clock)


def request(*items: dict[str, Any]) -> ClickRequest:
    found = read_prompt(list(items), parse_config(CONFIG))
    assert found is not None
    return found


def box_of(sessions: ClickSessions, drafts: object, *items: dict[str, Any]) -> list[float] | None:
    """The rectangle that SAM is asked about."""
    found = sessions.restore_box(SESSION, request(*items), drafts).prompt.box
    return None if found is None else found.tolist()


RECTANGLE = box(25, 50, 50, 25, id="rectangle")  # 20, 30 .. 60, 45 px
CORNERS = [20, 30, 60, 45]
INSIDE, ALSO, OUTSIDE = point(50, 60, id="in"), point(40, 60, id="also"), point(5, 5, id="out")


def draft(*ids: str, updated: str = "1", number: int = 1) -> dict[str, Any]:
    return {"id": number, "updated_at": updated, "result": [{"id": each} for each in ids]}


def test_clicks_in_a_rectangle_go_with_it(sessions: ClickSessions) -> None:
    assert box_of(sessions, [], RECTANGLE) == CORNERS
    assert box_of(sessions, [], INSIDE) == CORNERS
    assert box_of(sessions, [], INSIDE, {**ALSO, "is_positive": False}) == CORNERS
    assert box_of(sessions, [], INSIDE) == CORNERS  # the last one taken back


def test_a_negative_click_can_correct_a_rectangle(sessions: ClickSessions) -> None:
    box_of(sessions, [], RECTANGLE)
    found = sessions.restore_box(SESSION, request({**INSIDE, "is_positive": False}), [])
    assert found.prompt.box is not None and found.prompt.positive.tolist() == [False]


def test_a_click_outside_of_a_rectangle_is_about_something_else(sessions: ClickSessions) -> None:
    box_of(sessions, [], RECTANGLE)
    assert box_of(sessions, [], OUTSIDE) is None
    assert box_of(sessions, [], INSIDE) is None  # from then on


def test_other_clicks_than_before_are_about_something_else(sessions: ClickSessions) -> None:
    box_of(sessions, [], RECTANGLE)
    box_of(sessions, [], INSIDE)
    assert box_of(sessions, [], ALSO) is None


def test_a_rectangle_is_forgotten_after_a_while_and_elsewhere(sessions: ClickSessions, clock: Clock) -> None:
    box_of(sessions, [], RECTANGLE)
    assert sessions.restore_box(("2", "image", "Dog"), request(INSIDE), []).prompt.box is None
    clock.now += TTL_SECONDS
    assert box_of(sessions, [], INSIDE) is None


def test_a_draft_without_the_rectangle_says_that_it_is_gone(sessions: ClickSessions) -> None:
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
        box_of(sessions, before, RECTANGLE)
        assert (box_of(sessions, now, INSIDE) is not None) == kept, (before, now)


def test_a_rectangle_drawn_anew_counts(sessions: ClickSessions) -> None:
    box_of(sessions, [], RECTANGLE)
    box_of(sessions, [], RECTANGLE, box(0, 0, 50, 50, id="other"))
    assert box_of(sessions, [], point(10, 10)) == [0, 0, 40, 30]


def test_an_answer_goes_on_from_rectangle_to_clicks(sessions: ClickSessions) -> None:
    first = sessions.restore_box(SESSION, request(RECTANGLE), [])
    assert sessions.previous(SESSION, first) is None
    mask = np.zeros((9, 7), bool)
    mask[2:5, 3] = mask[6, 1] = True
    for shown in (mask, np.zeros((9, 7), bool), np.ones((9, 7), bool)):
        sessions.record(SESSION, first, LOGITS, shown)
        before = sessions.previous(SESSION, sessions.restore_box(SESSION, request(INSIDE), []))
        assert before is not None
        np.testing.assert_array_equal(before.logits, LOGITS)
        np.testing.assert_array_equal(before.mask, shown)
    assert sessions.previous(SESSION, request(INSIDE)) is None


def test_the_answer_to_the_most_clicks_is_given(sessions: ClickSessions) -> None:
    for count, points in enumerate(([INSIDE], [INSIDE, ALSO]), 1):
        sessions.record(SESSION, request(*points), count * LOGITS, MASK)
    assert sessions.previous(SESSION, request(INSIDE, ALSO, OUTSIDE)).logits.max() == 2  # type: ignore[union-attr]
    assert sessions.previous(SESSION, request(INSIDE, ALSO)).logits.max() == 1  # type: ignore[union-attr]
    assert sessions.previous(SESSION, request(ALSO, INSIDE)) is None


def test_no_more_than_so_many_answers_are_kept(sessions: ClickSessions) -> None:
    for number in range(MAX_ANSWERS + 1):
        sessions.record((number,), request(INSIDE), LOGITS, MASK)
        sessions.restore_box((number,), request(RECTANGLE), [])
    after = request(INSIDE, ALSO)
    assert sessions.previous((0,), after) is None and sessions.previous((1,), after) is not None
    assert sessions.restore_box((0,), request(INSIDE), []).box is None
    assert sessions.restore_box((1,), request(INSIDE), []).box is not None

"""Answers that are waited for only so long."""

import threading

import pytest

from skylight.backend.store.deadline_calls import ASKS, Meanwhile
from tests.support.label_studio_double import wait_until


def test_an_answer_in_time_is_given_and_an_error_raised():
    asks = Meanwhile(60)
    assert asks.ask("a", lambda: 1) == 1

    def fail() -> int:
        raise FileNotFoundError("b")

    with pytest.raises(FileNotFoundError, match="b"):
        asks.ask("b", fail)
    assert asks.ask("b", lambda: 2) == 2


def test_a_late_answer_comes_all_the_same_and_is_asked_for_once():
    asks, go, came = Meanwhile(0.01), threading.Event(), list[int]()

    def late() -> int:
        go.wait(60)
        came.append(1)
        return 1

    assert asks.ask("a", late) is None and asks.ask("a", late) is None
    go.set()
    wait_until(lambda: came)
    wait_until(lambda: asks.ask("b", lambda: 2) == 2)
    assert came == [1]


def test_of_too_many_at_a_time_the_rest_is_not_asked():
    asks, go, came = Meanwhile(0.01), threading.Event(), list[int]()
    for number in range(ASKS + 5):
        assert asks.ask(str(number), lambda number=number: go.wait(60) and came.append(number)) is None
    go.set()
    wait_until(lambda: len(came) == ASKS)
    assert sorted(came) == list(range(ASKS))

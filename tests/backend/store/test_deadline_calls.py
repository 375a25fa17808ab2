"""Calls that are waited for only so long."""

import threading

import pytest

from skylight.backend.store.deadline_calls import MOST, DeadlineCalls
from tests.support.label_studio_double import wait_until


def test_an_answer_in_time_is_given_and_an_error_raised():
    calls = DeadlineCalls(60)
    assert calls.call("a", lambda: 1) == 1

    def fail() -> int:
        raise FileNotFoundError("b")

    with pytest.raises(FileNotFoundError, match="b"):
        calls.call("b", fail)
    assert calls.call("b", lambda: 2) == 2


def test_a_late_answer_comes_all_the_same_and_is_asked_for_once():
    calls, go, came = DeadlineCalls(0.01), threading.Event(), list[int]()

    def late() -> int:
        go.wait(60)
        came.append(1)
        return 1

    assert calls.call("a", late) is None and calls.call("a", late) is None
    go.set()
    wait_until(lambda: came)
    wait_until(lambda: calls.call("b", lambda: 2) == 2)
    assert came == [1]


def test_of_too_many_at_a_time_the_rest_is_not_asked():
    calls, go, came = DeadlineCalls(0.01), threading.Event(), list[int]()
    for number in range(MOST + 5):
        assert calls.call(str(number), lambda number=number: go.wait(60) and came.append(number)) is None
    go.set()
    wait_until(lambda: len(came) == MOST)
    assert sorted(came) == list(range(MOST))

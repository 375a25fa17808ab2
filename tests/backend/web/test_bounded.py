"""Answers that are waited for so long and no longer."""

import threading

import pytest

from skylight.backend.web.bounded import Bounded


def test_what_comes_in_time_is_given_and_what_is_raised_is_raised():
    assert Bounded(lambda: 5, 10).get() == 5
    with pytest.raises(ZeroDivisionError):
        Bounded(lambda: 1 // 0, 10).get()


def test_what_is_late_is_none_and_is_not_begun_a_second_time():
    go, calls = threading.Event(), []

    def make() -> int:
        calls.append(1)
        go.wait(30)
        return len(calls)

    found = Bounded(make, 0.02)
    assert [found.get(), found.get()] == [None, None]
    go.set()
    found.seconds = 30
    found.get()
    assert len(calls) <= 2
    assert found.get() == len(calls)

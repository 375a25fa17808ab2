"""Lookups in the background."""

import logging
import threading

import pytest

from skylight.backend.errors import LabelStudioError
from skylight.backend.web.background import BackgroundCache, BackgroundCall
from tests.support.label_studio_double import wait_until


def test_what_comes_in_time_is_given_and_what_is_raised_is_raised():
    assert BackgroundCall(lambda: 5, 10).get() == 5
    with pytest.raises(ZeroDivisionError):
        BackgroundCall(lambda: 1 // 0, 10).get()


def test_what_is_late_is_none_and_is_not_begun_a_second_time():
    go, calls = threading.Event(), []

    def make() -> int:
        calls.append(1)
        go.wait(30)
        return len(calls)

    found = BackgroundCall(make, 0.02)
    assert [found.get(), found.get()] == [None, None]
    go.set()
    found.seconds = 30
    found.get()
    assert len(calls) <= 2
    assert found.get() == len(calls)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_waits_a_little_and_the_next_are_answered_at_once():
    calls = []
    found = BackgroundCache(lambda key: calls.append(key) or len(calls), clock=Clock())
    assert found.get("a") == 1
    assert found.get("a") == 1
    assert found.get("b") == 2
    assert calls == ["a", "b"]


def test_what_is_old_is_given_once_more_while_the_new_is_found():
    clock, go, calls = Clock(), threading.Event(), []

    def make(_: str) -> int:
        calls.append(1)
        if len(calls) == 2:
            go.wait(10)
        return len(calls)

    found = BackgroundCache(make, seconds=60, clock=clock)
    assert found.get() == 1
    clock.now += 59
    assert found.get() == 1 and len(calls) == 1
    clock.now += 2
    assert found.get() == found.get() == 1  # and only one looks
    go.set()
    wait_until(lambda: found.get() == 2)
    assert len(calls) == 2


def test_a_slow_answer_is_not_waited_for_and_asked_for_less_often():
    clock, go = Clock(), threading.Event()

    def make(_: str) -> str:
        go.wait(10)
        clock.now += 30  # that is how long it takes
        return "here"

    found = BackgroundCache(make, seconds=60, clock=clock)
    assert found.get() is None
    go.set()
    wait_until(lambda: found.get() == "here")
    clock.now += 20 * 30 - 1
    assert found.get() == "here" and not found._running
    clock.now += 2
    found.get()
    assert found._running
    wait_until(lambda: not found._running)


def test_a_failure_leaves_the_answer_before_and_is_logged(caplog):
    caplog.set_level(logging.WARNING)
    clock, answers = Clock(), iter([1])

    def make(_: str) -> int:
        for answer in answers:
            return answer
        raise LabelStudioError("Label Studio is away")

    found = BackgroundCache(make, seconds=60, clock=clock)
    assert found.get() == 1
    clock.now += 61
    found.get()
    wait_until(lambda: "Label Studio is away" in caplog.text)
    assert found.get() == 1

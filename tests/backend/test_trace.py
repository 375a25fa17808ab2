"""What is noted of a request or job, and the line that comes of it."""

import logging

import pytest
import redis

from skylight.backend import trace
from skylight.backend.errors import BadRequest, MediaError, Unavailable
from skylight.backend.trace import CURRENT_TRACE, Trace, error_category, record_error, set_subject


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (MemoryError(), "memory"),
        (redis.TimeoutError(), "redis"),
        (MediaError("gone"), "image"),
        (BadRequest("no"), "request"),
        (Unavailable("not now"), "unavailable"),
        (FileNotFoundError("x"), "system"),
        (KeyError("x"), "unforeseen"),
    ],
)
def test_every_error_is_of_one_of_a_few_kinds(error, name):
    assert error_category(error) == name


def test_what_is_noted_becomes_one_line(caplog):
    caplog.set_level(logging.INFO, trace.__name__)
    made = Trace("r1", "predict", method="POST")
    token = CURRENT_TRACE.set(made)
    set_subject("click", "1.5", 7)
    set_subject(task=8)
    record_error(MediaError("gone"))
    CURRENT_TRACE.reset(token)
    set_subject("nobody hears this")
    assert made.end("faulty", 200) < 5
    (record,) = caplog.records
    found = record.trace
    assert found.pop("ms") < 5000
    assert found == {
        "id": "r1",
        "what": "click",
        "project": "1.5",
        "task": "8",
        "method": "POST",
        "status": 200,
        "outcome": "faulty",
        "causes": {"image": 1},
    }
    assert record.getMessage().startswith("project 1.5 task 8 click: done, but something in it failed (image), ")


def test_names_from_outside_are_cut():
    made = Trace("r1")
    token = CURRENT_TRACE.set(made)
    set_subject("w" * 1000, "p" * 1000, "t" * 1000)
    CURRENT_TRACE.reset(token)
    assert {len(made.what), len(made.project), len(made.task)} == {trace.MAX_NAME}

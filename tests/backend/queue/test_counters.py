"""Figures that all processes share."""

import time

import pytest
import redis

from skylight.backend.queue import counters


def test_jobs_are_counted_by_kind_and_outcome_with_their_seconds_causes_and_lookups(service):
    for seconds in (1.5, 2.0):
        counters.count_job(service.queue, "train", "ok", seconds, {"image": 2}, {"disk": 3})
    found = counters.read_counters(service.queue, service.store.projects())
    assert found.jobs == {("train", "ok"): (2, 3.5)}
    assert found.failures == {("train", "image"): 4}
    assert found.lookups == {"disk": 6}
    assert found.depth == {"ingest": 0, "train": 0, "preannotate": 0, "embed": 0} == found.failed


def test_the_age_is_that_of_the_oldest_event(service):
    for age in (50, 500):
        service.queue.add_event("1.5", {"what": "config", "received": time.time() - age})
    found = counters.read_counters(service.queue, service.store.projects())
    assert found.inbox == {"1.5": 2}
    assert found.age["1.5"] == pytest.approx(50, abs=10)  # the first in the queue


@pytest.mark.parametrize(
    ("event", "age"),
    [
        (b'{"received":90.5,"what":"x"}', 9.5),
        (b'{"received":200}', 0),
        (b'{"what":"x"}', 0),  # of an earlier release
        (None, 0),
        (b'{"what":"' + b"x" * 100 + b'","received":1}', 0),
    ],
)
def test_an_event_says_at_its_beginning_when_it_was_accepted(event, age):
    assert counters.event_age(event, 100.0) == age


def test_without_redis_it_is_an_error(service):
    service.queue.redis = redis.Redis.from_url("unix:///nowhere/redis.sock")
    with pytest.raises(redis.RedisError):
        counters.read_counters(service.queue, service.store.projects())

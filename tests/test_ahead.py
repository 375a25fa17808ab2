"""What is asked for ahead of clicks, in Redis."""

from dataclasses import replace

import pytest

from backend import ahead
from backend.service import Service

P = "1.1795340401"


@pytest.fixture
def queue(service):
    return service.queue


def jobs(queue) -> int:
    return queue.queues["embed"].count


def test_however_often_a_project_is_wanted_one_job_waits(service, queue):
    assert ahead.want(service, P)
    assert not ahead.want(service, P)
    assert (ahead.wanted(queue, P), jobs(queue)) == (2, 1)


def test_what_is_wanted_meanwhile_is_not_granted(service, queue):
    ahead.want(service, P)
    began = ahead.wanted(queue, P)
    ahead.want(service, P)
    ahead.grant(queue, P, began)
    assert ahead.wanted(queue, P) == 2
    ahead.grant(queue, P, 2)
    assert ahead.wanted(queue, P) == 0


def test_the_task_opened_last_is_the_first(service, queue):
    assert ahead.opened(queue, P) is None
    for task in (3, 5, 3, 8):
        ahead.follow(service, P, task)
    assert (ahead.opened(queue, P), jobs(queue)) == (8, 1)
    ahead.followed(queue, P, 8)
    assert ahead.opened(queue, P) == 3
    ahead.followed(queue, P, 3)
    assert ahead.opened(queue, P) == 5
    ahead.forget(queue, P)
    assert ahead.opened(queue, P) is None


def test_whoever_opens_very_many_has_left_the_earliest(service, queue):
    for task in range(50):
        ahead.follow(service, P, task)
    seen = []
    while (task := ahead.opened(queue, P)) is not None:
        seen.append(task)
        ahead.followed(queue, P, task)
    assert seen == list(range(49, 49 - ahead.OPENED, -1))


def test_what_failed_is_left_out_until_the_round_ends(queue):
    ahead.fail(queue, P, "/b")
    assert ahead.without_failed(queue, P, ["/a", "/b", "/c"]) == ["/a", "/c"]
    ahead.grant(queue, P, 1)
    assert ahead.without_failed(queue, P, ["/a", "/b"]) == ["/a", "/b"]


@pytest.mark.parametrize("name", ["label_studio_url", "label_studio_api_key"])
def test_without_label_studio_nothing_is_asked_for(settings, name):
    service = Service(replace(settings, **{name: ""}))
    assert not ahead.want(service, P)
    ahead.follow(service, P, 3)
    assert service.queue.redis.keys() == []

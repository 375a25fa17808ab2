"""What is asked for ahead of clicks, in Redis."""

from dataclasses import replace

import pytest

from skylight.backend.queue import prefetch_requests
from skylight.backend.service import Service

P = "1.1795340401"


@pytest.fixture
def queue(service):
    return service.queue


def jobs(queue) -> int:
    return queue.queues["embed"].count


def test_however_often_a_project_is_wanted_one_job_waits(service, queue):
    assert prefetch_requests.want(service, P)
    assert not prefetch_requests.want(service, P)
    assert (prefetch_requests.wanted(queue, P), jobs(queue)) == (2, 1)


def test_what_is_wanted_meanwhile_is_not_granted(service, queue):
    prefetch_requests.want(service, P)
    began = prefetch_requests.wanted(queue, P)
    prefetch_requests.want(service, P)
    prefetch_requests.grant(queue, P, began)
    assert prefetch_requests.wanted(queue, P) == 2
    prefetch_requests.grant(queue, P, 2)
    assert prefetch_requests.wanted(queue, P) == 0


def test_the_task_opened_last_is_the_first(service, queue):
    assert prefetch_requests.opened(queue, P) is None
    for task in (3, 5, 3, 8):
        prefetch_requests.follow(service, P, task)
    assert (prefetch_requests.opened(queue, P), jobs(queue)) == (8, 1)
    prefetch_requests.followed(queue, P, 8)
    assert prefetch_requests.opened(queue, P) == 3
    prefetch_requests.followed(queue, P, 3)
    assert prefetch_requests.opened(queue, P) == 5
    prefetch_requests.forget(queue, P)
    assert prefetch_requests.opened(queue, P) is None


def test_whoever_opens_very_many_has_left_the_earliest(service, queue):
    for task in range(50):
        prefetch_requests.follow(service, P, task)
    seen = []
    while (task := prefetch_requests.opened(queue, P)) is not None:
        seen.append(task)
        prefetch_requests.followed(queue, P, task)
    assert seen == list(range(49, 49 - prefetch_requests.OPENED, -1))


def test_what_failed_is_left_out_until_the_round_ends(queue):
    prefetch_requests.fail(queue, P, "/b")
    assert prefetch_requests.without_failed(queue, P, ["/a", "/b", "/c"]) == ["/a", "/c"]
    prefetch_requests.grant(queue, P, 1)
    assert prefetch_requests.without_failed(queue, P, ["/a", "/b"]) == ["/a", "/b"]


@pytest.mark.parametrize("name", ["label_studio_url", "label_studio_api_key"])
def test_without_label_studio_nothing_is_asked_for(settings, name):
    service = Service(replace(settings, **{name: ""}))
    assert not prefetch_requests.want(service, P)
    prefetch_requests.follow(service, P, 3)
    assert service.queue.redis.keys() == []

"""What is asked for ahead of clicks, in Redis."""

from dataclasses import replace

import pytest

from skylight.backend.queue import prefetch_requests
from skylight.backend.queue.prefetch_requests import PrefetchRequests
from skylight.backend.service import Service

P = "1.1795340401"


@pytest.fixture
def queue(service):
    return service.queue


def jobs(queue) -> int:
    return queue.queues["embed"].count


def test_however_often_a_project_is_wanted_one_job_waits(service, queue):
    assert service.prefetch_requests.request_all(P)
    assert not service.prefetch_requests.request_all(P)
    assert (PrefetchRequests(queue).newest(P), jobs(queue)) == (2, 1)


def test_what_is_wanted_meanwhile_is_not_granted(service, queue):
    service.prefetch_requests.request_all(P)
    began = PrefetchRequests(queue).newest(P)
    service.prefetch_requests.request_all(P)
    PrefetchRequests(queue).mark_done(P, began)
    assert PrefetchRequests(queue).newest(P) == 2
    PrefetchRequests(queue).mark_done(P, 2)
    assert PrefetchRequests(queue).newest(P) == 0


def test_the_task_opened_last_is_the_first(service, queue):
    assert PrefetchRequests(queue).last_opened(P) is None
    for task in (3, 5, 3, 8):
        service.prefetch_requests.request_next(P, task)
    assert (PrefetchRequests(queue).last_opened(P), jobs(queue)) == (8, 1)
    PrefetchRequests(queue).mark_next_done(P, 8)
    assert PrefetchRequests(queue).last_opened(P) == 3
    PrefetchRequests(queue).mark_next_done(P, 3)
    assert PrefetchRequests(queue).last_opened(P) == 5
    PrefetchRequests(queue).forget_opened(P)
    assert PrefetchRequests(queue).last_opened(P) is None


def test_whoever_opens_very_many_has_left_the_earliest(service, queue):
    for task in range(50):
        service.prefetch_requests.request_next(P, task)
    seen = []
    while (task := PrefetchRequests(queue).last_opened(P)) is not None:
        seen.append(task)
        PrefetchRequests(queue).mark_next_done(P, task)
    assert seen == list(range(49, 49 - prefetch_requests.OPENED, -1))


def test_what_failed_is_left_out_until_the_round_ends(queue):
    PrefetchRequests(queue).note_failure(P, "/b")
    assert PrefetchRequests(queue).without_failed(P, ["/a", "/b", "/c"]) == ["/a", "/c"]
    PrefetchRequests(queue).mark_done(P, 1)
    assert PrefetchRequests(queue).without_failed(P, ["/a", "/b"]) == ["/a", "/b"]


@pytest.mark.parametrize("name", ["label_studio_url", "label_studio_api_key"])
def test_without_label_studio_nothing_is_asked_for(settings, name):
    service = Service(replace(settings, **{name: ""}))
    assert not service.prefetch_requests.request_all(P)
    service.prefetch_requests.request_next(P, 3)
    assert service.queue.redis.keys() == []

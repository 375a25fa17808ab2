"""Traces of requests and jobs."""

import logging
from collections import Counter
from contextvars import ContextVar

import pytest

from skylight.backend import trace
from skylight.backend.errors import MediaError
from skylight.backend.queue import counters
from skylight.backend.queue.keys import KINDS
from skylight.backend.trace import CURRENT_TRACE
from skylight.backend.web.tracing import endpoint_label
from skylight.backend.worker.tracing import traced


def lines(caplog):
    return [record.trace for record in caplog.records if record.name == trace.__name__]


@pytest.mark.parametrize(("given", "taken"), [("abc-1.2_3", True), ("", False), ("a b", False), ("x" * 65, False)])
def test_a_sane_request_id_is_taken_over_and_given_back(client, given, taken):
    answer = client.get("/nothing", headers={"X-Request-ID": given})
    found = answer.headers["X-Request-ID"]
    assert (found == given) == taken and len(found) <= 64
    assert answer.get_json()["id"] == found
    assert CURRENT_TRACE.get() is None


def test_every_request_leaves_a_line_that_says_how_it_ended(client, caplog):
    caplog.set_level(logging.INFO, trace.__name__)
    client.get("/health")
    client.get("/projects/9.9")
    client.post("/setup", json={"project": "1.5", "access_token": "never-logged"})
    client.get("/no/such?thing=1")
    assert [(line["what"], line["project"], line["outcome"], line["status"]) for line in lines(caplog)] == [
        ("health", None, "ok", 200),
        ("project", "9.9", "refused", 404),
        ("setup", "1.5", "ok", 200),
        ("unknown", None, "refused", 404),
    ]
    assert "never-logged" not in caplog.text and "thing" not in caplog.text


def test_no_two_endpoints_are_counted_as_one_nor_as_a_job(client, caplog):
    caplog.set_level(logging.INFO, trace.__name__)
    assert client.get("/openapi.json").status_code == 200
    assert [line["what"] for line in lines(caplog)] == ["openapi"]
    endpoints = {rule.endpoint for rule in client.application.url_map.iter_rules()}
    names = Counter(endpoint_label(each) for each in endpoints if not each.endswith("static"))
    assert [name for name, count in names.items() if count > 1] == []
    assert not set(names) & set(KINDS)


def test_a_job_leaves_a_line_and_is_counted(service, caplog):
    caplog.set_level(logging.INFO, trace.__name__)
    current = ContextVar("service")
    current.set(service)

    def ingest(project: str) -> None:
        if project != "1.1":
            trace.record_error(MediaError("gone"))
        if project == "1.3":
            raise MemoryError

    job = traced(current)(ingest)
    job("1.1")
    job("1.2")
    with pytest.raises(MemoryError):
        job("1.3")
    assert [(line["what"], line["project"], line["outcome"]) for line in lines(caplog)] == [
        ("ingest", "1.1", "ok"),
        ("ingest", "1.2", "faulty"),
        ("ingest", "1.3", "failed"),
    ]
    found = counters.read_counters(service.queue, service.store.projects())
    assert {each: count for each, (count, _) in found.jobs.items()} == {
        ("ingest", "ok"): 1,
        ("ingest", "faulty"): 1,
        ("ingest", "failed"): 1,
    }
    assert found.failures == {("ingest", "image"): 2, ("ingest", "memory"): 1}


def test_a_workers_line_names_the_job_and_how_long_it_waited(service, client, work, caplog):
    caplog.set_level(logging.INFO, trace.__name__)
    service.queue.add_event("1.5", {"what": "config", "label_config": ""})
    work()
    line = next(line for line in lines(caplog) if line["what"] == "ingest")
    assert line["id"].startswith("ingest-1-5-") and 0 <= line["waited_ms"] < 60_000


def test_a_job_that_cannot_be_counted_is_done_all_the_same(settings, service):
    current = ContextVar("service")
    current.set(service)
    done = []
    service.queue.redis = type(service.queue.redis).from_url("unix:///nowhere/redis.sock")
    traced(current)(lambda project: done.append(project))("1.5")
    assert done == ["1.5"]

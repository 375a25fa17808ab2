"""rq-dashboard below the page, to look at."""

import sys

import pytest

from skylight.backend.queue.keys import job_id
from skylight.backend.web.app import create_app

P = "1.1795340401"


@pytest.fixture
def queues(service):
    """A client, with one training queued."""
    pytest.importorskip("rq_dashboard", reason="the extra `dashboard` is not installed")
    service.queue.request(P, "train")
    return create_app(service.settings, service).test_client()


def test_queues_and_jobs_can_be_looked_at(queues):
    assert queues.get("/queues/").status_code == 200
    found = queues.get("/queues/0/data/queues.json").get_json()["queues"]
    assert {each["name"]: each["count"] for each in found} == {"skylight-train": 1}
    job = job_id(P, "train", 1)
    assert (
        queues.get(f"/queues/0/data/job/{job}.json").get_json()["description"]
        == f"skylight.backend.worker.jobs.train('{P}')"
    )
    assert 'href="/queues/"' in queues.get("/").text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/requeue/skylight-train"),
        ("POST", "/requeue/skylight-train"),
        ("POST", f"/job/{job_id(P, 'train', 1)}/delete"),
        ("POST", f"/job/{job_id(P, 'train', 1)}/requeue"),
        ("POST", "/queue/skylight-train/queued/empty"),
        ("POST", "/queue/skylight-train/compact"),
    ],
)
def test_nothing_can_be_changed(queues, service, method, path):
    answer = queues.open(f"/queues{path}", method=method)
    assert answer.status_code == 403
    assert service.queue.queues["train"].count == 1


def test_where_it_is_not_installed_nothing_is_linked(service, monkeypatch):
    monkeypatch.setitem(sys.modules, "rq_dashboard", None)
    client = create_app(service.settings, service).test_client()
    assert client.get("/queues/").status_code == 404
    assert "/queues" not in client.get("/").text

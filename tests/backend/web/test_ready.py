"""/ready, and what is red on the page."""

import os
import signal
import time
from collections import namedtuple
from dataclasses import replace

import pytest

from skylight.backend.admin import doctor, machine_checks
from skylight.backend.admin.findings import Finding
from skylight.backend.service import Service
from skylight.backend.store import disk_space
from skylight.backend.web import ready
from skylight.backend.web.app import create_app
from skylight.backend.worker import worker
from tests.support.label_studio_double import CONFIG


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """A doctor that finds nothing, it has tests of its own; and time enough for the quick checks."""
    monkeypatch.setattr(doctor, "findings", lambda service: [])
    monkeypatch.setattr(ready, "SECONDS", 10.0)


@pytest.fixture
def staffed(service: Service):
    """A worker is registered, by this process, which lives; signals are as before."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    made = worker.start(service)
    made.register_birth()
    yield made
    made.register_death()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def missing(client) -> dict[str, str]:
    answer = client.get("/ready")
    found = answer.get_json()
    assert answer.status_code == (200 if found["ready"] else 503)
    assert found["ready"] == (not found["missing"])
    return found["missing"]


def test_ready_is_whoever_has_broker_worker_and_checkpoint(client, staffed):
    assert missing(client) == {}


def test_without_a_worker_one_is_not_ready_but_alive(client):
    assert list(missing(client)) == ["worker"]
    assert client.get("/health").status_code == 200


def test_without_a_broker_or_the_sams_weights_one_is_not_ready(settings):
    bad = replace(settings, redis_url="unix:///nowhere/redis.sock", sam="vit_b")
    assert list(missing(create_app(bad).test_client())) == ["broker", "checkpoint"]


def test_an_event_that_waits_for_long_is_an_alarm_and_red_on_the_page(client, service, staffed):
    service.store.save_config("1.5", CONFIG)
    service.queue.add_event("1.5", {"what": "config", "received": time.time() - machine_checks.INBOX_SECONDS + 30})
    assert missing(client) == {}
    service.queue.add_event("1.6", {"what": "config", "received": time.time() - machine_checks.INBOX_SECONDS - 120})
    assert list(missing(client)) == ["inbox"]
    page = client.get("/").text
    assert '<p class="note fail">' in page and "the oldest event has waited for 12 min" in page


def test_an_event_on_disk_counts_too(client, service, staffed):
    service.spool.add("1.5", {"what": "config"})
    (path,) = (service.settings.home / "spool").glob("*.json")
    os.utime(path, (time.time() - 2 * machine_checks.INBOX_SECONDS,) * 2)
    assert list(missing(client)) == ["inbox"]


def test_a_full_disk_is_an_alarm(client, staffed, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda path: usage(disk_space.DISK_FAIL - 1))
    assert list(missing(client)) == ["disk"]
    assert "1.0 GB free" in client.get("/").text


def test_a_webhook_that_the_doctor_misses_is_an_alarm_that_names_no_project(client, staffed, monkeypatch):
    found = [
        Finding("project 3 'secret moon': webhook", "fail", "none", "Run: skylight doctor --fix"),
        Finding("project 4 'other': webhook", "warn", "no secret"),
        Finding("project 4 'other': ML backend", "fail", "not there"),
    ]
    monkeypatch.setattr(doctor, "findings", lambda service: found)
    assert list(missing(client)) == ["webhook"]
    assert "moon" not in client.get("/ready").text
    assert "secret moon" in client.get("/").text


def test_what_takes_too_long_to_look_at_is_not_waited_for(client, staffed, monkeypatch):
    monkeypatch.setattr(ready, "SECONDS", 0.4)
    monkeypatch.setattr(machine_checks, "quick_findings", lambda service: time.sleep(2))
    made = create_app(client.application.extensions["skylight"].settings, client.application.extensions["skylight"])
    began = time.perf_counter()
    assert list(missing(made.test_client())) == ["broker"]
    assert time.perf_counter() - began < 2  # which it would take

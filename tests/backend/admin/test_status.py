"""Every project's state as JSON and in words."""

from dataclasses import replace

import numpy as np
import pytest

from skylight.backend.admin.status import all_as_json, lines
from skylight.backend.service import Service
from tests.backend.web.page.test_overview import P, record
from tests.support.label_studio_double import CONFIG


@pytest.fixture
def project(service) -> str:
    service.store.save_config(P, CONFIG)
    service.store.put(P, record(1), np.zeros((4, 4), np.uint8))
    return P


def test_without_a_project_the_next_step_is_named(service):
    assert list(lines(all_as_json(service))) == ["no project has called yet; run: skylight connect --project ID"]


def test_what_waits_and_what_fails_is_told_with_what_to_do(service, project):
    service.queue.add_event(P, {"what": "config"})
    service.failures.record(P, "train", "no memory", "Close other programs")
    first, waits, failure, step = lines(all_as_json(service))
    assert first == f"project {P}: serves sam-tiny, 1 annotations"
    assert waits == "  1 events wait, a training is due"
    assert failure.startswith("  FAIL  train: no memory (") and failure.endswith(" UTC)")
    assert step == "        -> Close other programs"


def test_a_job_that_runs_is_named(service, project):
    with service.queue.lock(P, "embed"):
        assert list(lines(all_as_json(service)))[1].endswith("; at work: embed")


def test_without_redis_only_the_store_is_told_of(service, project):
    away = Service(replace(service.settings, redis_url="unix:///nowhere/redis.sock"))
    states = all_as_json(away)
    assert set(states[P]) == {"model_version", "annotations", "away"}
    assert list(lines(states)) == [f"project {P}: serves sam-tiny, 1 annotations", f"  FAIL  {states[P]['away']}"]

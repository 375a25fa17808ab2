"""A project's state, and the cache it is gathered from."""

from dataclasses import replace

import numpy as np
import pytest

from skylight.backend.admin.project_state import CARD_FIELDS, RecordCache, project_state
from skylight.backend.service import Service
from tests.backend.web.page.test_overview import P, card, publish, record
from tests.support.label_studio_double import CONFIG


@pytest.fixture
def project(service) -> str:
    service.store.save_config(P, CONFIG)
    return P


def test_the_state_is_gathered_from_store_queue_and_failures(service, project):
    publish(service, card(1, 3))
    service.versions.promote(P, 1)
    for annotation in (1, 2):
        service.store.put(P, record(annotation, task=1), np.zeros((4, 4), np.uint8))
    service.queue.add_event(P, {"what": "config"})
    service.failures.record(P, "train", "no memory", "Buy some")
    state = project_state(service, P)
    assert (state.model_version, len(state.samples), state.tasks, state.away) == ("skylight-1", 2, 1, "")
    assert [version.summary.mean_iou for version in state.versions] == [0.5]
    assert tuple(state.versions[0].card) == CARD_FIELDS
    assert state.queue and (state.queue.inbox, state.queue.up_to_date, state.queue.gone) == (1, False, "")
    assert [failure.reason for failure in state.queue.failures] == ["no memory"]
    assert [job.queued for job in state.queue.jobs] == [True, False, False, False]


def test_without_redis_the_state_has_what_the_store_knows_and_the_error(service, project):
    service.store.put(P, record(1), np.zeros((4, 4), np.uint8))
    away = Service(replace(service.settings, redis_url="unix:///nowhere/redis.sock"))
    state = project_state(away, P)
    assert (state.queue, len(state.samples)) == (None, 1)
    assert state.redis_error and state.away.startswith("Redis does not answer (ConnectionError)")


def test_records_are_read_again_when_one_came_or_went(service, project):
    records = RecordCache(service, clock=lambda: 4e9)  # as if all had settled long ago
    assert records.samples(P) == []
    service.store.put(P, record(1), np.zeros((4, 4), np.uint8))
    assert [one.annotation for one in records.samples(P)] == [1]
    assert records.samples(P) is records.samples(P)
    service.store.put(P, record(2), np.zeros((4, 4), np.uint8))
    assert [one.annotation for one in records.samples(P)] == [1, 2]
    service.store.remove(P, 1)
    assert [one.annotation for one in records.samples(P)] == [2]


def test_records_that_may_still_change_unseen_are_not_kept(service, project):
    records = RecordCache(service)
    service.store.put(P, record(1), np.zeros((4, 4), np.uint8))
    assert records.samples(P) is not records.samples(P)


def test_a_versions_card_is_read_once(service, project, monkeypatch):
    publish(service, card(1, 3))
    records = RecordCache(service)
    (version,) = records.versions(P)
    monkeypatch.setattr(service.versions, "card", lambda *_: pytest.fail("it is known"))
    assert records.versions(P) == [version]

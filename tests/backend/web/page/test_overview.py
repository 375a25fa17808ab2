"""What the page says of a project."""

from dataclasses import replace

import numpy as np
import pytest

from skylight.backend.admin.project_state import RecordCache
from skylight.backend.learning.agreement import agreements
from skylight.backend.learning.coverage import Readiness
from skylight.backend.service import Service
from skylight.backend.store.samples import SampleRecord
from skylight.backend.web.page.overview import ProjectView, agreement_summary, project_view
from tests.support.label_studio_double import CONFIG

P = "1.1795340401"


def record(annotation, task=0, **change) -> SampleRecord:
    made = SampleRecord(annotation, task or annotation, "2026-11-22T10:00:00Z", "/a", "0" * 64, (4, 4), ("Pit",), 1)
    return replace(made, **change)


def card(version, annotations, mean=0.5, **change):
    figures = {"mean_iou": mean, "iou": {"Pit": mean}}
    return {
        "version": version,
        "created_at": "2026-11-22T10:00:00+00:00",
        "labels": ["Pit"],
        "annotations": {str(i): "" for i in range(annotations)},
        "validation": figures,
        "per_task": {"1": mean},
        "promoted": True,
        "verdict": "promoted",
        "seconds": 9.5,
        **change,
    }


@pytest.fixture
def project(service) -> str:
    service.store.save_config(P, CONFIG)
    return P


def publish(service, made):
    service.versions.publish(P, lambda path: path.write_bytes(b"") and None, made)


def view_of(service: Service, project: str, readiness: Readiness | None) -> ProjectView:
    return project_view(service, project, RecordCache(service), readiness)


def test_a_project_that_has_just_come_shows_what_it_waits_for(service, project):
    view = view_of(service, P, None)
    assert (view.title, view.number, view.served, view.labels) == ("Project 1", "1", "sam-tiny", ("Pit",))
    assert (view.problem, view.away, view.now, view.learning_chart, view.agreement_chart) == ("", "", None, None, None)
    assert (view.annotations, view.needed, view.busy) == (0, 3, False)
    assert service.loaded_embedder is None


def test_a_configuration_that_cannot_be_served_is_named(service, project):
    service.store.save_config(P, "<View/>")
    assert "no Image" in view_of(service, P, None).problem
    service.store.save_config("2.1", "")
    assert "has not come yet" in view_of(service, "2.1", None).problem


def test_versions_are_listed_the_newest_first_with_the_one_that_is_served(service, project):
    publish(service, card(1, 3, 0.4))
    publish(service, card(2, 6, 0.6, labels=["Crater"], cross_validated=True))
    service.versions.promote(P, 1)
    for annotation in (1, 2):
        service.store.put(P, record(annotation, task=1), np.zeros((4, 4), np.uint8))
    view = view_of(service, P, None)
    assert [(row.number, row.labels) for row in view.versions] == [(2, ("Crater",)), (1, ("Pit",))]
    assert view.now and (view.now.mean_iou, view.now.annotations, view.now.validated) == (0.4, 3, 1)
    assert view.versions[0].cross_validated
    assert (view.annotations, view.tasks, view.before) == (2, 1, 0)
    assert view.link == f"{service.settings.label_studio_url}/projects/1"


def test_what_waits_and_runs_is_shown(service, project):
    service.queue.add_event(P, {"what": "config"})
    view = view_of(service, P, Readiness("Pits", 9, 1, 9, True))
    assert (view.inbox, view.up_to_date, view.busy, view.workers, view.title) == (1, False, True, 0, "Pits")
    assert [job.queued for job in view.jobs] == [True, False, False, False]


def test_without_redis_the_rest_is_shown(service, project):
    publish(service, card(1, 3))
    service.versions.promote(P, 1)
    away = Service(replace(service.settings, redis_url="unix:///nowhere/redis.sock"))
    view = view_of(away, P, None)
    assert "Redis does not answer" in view.away
    assert (view.served, len(view.versions), view.jobs) == ("skylight-1", 1, ())


def test_agreement_is_told_of_the_newest_and_of_all():
    records = [
        record(i, shown="skylight-1", agreement=i / 20, updated_at=f"2026-11-22T10:00:{i:02d}Z") for i in range(1, 21)
    ]
    found = agreement_summary(agreements([*records, record(99)]))
    assert found is not None
    assert found.recent == pytest.approx(sum(range(11, 21)) / 200)
    assert (found.of, found.count, found.unchanged) == (10, 20, 1)
    assert agreement_summary([]) is None

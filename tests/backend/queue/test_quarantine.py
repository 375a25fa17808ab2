"""What was set aside because of a configuration is tried again once that is another one."""

import copy
import json
from dataclasses import asdict, replace

import pytest

from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.learning.ingest import ingest_inbox
from skylight.backend.learning.reconcile import reconcile
from skylight.backend.queue.keys import key
from skylight.backend.queue.quarantine import Quarantine
from skylight.backend.service import Service
from skylight.backend.web.app import create_app
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import brush, png, square

P = "1.1795340435"
LABELING = parse_config(CONFIG)
EVENT = {"id": 7, "task": 3, "updated_at": "2026-11-22T10:00:00.000001Z"}
BAD_CONFIG = CONFIG.replace('value="$image"', 'value="$picture"')  # no task has such a key


@pytest.fixture
def project(planted, studio) -> str:
    return studio.add_project()


def submit(studio, project, seed: int = 0) -> dict:
    image, mask = square(seed)
    return studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)])


def tell(service: Service, body: dict) -> None:
    client = create_app(service.settings, service).test_client()
    assert client.post("/webhook", json=body).status_code == 202


def quarantine(service: Service, studio, project, annotation) -> None:
    """Have an annotation fail until it is not tried again by itself."""
    for _ in range(2):
        tell(service, studio.webhook("ANNOTATION_CREATED", project, annotation))
        ingest_inbox(service, project)
    (found,) = service.quarantine.of(project)
    assert found.quarantined and service.store.samples(project) == []


def settled(planted, **changed) -> Service:
    """The same Skylight, started anew with other settings."""
    made = Service(replace(planted.settings, **changed))
    made._embedder = copy.copy(planted._embedder)
    made._embedder.max_pixels = made.settings.max_pixels
    made.recipe = planted.recipe
    return made


def learned(service, project) -> list[int]:
    return [each.annotation for each in service.store.samples(project)]


@pytest.mark.parametrize("connected", [True, False])
def test_a_mended_labeling_configuration_frees_what_the_bad_one_quarantined(planted, studio, work, connected):
    if not connected:  # to Label Studio, which could be asked for the annotation again
        planted.settings = replace(planted.settings, label_studio_api_key="")
    project = studio.add_project(BAD_CONFIG)
    annotation = submit(studio, project)
    quarantine(planted, studio, project, annotation)
    reason = planted.quarantine.of(project)[0].reason
    assert "'picture'" in reason
    studio.projects[1]["label_config"] = CONFIG
    tell(planted, studio.webhook("PROJECT_UPDATED", project))
    work()
    assert learned(planted, project) == [annotation["id"]]
    assert planted.quarantine.of(project) == []


def test_mended_settings_free_what_the_bad_ones_quarantined(planted, studio, project):
    poor = settled(planted, max_pixels=10)
    annotation = submit(studio, project)
    quarantine(poor, studio, project, annotation)
    assert "more than the 10 allowed" in poor.quarantine.of(project)[0].reason
    assert poor.retries.request_due() == [] and reconcile(poor, project) == 0
    again = settled(planted, max_pixels=10)  # started again with nothing mended
    assert again.retries.request_due() == [] and reconcile(again, project) == 0
    mended = settled(planted, max_pixels=10**6)
    assert mended.retries.request_due() == [f"annotations {project}"]
    assert reconcile(mended, project) == 1
    assert learned(mended, project) == [annotation["id"]] and mended.quarantine.of(project) == []


def test_other_bands_free_what_the_chosen_ones_quarantined(planted, project):
    before = planted.configuration(project)
    planted.normalizations.set(project, replace(planted.normalizations.of(project), bands=(4, 3, 2)))
    assert planted.configuration(project) != before
    planted.normalizations.set(project, replace(planted.normalizations.of(project), range=(0.0, 9.0)))
    bands = planted.configuration(project)
    planted.normalizations.set(project, replace(planted.normalizations.of(project), range=(0.0, 7.0)))
    assert planted.configuration(project) == bands  # the pictures themselves settle that


def test_what_fails_under_another_configuration_too_is_quarantined_again(service):
    current = "one"
    quarantine = Quarantine(service.queue.redis, lambda: 1000.0, lambda project: current)
    for configuration in ("one", "two"):
        current = configuration
        assert [each.annotation for each in quarantine.due(P)] == ([7] if configuration == "two" else [])
        assert not quarantine.record_failure(P, EVENT, "broken", own=True).quarantined
        assert quarantine.record_failure(P, EVENT, "broken", own=True).quarantined
        assert quarantine.due(P) == []
    current = "one"  # as of a worker with other settings, which has tried it before
    assert quarantine.due(P) == [] and quarantine.get(P, 7).configurations == ("one", "two")


def test_a_later_state_begins_anew_and_what_was_asked_for_is_tried(service):
    quarantine = Quarantine(service.queue.redis, lambda: 1000.0, lambda project: "one")
    for _ in range(2):
        quarantine.record_failure(P, EVENT, "broken", own=True)
    later = quarantine.record_failure(P, {**EVENT, "updated_at": "2026-11-23T10:00:00.000001Z"}, "broken", own=True)
    assert (later.tries, later.quarantined) == (1, False)
    assert quarantine.retry_all(P) == 1 and len(quarantine.due(P)) == 1


def test_what_the_release_before_set_aside_is_tried_once_more(service):
    quarantine = Quarantine(service.queue.redis, configuration=lambda project: "one")
    for _ in range(2):
        made = quarantine.record_failure(P, EVENT, "broken", own=True)
    old = {name: value for name, value in asdict(made).items() if name != "configurations"}
    service.queue.redis.hset(key(P, "aside"), "7", json.dumps(old))
    assert [each.annotation for each in quarantine.due(P)] == [7]
    assert quarantine.record_failure(P, EVENT, "broken", own=True).configurations == ("one",)

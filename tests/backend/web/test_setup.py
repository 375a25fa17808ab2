"""/health, /setup, /versions and /status, as Label Studio and people ask for them."""

import json
from dataclasses import replace

import pytest

from skylight.backend.queue.keys import KINDS, key
from skylight.backend.queue.progress import reporter
from skylight.backend.service import Service
from skylight.backend.web.app import create_app
from tests.support.label_studio_double import CONFIG, capture

P = "1.1795340435"


def setup(client, **change):
    return client.post("/setup", json=capture("02") | change)


def test_health_says_that_it_is_up(client):
    answer = client.get("/health")
    assert (answer.status_code, answer.get_json()["status"]) == (200, "UP")


def test_health_does_not_need_redis_or_label_studio(settings):
    client = create_app(replace(settings, redis_url="unix:///nowhere/redis.sock", label_studio_url="")).test_client()
    assert client.get("/health").status_code == 200


def test_setup_names_what_is_served_and_loads_nothing(client, service):
    assert setup(client).get_json() == {"model_version": "sam-tiny"}
    assert service.loaded_embedder is None
    service.versions.publish(P, lambda path: path.write_bytes(b"x") and None, {})
    service.versions.promote(P, 1)
    assert setup(client).get_json() == {"model_version": "skylight-1"}
    assert service.loaded_embedder is None


def test_setup_changes_nothing_when_it_comes_again(client, service):
    for _ in range(3):
        setup(client)
    kept = list(service.queue.take_events(P))
    assert all(event.pop("received") for event in kept)
    assert kept == 3 * [{"what": "config", "label_config": capture("02")["schema"]}]
    assert service.queue.dirty(P) == 0
    service.store.save_config(P, capture("02")["schema"])
    before = sorted(service.queue.redis.keys())
    for _ in range(3):
        setup(client)
    assert service.queue.inbox_length(P) == 0
    assert sorted(service.queue.redis.keys()) == before


def test_a_project_that_is_new_is_compared_with_label_studio(client, service):
    setup(client)
    assert service.queue.take_reconciliation(P)
    service.store.save_config(P, CONFIG)
    setup(client)  # other labels, but known
    assert not service.queue.take_reconciliation(P)


@pytest.mark.parametrize("schema", ["", "<View/>", "no xml", "<View><Text name='t' value='$t'/></View>"])
def test_setup_of_a_project_that_cannot_be_served_is_answered_all_the_same(client, schema):
    answer = setup(client, schema=schema)
    assert (answer.status_code, answer.get_json()) == (200, {"model_version": "sam-tiny"})


@pytest.mark.parametrize("project", [None, "", "../../etc", ".."])
def test_setup_without_a_proper_project_is_refused(client, project):
    answer = setup(client, project=project)
    assert answer.status_code == 400
    assert "project" in answer.get_json()["error"]


def test_the_token_that_setup_brings_is_not_kept(client, service):
    setup(client, access_token="s3cret")
    assert "s3cret" not in str(service.queue.redis.lrange(key(P, "inbox"), 0, -1))


def test_setup_answers_from_the_store_while_redis_is_away(service):
    service.versions.publish(P, lambda path: path.write_bytes(b"x") and None, {})
    service.versions.promote(P, 1)
    away = Service(replace(service.settings, redis_url="unix:///nowhere/redis.sock"))
    answer = setup(create_app(away.settings, away).test_client())
    assert (answer.status_code, answer.get_json()) == (200, {"model_version": "skylight-1"})


def test_versions_lists_what_any_project_may_name(client, service):
    assert client.get("/versions").get_json() == {"versions": ["sam-tiny"]}
    for project, count in ((P, 1), ("2.1795340436", 2)):
        for _ in range(count):
            service.versions.publish(project, lambda path: path.write_bytes(b"x") and None, {})
    assert client.get("/versions").get_json() == {"versions": ["sam-tiny", "skylight-1", "skylight-2"]}


def test_status_shows_what_waits(client, service):
    assert client.get("/status").get_json() == {}
    service.store.save_config(P, CONFIG)
    client.post("/webhook", json=capture("21"))
    idle = {"running": False, "queued": False, "failed": 0, "done": 0, "total": 0, "rate": 0.0}
    assert client.get("/status").get_json() == {
        P: {
            "model_version": "sam-tiny",
            "normalisation": {"bands": [], "range": None},
            "annotations": 0,
            "tasks": 0,
            "inbox": 1,
            "up_to_date": False,
            "jobs": {kind: idle | {"queued": kind == "ingest"} for kind in KINDS},
            "versions": [],
            "failures": [],
            "set_aside": [],
        }
    }


def test_status_shows_how_far_and_how_fast_the_images_are_embedded(client, service):
    service.store.save_config(P, CONFIG)
    with service.queue.lock(P, "embed"):
        reporter(service.queue, P, "embed")(3, 40, 2.5)
        shown = client.get("/status").get_json()[P]["jobs"]["embed"]
    assert (shown["running"], shown["done"], shown["total"], shown["rate"]) == (True, 3, 40, 2.5)


def test_status_without_redis_says_so(service):
    service.store.save_config(P, CONFIG)
    away = Service(replace(service.settings, redis_url="unix:///nowhere/redis.sock"))
    answer = create_app(away.settings, away).test_client().get("/status")
    assert answer.status_code == 503
    assert "not ready" in json.loads(answer.data)["error"]

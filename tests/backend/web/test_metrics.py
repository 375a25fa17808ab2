"""/metrics, as Prometheus reads it."""

import time
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from skylight.backend.queue.keys import key
from skylight.backend.service import Service
from skylight.backend.web.app import create_app
from tests.support.label_studio_double import CONFIG, capture
from tests.support.planted_embeddings import brush, key_point, png, square


def read(client) -> dict[tuple, float]:
    """Each figure by its name and the values of its labels, which come in the order of their names."""
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.content_type.startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.text)
    return {
        (
            one.name,
            *(value for name, value in one.labels.items() if name != "le" or one.name.endswith("bucket")),
        ): one.value
        for family in families
        for one in family.samples
    }


@pytest.fixture
def project(studio, planted) -> str:
    """A project with three annotated tasks."""
    name = studio.add_project()
    planted.store.save_config(name, CONFIG)
    labeling = planted.labeling(CONFIG)
    for seed in range(3):
        picture, mask = square(seed)
        studio.annotate(studio.add_task(name, png(picture)), [brush(labeling, mask)])
    return name


def test_what_the_web_server_answers_is_counted_by_how_long_it_took_and_what_failed(client, planted, studio, project):
    context = {"result": [key_point("point", "Pit", 20, 20, (64, 64))]}
    body = {"project": project, "label_config": CONFIG, "params": {"context": context}}
    for task in (1, 1, 99):
        data = studio.tasks[1]["data"] if task == 1 else {"image": "/data/upload/1/gone.png"}
        client.post("/predict", json=body | {"tasks": [{"id": task, "data": data}]})
    client.post("/webhook", json=capture("21"))
    client.post("/webhook", json={"action": "A" * 500})
    found = read(client)
    assert found["skylight_click_seconds_count",] == 3
    assert 0 < found["skylight_click_seconds_sum",] < 30
    assert found["skylight_webhook_seconds_count",] == 2
    assert found["skylight_requests_total", "ok", "click"] == 2
    assert found["skylight_requests_total", "faulty", "click"] == 1
    assert found["skylight_requests_total", "refused", "webhook"] == 1
    assert found["skylight_failures_total", "image", "click"] == 1
    assert found["skylight_failures_total", "request", "webhook"] == 1
    assert found["skylight_cache_lookups_total", "web", "miss"] == 1
    assert found["skylight_cache_lookups_total", "web", "memory"] == 1


def test_what_the_workers_do_is_told_by_the_web_server(client, planted, studio, project, work):
    for task in (1, 2, 3):
        annotation = studio.tasks[task]["annotations"][0]
        client.post("/webhook", json=studio.webhook("ANNOTATION_CREATED", project, annotation))
    found = read(client)
    assert found["skylight_queue_depth", "ingest"] == 1
    assert found["skylight_inbox_events", project] == 3
    assert 0 < found["skylight_inbox_age_seconds", project] < 60
    assert found["skylight_current_version", project] == 0 and ("skylight_current_miou", project) not in found
    work()
    found = read(client)
    assert found["skylight_inbox_events", project] == 0 == found["skylight_inbox_age_seconds", project]
    assert found["skylight_samples", project] == 3
    assert found["skylight_current_version", project] == 1
    assert 0 <= found["skylight_current_miou", project] <= 1
    assert (
        found["skylight_training_seconds_count", project] == 1 and found["skylight_training_seconds_sum", project] > 0
    )
    assert found["skylight_job_seconds_count", "train", "ok"] >= 1
    assert found["skylight_job_seconds_sum", "ingest", "ok"] > 0
    assert found["skylight_cache_lookups_total", "worker", "miss"] == 3


def test_what_fails_in_a_job_is_counted_by_its_cause(client, planted, studio, project, work):
    studio.pictures.clear()
    annotation = studio.tasks[1]["annotations"][0]
    client.post("/webhook", json=studio.webhook("ANNOTATION_CREATED", project, annotation))
    work()
    found = read(client)
    assert found["skylight_failures_total", "image", "ingest"] >= 1
    assert found["skylight_job_seconds_count", "ingest", "faulty"] >= 1


def test_without_redis_the_rest_is_told_at_once(settings, planted):
    planted.store.save_config("1.5", CONFIG)
    away = create_app(settings, Service(replace(settings, redis_url="unix:///nowhere/redis.sock"))).test_client()
    found = read(away)
    assert found["skylight_redis_up",] == 0
    assert found["skylight_samples", "1.5"] == 0 == found["skylight_current_version", "1.5"]
    assert not any(name[0].startswith("skylight_inbox") for name in found)


def test_a_version_that_cannot_be_read_leaves_the_others_figures_alone(client, planted, project):
    planted.versions.publish("1.7", lambda path: path.write_bytes(b""), {})  # no card to speak of
    assert ("skylight_current_version", project) in read(client)


def test_an_event_keeps_the_time_when_it_was_accepted_first(planted):
    planted.queue.add_event("1.5", {"what": "config", "received": time.time() - 900})
    client = create_app(planted.settings, planted).test_client()
    assert read(client)["skylight_inbox_age_seconds", "1.5"] == pytest.approx(900, abs=60)
    assert planted.queue.redis.llen(key("1.5", "inbox")) == 1

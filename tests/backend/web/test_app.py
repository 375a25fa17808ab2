"""The application as a whole: every answer is JSON, and no error says more than a sentence."""

from dataclasses import replace

import pytest

from skylight.backend.service import Service
from skylight.backend.web.app import create_app
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import key_point


def click() -> dict[str, object]:
    context = {"result": [key_point("point", "Pit", 5, 5, (64, 64))]}
    tasks = [{"id": 1, "data": {"image": "/data/upload/1/a.png"}}]
    return {"project": "1.1", "label_config": CONFIG, "tasks": tasks, "params": {"context": context}}


def test_making_an_application_connects_and_loads_nothing(settings):
    app = create_app(replace(settings, redis_url="unix:///nowhere/redis.sock", label_studio_url="http://127.0.0.1:1"))
    assert app.extensions["skylight"].loaded_embedder is None
    assert not settings.home.exists()


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("GET", "/predict", 405)])
def test_what_is_not_there_is_answered_in_json(client, method, path, status):
    answer = client.open(path, method=method)
    assert answer.status_code == status
    assert set(answer.get_json()) == {"error", "id"}


def test_a_sam_that_is_not_there_yet_is_named_with_the_command_that_gets_it(settings):
    client = create_app(replace(settings, sam="vit_b")).test_client()
    answer = client.post("/predict", json=click())
    assert answer.status_code == 503
    assert "skylight checkpoints download vit_b" in answer.get_json()["error"]
    assert client.get("/health").status_code == 200


def test_an_error_nobody_foresaw_goes_to_the_log_and_not_to_the_caller(settings, caplog):
    service = Service(settings)
    service.versions = None  # type: ignore[assignment]
    answer = create_app(settings, service).test_client().post("/predict", json=click())
    assert answer.status_code == 500
    assert "NoneType" not in answer.text and "Traceback" not in answer.text and "log" in answer.get_json()["error"]
    assert "AttributeError: 'NoneType'" in caplog.text


def test_the_key_is_in_no_answer_and_no_log(client, settings, studio, caplog):
    caplog.set_level("DEBUG")
    studio.stop()
    client.post("/predict", json=click())
    for path in ("/health", "/versions", "/status"):
        assert settings.label_studio_api_key not in client.get(path).text
    assert "/data/upload/1/a.png" in caplog.text
    assert settings.label_studio_api_key not in caplog.text

"""Skylight hosted by label-studio-ml 2.x: by a stand-in of its server, and by itself where it is installed."""

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import requests
from flask.testing import FlaskClient

from skylight.backend.admin.connect import connect
from skylight.backend.admin.doctor import findings
from skylight.backend.errors import ConfigError
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.learning.ingest import ingest_inbox
from skylight.backend.security.basic_auth import BasicAuth
from skylight.backend.security.webhook_secret import HEADER
from skylight.backend.service import Service
from tests.backend.web.test_auth import PASSWORD, USER, basic
from tests.backend.web.test_predict import SIZE, P, serve_decoder
from tests.support.label_studio_double import CONFIG, KEY, Studio, capture, serve_app
from tests.support.label_studio_ml_host import CLASS, modules
from tests.support.planted_embeddings import brush, png

Start = Callable[..., FlaskClient]


@pytest.fixture(params=["stand-in", "installed"])
def api(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[ModuleType]:
    """The module of label-studio-ml's server."""
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "label-studio-ml"))
    for name in ("BASIC_AUTH_USER", "BASIC_AUTH_PASS"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:
        try:
            yield stack.enter_context(modules(request.param))
        except ImportError as error:
            pytest.skip(f"label-studio-ml 2.x is not installed: {error}")


@pytest.fixture
def start(api: ModuleType, planted: Service, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Begins to serve, as its `_wsgi.py` does; gives a client."""

    def begin(user: str = "", password: str = "", **fields: Any) -> FlaskClient:
        planted.settings = replace(planted.settings, **fields)
        hosted = importlib.import_module(CLASS)
        monkeypatch.setattr(hosted, "service", lambda: planted)
        client: FlaskClient = api.init_app(hosted.Skylight, user or None, password or None).test_client()
        return client

    return begin


@pytest.fixture
def pictures(studio: Studio) -> None:
    for number in ("05", "08"):
        for task in capture(number)["tasks"]:
            studio.pictures[task["data"]["image"]] = png(np.full((*SIZE, 3), 90, np.uint8))


def inbox(service: Service, project: str = P) -> list[str]:
    raw = service.queue.redis.lrange(f"skylight:{project}:inbox", 0, -1)
    return [json.loads(each)["what"] for each in raw]


def test_setup_takes_note_of_the_project_and_names_what_is_served(start, planted):
    client, body = start(), capture("02")
    answer = client.post("/setup", json=body)
    assert (answer.status_code, answer.get_json()) == (200, {"model_version": "sam-tiny"})
    assert inbox(planted, body["project"]) == ["config"]
    serve_decoder(planted, body["project"], ("Dog",))
    assert client.post("/setup", json=body).get_json() == {"model_version": "skylight-1"}
    planted.versions.roll_back(body["project"])
    assert client.post("/setup", json=capture("03")).get_json() == {"model_version": "sam-tiny"}
    assert client.get("/health").get_json()["model_class"] == "Skylight"


def test_two_projects_with_the_same_number_are_told_apart(start, planted):
    client, body = start(), capture("02")
    other = body["project"].partition(".")[0] + ".77"
    serve_decoder(planted, other, ("Dog",))
    assert client.post("/setup", json={**body, "project": other}).get_json() == {"model_version": "skylight-1"}
    assert client.post("/setup", json=body).get_json() == {"model_version": "sam-tiny"}


def test_a_click_is_answered_with_a_mask(start, pictures):
    answer = start().post("/predict", json=capture("05"))
    assert answer.status_code == 200
    (result,) = answer.get_json()["results"]
    assert result["model_version"] == "sam-tiny"
    (region,) = result["result"]
    assert (region["type"], region["original_width"], region["original_height"]) == ("brushlabels", 800, 534)


def test_a_batch_is_pre_annotated_by_the_projects_own_version(start, planted, pictures):
    body = capture("08")
    serve_decoder(planted, body["project"], ("Dog", "Cat"))
    answer = start().post("/predict", json=body)
    results = answer.get_json()["results"]
    assert len(results) == len(body["tasks"]) == 2
    assert all(one["model_version"] == "skylight-1" for one in results)
    for params in ({}, {"context": None}, {"context": {}}):
        again = start().post("/predict", json={**body, "params": {"login": "a", "password": "b", **params}})
        assert [one["model_version"] for one in again.get_json()["results"]] == ["skylight-1"] * 2


def test_a_prewarm_is_answered_with_nothing(start, planted, pictures, studio):
    body = capture("05")
    body["params"]["context"] = {"event": "prewarm"}
    (result,) = start().post("/predict", json=body).get_json()["results"]
    assert result["result"] == []


@pytest.mark.parametrize("number", ["20", "21", "26", "28"])
def test_events_are_kept(start, planted, number):
    answer = start().post("/webhook", json=capture(number))
    assert answer.status_code == 201 and answer.get_json()["status"] == "ok"
    assert inbox(planted) == ["train" if number == "20" else "annotation"]


@pytest.mark.parametrize("number", ["30", "35", "37", "33"])
def test_events_that_label_studio_ml_does_not_pass_on_are_no_error(start, planted, number):
    assert start().post("/webhook", json=capture(number)).status_code == 200
    assert inbox(planted) == []


def test_an_annotation_becomes_a_sample(start, planted, studio):
    client, project = start(), studio.add_project()
    client.post("/setup", json={"project": project, "schema": CONFIG})
    mask = np.zeros((64, 64), bool)
    mask[8:40, 8:40] = True
    task = studio.add_task(project, png(np.full((64, 64, 3), 90, np.uint8)))
    submitted = studio.annotate(task, [brush(planted.labeling(CONFIG), mask)])
    assert client.post("/webhook", json=studio.webhook("ANNOTATION_CREATED", project, submitted)).status_code == 201
    assert ingest_inbox(planted, project) == 2
    assert [record.annotation for record in planted.store.samples(project)] == [submitted["id"]]


def test_of_a_signed_project_events_without_the_secret_are_refused_in_a_sentence(start, planted):
    client, body = start(), capture("21")
    assert client.post("/webhook", json=body, headers=planted.secret.headers).status_code == 201
    for headers in ({}, {HEADER: "wrong"}, basic()):
        answer = client.post("/webhook", json=body, headers=headers)
        assert answer.status_code == 403 and HEADER in answer.get_json()["error"]
    assert inbox(planted) == ["annotation"]
    assert client.post("/webhook", json=capture("20")).status_code == 201  # START_TRAINING comes without it


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/setup", {"project": "../..", "schema": CONFIG}, "project"),
        ("/predict", {"project": P, "tasks": 1, "label_config": CONFIG}, "'tasks' must be a list"),
        ("/webhook", {**capture("21"), "annotation": {}}, "id, task and updated_at"),
        ("/webhook", {"action": "START_TRAINING", "project": {"id": 1, "label_config": CONFIG}}, "created_at"),
    ],
)
def test_what_is_no_request_is_refused_in_a_sentence_without_a_traceback(start, path, body, said):
    answer = start().post(path, json=body)
    assert answer.status_code == 400
    assert said in answer.get_json()["error"] and "raceback" not in answer.text


def test_a_configuration_that_cannot_be_read_is_no_reason_not_to_connect(start):
    for config in ("<View/>", "<View>", "", None):
        assert start().post("/setup", json={"project": P, "schema": config}).status_code == 200


def test_its_own_login_is_asked_for_and_counts(start, planted, pictures):
    client = start(USER, PASSWORD)
    planted.secret.require(P)
    for path, number in (("/setup", "02"), ("/predict", "05"), ("/webhook", "21")):
        assert client.post(path, json=capture(number)).status_code == 401
        assert client.post(path, json=capture(number), headers=basic(password="wrong")).status_code == 401
        assert client.post(path, json=capture(number), headers=basic()).status_code in (200, 201)
    assert client.get("/health").status_code == 401
    assert inbox(planted) == ["config", "annotation"]


def test_its_login_may_come_from_the_environment(start, monkeypatch):
    monkeypatch.setenv("BASIC_AUTH_USER", USER)
    monkeypatch.setenv("BASIC_AUTH_PASS", PASSWORD)
    client = start()
    assert client.post("/setup", json=capture("02")).status_code == 401
    assert client.post("/setup", json=capture("02"), headers=basic()).status_code == 200


def test_skylights_login_is_asked_for_where_label_studio_ml_asks_for_none(start, planted, pictures):
    client = start(user="", password="")
    planted.settings = replace(planted.settings, user=USER, password=PASSWORD)
    for path, number in (("/setup", "02"), ("/predict", "05"), ("/webhook", "21")):
        answer = client.post(path, json=capture(number))
        assert answer.status_code == 401 and "SKYLIGHT_USER" in answer.get_json()["error"]
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
        assert client.post(path, json=capture(number), headers=basic()).status_code in (200, 201)
    assert inbox(planted) == ["config", "annotation"]
    assert client.post("/webhook", json=capture("28"), headers=planted.secret.headers).status_code == 201
    assert client.post("/setup", json=capture("02"), headers=planted.secret.headers).status_code == 401


@pytest.mark.parametrize("locked", [False, True])
def test_it_is_connected_so_that_label_studios_webhook_comes_in(start, planted, studio, locked):
    login = BasicAuth(USER, PASSWORD) if locked else BasicAuth()
    client = start(login.user, login.password)
    planted.settings = replace(planted.settings, user=login.user, password=login.password)
    project, studio.asks = studio.add_project(), True
    with serve_app(client.application) as url:
        connect(LabelStudio(studio.url, KEY), planted.secret, 1, url, login)
        (webhook,) = studio.webhooks.values()
        assert webhook["headers"] == planted.secret.headers | (basic() if locked else {})
        task = studio.add_task(project, b"")
        body = studio.webhook("ANNOTATION_CREATED", project, studio.annotate(task, []))
        assert requests.post(webhook["url"], json=body, headers=webhook["headers"], timeout=9).status_code == 201
        assert inbox(planted, project)[-1] == "annotation"
        found = {each.what.rpartition(": ")[2]: each for each in findings(planted) if each.what.startswith("project 1")}
        assert {found[what].state for what in ("ML backend", "webhook")} == {"ok"}
        studio.webhooks[1]["headers"] = planted.secret.headers
        again = connect(LabelStudio(studio.url, KEY), planted.secret, 1, url, login)
        assert [each.what.split()[0] for each in again if each.made] == (["webhook"] if locked else [])


def test_it_can_be_tried_without_a_server(start, planted, studio, pictures):
    """As by `--check`, or in a script."""
    start()
    hosted = importlib.import_module(CLASS).Skylight
    assert hosted().get("model_version") == "sam-tiny"
    serve_decoder(planted, P, ("Dog",))
    model = hosted(project_id="1", label_config=capture("05")["label_config"])
    assert model.get("model_version") == "skylight-1"
    answer = model.predict(capture("05")["tasks"], capture("05")["params"]["context"], login="", password="")
    assert len(answer.model_dump()["predictions"][0]["result"]) == 1
    data = capture("21")
    assert model.fit(data.pop("action"), data) == {"kept": 1}


def test_it_needs_a_broker(api, monkeypatch, tmp_path):
    monkeypatch.setenv("SKYLIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("REDIS_URL", raising=False)
    hosted = importlib.import_module(CLASS)
    with pytest.raises(ConfigError, match="REDIS_URL"):
        hosted.service()
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    assert hosted.service() is hosted.service()

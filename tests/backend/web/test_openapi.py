"""/openapi.json: valid itself, and true of what Label Studio was recorded to send and of what we answer."""

import json
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from skylight.backend.web.openapi import description
from tests.backend.labelstudio.test_captures import SIZE
from tests.support import raw_http
from tests.support.label_studio_double import CAPTURES, Studio
from tests.support.planted_embeddings import png

FILES = sorted(CAPTURES.glob("*.json"))
ROUTES = {"/health", "/setup", "/predict", "/webhook", "/versions", "/status", "/openapi.json"}


def schema(path: str, method: str, status: str | None = None) -> dict[str, Any]:
    """Of a request's body, or of the answer with a status."""
    whole = description()
    asked = whole["paths"][path][method.lower()]
    found = asked["responses"][status] if status else asked["requestBody"]
    return {**found["content"]["application/json"]["schema"], "components": whole["components"]}


def test_it_is_served_and_its_schemas_are_schemas(client):
    whole = client.get("/openapi.json").get_json()
    assert whole == description()
    assert whole["openapi"] == "3.1.0" and set(whole["paths"]) == ROUTES
    for path, methods in whole["paths"].items():
        for method, asked in methods.items():
            for status in asked["responses"]:
                Draft202012Validator.check_schema(schema(path, method, status))
            if "requestBody" in asked:
                Draft202012Validator.check_schema(schema(path, method))


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name[:2])
def test_recorded_requests_and_our_answers_are_as_it_says(client, planted, studio: Studio, file):
    request = json.loads(file.read_text())
    path, method, body = request["path"], request["method"], request.get("body")
    for task in (body or {}).get("tasks", []):
        studio.pictures[task.get("data", {}).get("image", "")] = png(np.full((*SIZE, 3), 90, np.uint8))
    if body is not None:
        Draft202012Validator(schema(path, method)).validate(body)
    answer = client.open(path, method=method, json=body)
    Draft202012Validator(schema(path, method, str(answer.status_code))).validate(answer.get_json())
    assert answer.status_code in (200, 202)


@pytest.mark.parametrize("number", ["21", "30", "36", "05", "02"])
def test_what_lacks_something_is_refused_by_it_and_by_us(client, number):
    request = json.loads(next(path for path in FILES if path.name.startswith(number)).read_text())
    body, needed = request["body"], {"21": "annotation", "30": "annotations", "36": "tasks", "05": "tasks"}
    del body[needed.get(number, "project")]
    assert not Draft202012Validator(schema(request["path"], "post")).is_valid(body)
    answer = client.post(request["path"], json=body)
    assert answer.status_code == 400
    Draft202012Validator(schema(request["path"], "post", "400")).validate(answer.get_json())


def test_the_status_of_a_project_is_as_it_says(client, planted):
    client.post("/setup", json={"project": "1.1", "schema": "<View/>"})
    planted.store.save_config("1.1", "<View/>")
    found = client.get("/status").get_json()
    assert list(found) == ["1.1"]
    Draft202012Validator(schema("/status", "get", "200")).validate(found)


def test_what_is_made_from_it_at_random_gets_no_5xx(client):
    assert raw_http.generated(client.application, examples=20) >= 60


def test_recorded_requests_with_something_odd_in_them_get_no_5xx(client, planted):
    assert raw_http.mutated(client, range(10**9, 10**9 + 150)).crashes == []

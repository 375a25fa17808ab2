"""/openapi.json: what Label Studio and scripts can ask of Skylight, as OpenAPI 3.1. The page for people is not in it.

It says no more of a request than Skylight needs: what else Label Studio sends is not looked at.
"""

from importlib.metadata import version
from typing import Any

from flask import Blueprint, Response

from skylight.backend.images.user_agent import PACKAGE
from skylight.backend.limits import MAX_CONFIG, MAX_ID, MAX_PROMPTS, MAX_TASKS, PROJECT
from skylight.backend.web.http import json_response

blueprint = Blueprint("openapi", __name__)

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
ID: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_ID}
CONFIG: Schema = {"type": ["string", "null"], "maxLength": MAX_CONFIG, "description": "labeling configuration, XML"}
NAME: Schema = {"type": "string", "pattern": f"^{PROJECT.pattern}$", "description": "'<id>.<second of its creation>'"}
VERSION: Schema = {"type": "string", "pattern": "^(sam|skylight)-.+$", "description": "what the project is served"}
REFUSALS = {
    "400": "the request cannot be understood, or asks for too much",
    "401": "user and password, where Skylight has them, are missing or wrong",
    "403": "the webhook's secret is missing",
    "413": "the body is too large",
    "415": "the body is not JSON",
    "503": "Redis or the SAM is not there now",
}


def listed(of: Schema, **limits: int) -> Schema:
    """A list of something."""
    return {"type": "array", "items": of, **limits}


def record(needed: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """An object with some fields, and any others."""
    return {"type": "object", "properties": {**needed, **(optional or {})}, "required": list(needed)}


def one_of(*values: Any) -> Schema:
    """One of some values."""
    return {"enum": list(values)}


REGION = record({}, {"id": TEXT, "from_name": TEXT, "to_name": TEXT, "type": TEXT, "value": {"type": "object"}})
RESULT = {"type": ["array", "null"], "items": REGION}
TASK = record({}, {"id": ID, "data": {"type": "object"}, "drafts": {"type": "array"}, "annotations": {"type": "array"}})
CONTEXT = {
    "type": ["object", "null"],
    "properties": {
        "result": {**RESULT, "maxItems": MAX_PROMPTS},
        "event": {"description": "'prewarm': embed the pictures before the first click, answer with nothing"},
    },
}
PROJECT_OBJECT = record({"id": ID, "created_at": {"type": "string", "format": "date-time"}}, {"label_config": CONFIG})
ANNOTATION = record(
    {"id": ID, "updated_at": {"type": "string", "format": "date-time"}},
    {"task": ID, "result": RESULT, "was_cancelled": {"type": "boolean"}, "ground_truth": {"type": "boolean"}},
)
SETUP = record({"project": NAME}, {"schema": CONFIG})
PREDICT = record(
    {"tasks": listed(TASK, maxItems=MAX_TASKS)},
    {
        "project": NAME,
        "label_config": CONFIG,
        "params": {"type": ["object", "null"], "properties": {"context": CONTEXT}},
    },
)
IDS = listed(record({"id": ID}))


def event(actions: tuple[str, ...], **needed: Schema) -> Schema:
    """A webhook of some actions."""
    return record({"action": one_of(*actions), "project": PROJECT_OBJECT, **needed})


WEBHOOK: Schema = {
    "oneOf": [
        event(
            ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"),
            annotation=ANNOTATION,
            task=record({"id": ID}, TASK["properties"]),
        ),
        event(
            ("ANNOTATIONS_CREATED",),
            annotation=listed(record({"id": ID, "updated_at": ANNOTATION["properties"]["updated_at"], "task": ID})),
            task=listed(TASK),
        ),
        event(("ANNOTATIONS_DELETED",), annotations=IDS),
        event(("TASKS_CREATED",), tasks=listed(TASK)),
        event(("TASKS_DELETED",), tasks=IDS),
        event(("START_TRAINING", "PROJECT_UPDATED")),
    ]
}
PREDICTION = record({"model_version": VERSION, "score": SHARE, "result": listed(REGION)})
JOB = record(
    {"running": {"type": "boolean"}, "queued": {"type": "boolean"}}
    | {name: COUNT for name in ("failed", "done", "total")}
    | {"rate": {"type": "number"}}
)
STATUS = record(
    {
        "model_version": VERSION,
        "normalisation": record({"bands": listed(COUNT), "range": {"type": ["array", "null"]}}),
        **{name: COUNT for name in ("annotations", "tasks", "inbox")},
        "up_to_date": {"type": "boolean"},
        "jobs": {"type": "object", "additionalProperties": JOB},
        "versions": listed(record({"version": COUNT, "created_at": TEXT, "verdict": TEXT})),
    }
)
HEALTH = record({"status": one_of("UP"), "model_class": one_of("Skylight"), "instance": TEXT})
QUEUED = record({"status": one_of("queued", "ignored")})


def operation(what: str, answers: dict[str, Schema], body: Schema | None = None) -> Schema:
    """One thing that can be asked; the answers by HTTP status."""
    found: Schema = {"summary": what, "responses": {}}
    for status, schema in answers.items():
        content = {"application/json": {"schema": schema}}
        found["responses"][status] = {"description": "the answer", "content": content}
    for status, why in REFUSALS.items():
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        found["responses"][status] = {"description": why, "content": content}
    if body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return found


def description() -> Schema:
    """The whole of it."""
    asked = {
        "/health": ("get", operation("Whether it is alive", {"200": HEALTH})),
        "/setup": ("post", operation("A project's configuration", {"200": record({"model_version": VERSION})}, SETUP)),
        "/predict": (
            "post",
            operation("Click, or pre-annotate", {"200": record({"results": listed(PREDICTION)})}, PREDICT),
        ),
        "/webhook": ("post", operation("What happened in Label Studio", {"200": QUEUED, "202": QUEUED}, WEBHOOK)),
        "/versions": ("get", operation("All versions", {"200": record({"versions": listed(TEXT)})})),
        "/status": (
            "get",
            operation("How projects stand", {"200": {"type": "object", "additionalProperties": STATUS}}),
        ),
        "/openapi.json": ("get", operation("This", {"200": record({"openapi": TEXT, "paths": {"type": "object"}})})),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Skylight", "version": version(PACKAGE)},
        "paths": {path: {method: operation} for path, (method, operation) in asked.items()},
        "components": {"schemas": {"Error": record({"error": TEXT})}},
    }


@blueprint.route("/openapi.json")
def answer() -> Response:
    """The description of the service."""
    return json_response(description())

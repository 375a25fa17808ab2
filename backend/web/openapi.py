"""/openapi.json: the API for Label Studio and scripts, as OpenAPI 3.1, without the page for people.

Of a request it describes only what Skylight reads, not everything that Label Studio sends.
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


def array_of(items: Schema, **limits: int) -> Schema:
    """The schema of a list."""
    return {"type": "array", "items": items, **limits}


def object_of(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """The schema of an object with some fields, and any others."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def one_of(*values: Any) -> Schema:
    """The schema of one of some values."""
    return {"enum": list(values)}


REGION = object_of({}, {"id": TEXT, "from_name": TEXT, "to_name": TEXT, "type": TEXT, "value": {"type": "object"}})
RESULT = {"type": ["array", "null"], "items": REGION}
TASK = object_of(
    {}, {"id": ID, "data": {"type": "object"}, "drafts": {"type": "array"}, "annotations": {"type": "array"}}
)
CONTEXT = {
    "type": ["object", "null"],
    "properties": {
        "result": {**RESULT, "maxItems": MAX_PROMPTS},
        "event": {"description": "'prewarm': embed the pictures before the first click, answer with nothing"},
    },
}
PROJECT_OBJECT = object_of(
    {"id": ID, "created_at": {"type": "string", "format": "date-time"}}, {"label_config": CONFIG}
)
ANNOTATION = object_of(
    {"id": ID, "updated_at": {"type": "string", "format": "date-time"}},
    {"task": ID, "result": RESULT, "was_cancelled": {"type": "boolean"}, "ground_truth": {"type": "boolean"}},
)
SETUP = object_of({"project": NAME}, {"schema": CONFIG})
PREDICT = object_of(
    {"tasks": array_of(TASK, maxItems=MAX_TASKS)},
    {
        "project": NAME,
        "label_config": CONFIG,
        "params": {"type": ["object", "null"], "properties": {"context": CONTEXT}},
    },
)
IDS = array_of(object_of({"id": ID}))


def event(actions: tuple[str, ...], **fields: Schema) -> Schema:
    """The schema of a webhook's body for some actions."""
    return object_of({"action": one_of(*actions), "project": PROJECT_OBJECT, **fields})


WEBHOOK: Schema = {
    "oneOf": [
        event(
            ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"),
            annotation=ANNOTATION,
            task=object_of({"id": ID}, TASK["properties"]),
        ),
        event(
            ("ANNOTATIONS_CREATED",),
            annotation=array_of(
                object_of({"id": ID, "updated_at": ANNOTATION["properties"]["updated_at"], "task": ID})
            ),
            task=array_of(TASK),
        ),
        event(("ANNOTATIONS_DELETED",), annotations=IDS),
        event(("TASKS_CREATED",), tasks=array_of(TASK)),
        event(("TASKS_DELETED",), tasks=IDS),
        event(("START_TRAINING", "PROJECT_UPDATED")),
    ]
}
PREDICTION = object_of({"model_version": VERSION, "score": SHARE, "result": array_of(REGION)})
JOB = object_of(
    {"running": {"type": "boolean"}, "queued": {"type": "boolean"}}
    | {name: COUNT for name in ("failed", "done", "total")}
    | {"rate": {"type": "number"}}
)
STATUS = object_of(
    {
        "model_version": VERSION,
        "normalisation": object_of({"bands": array_of(COUNT), "range": {"type": ["array", "null"]}}),
        **{name: COUNT for name in ("annotations", "tasks", "inbox")},
        "up_to_date": {"type": "boolean"},
        "jobs": {"type": "object", "additionalProperties": JOB},
        "versions": array_of(object_of({"version": COUNT, "created_at": TEXT, "verdict": TEXT})),
    }
)
HEALTH = object_of({"status": one_of("UP"), "model_class": one_of("Skylight"), "instance": TEXT})
QUEUED = object_of({"status": one_of("queued", "ignored")})


def operation(summary: str, responses: dict[str, Schema], body: Schema | None = None) -> Schema:
    """An OpenAPI operation; `responses` are schemas by HTTP status."""
    result: Schema = {"summary": summary, "responses": {}}
    for status, schema in responses.items():
        content = {"application/json": {"schema": schema}}
        result["responses"][status] = {"description": "the answer", "content": content}
    for status, why in REFUSALS.items():
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        result["responses"][status] = {"description": why, "content": content}
    if body is not None:
        result["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return result


def description() -> Schema:
    """The whole document."""
    operations = {
        "/health": ("get", operation("Whether it is alive", {"200": HEALTH})),
        "/setup": (
            "post",
            operation("A project's configuration", {"200": object_of({"model_version": VERSION})}, SETUP),
        ),
        "/predict": (
            "post",
            operation("Click, or pre-annotate", {"200": object_of({"results": array_of(PREDICTION)})}, PREDICT),
        ),
        "/webhook": ("post", operation("What happened in Label Studio", {"200": QUEUED, "202": QUEUED}, WEBHOOK)),
        "/versions": ("get", operation("All versions", {"200": object_of({"versions": array_of(TEXT)})})),
        "/status": (
            "get",
            operation("How projects stand", {"200": {"type": "object", "additionalProperties": STATUS}}),
        ),
        "/openapi.json": ("get", operation("This", {"200": object_of({"openapi": TEXT, "paths": {"type": "object"}})})),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Skylight", "version": version(PACKAGE)},
        "paths": {path: {method: operation} for path, (method, operation) in operations.items()},
        "components": {"schemas": {"Error": object_of({"error": TEXT})}},
    }


@blueprint.route("/openapi.json")
def openapi() -> Response:
    """The description of the service."""
    return json_response(description())

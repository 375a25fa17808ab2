"""/webhook: what happened in Label Studio goes into the inbox. No image is read here and no model is loaded."""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import redis
from flask import Blueprint, Response, current_app, request

from skylight.backend.errors import BadRequest, Forbidden
from skylight.backend.labelstudio.client import reviewed
from skylight.backend.learning.agreement import shown_prediction
from skylight.backend.limits import check_config, checked_id, project_name
from skylight.backend.security.webhook_secret import HEADER
from skylight.backend.service import Service
from skylight.backend.trace import fail, note
from skylight.backend.web.auth import logged_in
from skylight.backend.web.http import body_object, json_response, service_of

blueprint = Blueprint("webhook", __name__)
log = logging.getLogger(__name__)

Event = dict[str, Any]
# Events after which what was trained on may no longer be what there is.
DIRTYING = ("annotation", "annotations_deleted", "tasks_deleted", "train")
REPLAY_SECONDS = 0.2  # of the second that Label Studio waits; the rest of what waits on disk is left to the upkeep


@blueprint.route("/webhook", methods=["POST"])
def receive() -> Response:
    """Keep the event and answer: Label Studio waits one second and never tries again."""
    found = take(service_of(current_app), body_object(request), request.headers.get(HEADER), logged_in())
    return json_response({"status": "queued" if found else "ignored"}, 202 if found else 200)


def take(service: Service, body: dict[str, Any], secret: str | None, known: bool) -> list[Event]:
    """Keep what a webhook's body says; gives the events kept.

    `secret` is what came in its header, `known`: whoever sent it has logged in. Raises BadRequest, and Forbidden where
    the project's webhook is known to carry the secret and neither holds.
    """
    project = project_key(body.get("project"))
    note(f"webhook {body.get('action')}", project)
    signed = service.secret.matches(secret)
    if not signed and not known and service.secret.expected(project):
        body = unsigned(project, body)
    found = list(events(body))
    note(task=found[0].get("task") if found else None)
    accept(service, project, found)
    if signed:
        service.secret.expect(project)
    log.info("project %s: %.80s, %d kept", project, body.get("action"), len(found))
    return found


def unsigned(project: str, body: dict[str, Any]) -> dict[str, Any]:
    """What may be believed of an event without the secret, in a project whose webhook carries it.

    START_TRAINING, which Label Studio sends as a call of the ML backend, without the webhook's headers; but not the
    configuration that it brings. Anything else raises Forbidden.
    """
    if body.get("action") == "START_TRAINING":
        return {"action": "START_TRAINING", "project": {}}
    raise Forbidden(
        f"an event of project {project} came without the header {HEADER} that its webhook is known to carry; "
        "if the webhook was made anew, run: skylight doctor --fix"
    )


def accept(service: Service, project: str, found: Sequence[Event]) -> None:
    """Put events into the inbox, all or none; on disk while Redis is away, or while others wait there still."""
    try:
        if _replayed(service):
            by_webhook = any(event["what"] != "train" for event in found)  # which comes as a call of the backend
            service.queue.accept_all(project, found, dirtying(found), int(time.time()) if by_webhook else 0)
            return
    except redis.RedisError as error:
        log.error("Redis is away (%s): %d events of project %s wait on disk", error, len(found), project)
        fail(error)
    if found:
        service.store.spool(project, *found)


def _replayed(service: Service) -> bool:
    """Whether events may go straight into the inbox: none waits on disk, or none can be read from there now."""
    try:
        return replay(service, REPLAY_SECONDS)
    except OSError as error:
        log.error("what waits on disk cannot be read now, and newer events go before it: %s", error)
        return True


def replay(service: Service, seconds: float = math.inf) -> bool:
    """Take spooled events into the inbox, for so long; gives whether none is left that this process could take.

    Raises redis.RedisError while Redis is away, OSError if the folder cannot be used.
    """
    until = time.monotonic() + seconds
    for project, event in service.store.spooled():
        if time.monotonic() > until:
            break
        service.queue.accept_all(project, [event], dirtying([event]))
    return not service.store.has_spooled()


def dirtying(found: Sequence[Event]) -> int:
    """How many of the events may change what there is to train on."""
    return sum(event.get("what") in DIRTYING for event in found)


def project_key(project: Any) -> str:
    """A webhook's project by the name that /setup and /predict use, "<id>.<second of its creation>"."""
    try:
        created = datetime.fromisoformat(project["created_at"])
        return project_name(f"{checked_id(project['id'])}.{int(created.timestamp())}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadRequest(f"'project' must be an object with id and created_at: {error!r}") from error


def events(body: dict[str, Any]) -> Iterator[Event]:
    """What a webhook says, without the rest of it: the project's object holds secrets. Unknown actions say nothing."""
    action, config = body.get("action"), str(body["project"].get("label_config") or "")
    check_config(config)
    if action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"):
        yield annotation_event(_object(body, "annotation"), _object(body, "task"), config)
    elif action == "ANNOTATIONS_CREATED":
        tasks = {str(task.get("id")): task for task in _list(body, "task")}
        for annotation in _list(body, "annotation"):
            yield annotation_event(annotation, tasks.get(str(annotation.get("task")), {}), config)
    elif action == "ANNOTATIONS_DELETED":
        yield {"what": "annotations_deleted", "ids": _ids(body, "annotations"), "label_config": config}
    elif action == "TASKS_DELETED":
        yield {"what": "tasks_deleted", "ids": _ids(body, "tasks"), "label_config": config}
    elif action == "START_TRAINING":
        yield {"what": "train", "label_config": config}
    elif action == "TASKS_CREATED":
        # An import may bring annotations of which no other word comes.
        brought = any(task.get("total_annotations") for task in _list(body, "tasks"))
        yield {"what": "tasks_created", "reconcile": brought, "label_config": config}
    elif action == "PROJECT_UPDATED":
        yield {"what": "config", "label_config": config}


def annotation_event(annotation: dict[str, Any], task: dict[str, Any], label_config: str) -> Event:
    """An annotation, submitted or skipped, with its task's data. Raises BadRequest if it has no id or no time."""
    try:
        return {
            "what": "annotation",
            "id": checked_id(annotation["id"]),
            "task": checked_id(annotation.get("task") or task["id"]),
            "updated_at": _time(annotation["updated_at"]),
            "skipped": bool(annotation.get("was_cancelled")),
            "result": annotation.get("result") or [],
            "shown": shown_prediction(annotation),
            "ground_truth": bool(annotation.get("ground_truth")),
            "reviewed": reviewed(annotation),
            "data": task.get("data") or {},
            "label_config": label_config,
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadRequest(f"an annotation needs id, task and updated_at: {error!r}") from error


def _time(text: Any) -> str:
    """A time as Label Studio writes it. Raises ValueError for another text: it might be later than any time."""
    datetime.fromisoformat(text)
    return str(text)


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    found = body.get(name)
    if not isinstance(found, dict):
        raise BadRequest(f"{body.get('action')} needs an object {name!r}")
    return found


def _list(body: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = body.get(name)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise BadRequest(f"{body.get('action')} needs a list of objects {name!r}")
    return found


def _ids(body: dict[str, Any], name: str) -> list[int]:
    try:
        return [checked_id(item["id"]) for item in _list(body, name)]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadRequest(f"{body.get('action')} needs ids in {name!r}") from error

"""/webhook: what happened in Label Studio goes into the inbox. No image is read here and no model is loaded."""

import logging
from typing import Any

from flask import Blueprint, Response, current_app, request

from skylight.backend.errors import Forbidden
from skylight.backend.labelstudio.events import Event, project_key, webhook_events
from skylight.backend.queue.inbox import accept
from skylight.backend.security.webhook_secret import HEADER
from skylight.backend.service import Service
from skylight.backend.trace import set_subject
from skylight.backend.web.auth import logged_in
from skylight.backend.web.http import body_object, json_response, service_of

blueprint = Blueprint("webhook", __name__)
log = logging.getLogger(__name__)


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
    set_subject(f"webhook {body.get('action')}", project)
    signed = service.secret.matches(secret)
    if not signed and not known and service.secret.is_required(project):
        body = unsigned(project, body)
    found = list(webhook_events(body))
    set_subject(task=found[0].get("task") if found else None)
    accept(service.queue, service.spool, project, found)
    if signed:
        service.secret.require(project)
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

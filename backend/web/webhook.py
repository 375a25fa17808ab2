"""/webhook: events of Label Studio go into the inbox. No image is read here and no model is loaded."""

import logging
from typing import Any

from flask import Blueprint, Response, current_app, request

from skylight.backend.errors import Forbidden
from skylight.backend.labelstudio.events import Event, project_key, webhook_events
from skylight.backend.queue.inbox import accept
from skylight.backend.security.webhook_secret import HEADER
from skylight.backend.service import Service
from skylight.backend.trace import set_subject
from skylight.backend.web.auth import has_login
from skylight.backend.web.http import body_object, json_response, service_of

blueprint = Blueprint("webhook", __name__)
log = logging.getLogger(__name__)


@blueprint.route("/webhook", methods=["POST"])
def receive() -> Response:
    """Put the events into the inbox and answer: Label Studio waits one second and never tries again."""
    service, secret = service_of(current_app), request.headers.get(HEADER)
    accepted = accept_events(service, body_object(request), secret, has_login())
    return json_response({"status": "queued" if accepted else "ignored"}, 202 if accepted else 200)


def accept_events(service: Service, body: dict[str, Any], secret: str | None, logged_in: bool) -> list[Event]:
    """Put the events of a webhook's body into the inbox; returns them.

    `secret` is what came in the webhook's header, `logged_in`: the sender has logged in. Raises BadRequest, and
    Forbidden where the project's webhook is known to carry the secret and neither holds.
    """
    project = project_key(body.get("project"))
    set_subject(f"webhook {body.get('action')}", project)
    signed = service.secret.matches(secret)
    if not signed and not logged_in and service.secret.is_required(project):
        body = unsigned_part(project, body)
    accepted = list(webhook_events(body))
    set_subject(task=accepted[0].get("task") if accepted else None)
    accept(service.queue, service.spool, project, accepted)
    if signed:
        service.secret.require(project)
    log.info("project %s: %.80s, %d kept", project, body.get("action"), len(accepted))
    return accepted


def unsigned_part(project: str, body: dict[str, Any]) -> dict[str, Any]:
    """The part of an event that is accepted without the secret, in a project whose webhook carries it.

    START_TRAINING, which Label Studio sends as a call of the ML backend, without the webhook's headers; but not the
    configuration that comes with it. Raises Forbidden for any other action.
    """
    if body.get("action") == "START_TRAINING":
        return {"action": "START_TRAINING", "project": {}}
    raise Forbidden(
        f"an event of project {project} came without the header {HEADER} that its webhook is known to carry; "
        "if the webhook was made anew, run: skylight doctor --fix"
    )

"""/health, /setup and /versions as Label Studio asks for them, and /status for people and scripts."""

import logging
from typing import Any

import redis
from flask import Blueprint, Response, current_app, request

from skylight.backend.admin.project_state import project_state
from skylight.backend.admin.status import as_json
from skylight.backend.errors import SkylightError
from skylight.backend.limits import check_config, project_name
from skylight.backend.service import Service
from skylight.backend.trace import set_subject
from skylight.backend.web.http import body_object, json_response, records_of, service_of

blueprint = Blueprint("status", __name__)
log = logging.getLogger(__name__)


@blueprint.route("/health")
def health() -> Response:
    """That it is alive, and which Skylight it is; asked before every /setup, so little is looked up."""
    try:
        instance = service_of(current_app).secret.instance
    except OSError as error:  # alive all the same
        log.error("SKYLIGHT_HOME cannot be used: %s", error)
        instance = ""
    return json_response({"status": "UP", "model_class": "Skylight", "instance": instance})


@blueprint.route("/setup", methods=["POST"])
def setup() -> Response:
    """Register a project's configuration; the `model_version` that it is served."""
    return json_response({"model_version": register_project(service_of(current_app), body_object(request))})


def register_project(service: Service, body: dict[str, Any]) -> str:
    """Register the project of a /setup and its configuration; returns the `model_version`. It is called all the time,
    so it changes nothing twice.

    The token and host name that Label Studio sends along are not used: the token is dead where legacy tokens are off.
    Raises BadRequest if the project is missing, or not named as Label Studio does.
    """
    project, label_config = project_name(body.get("project")), str(body.get("schema") or "")
    check_config(label_config)
    set_subject(project=project)
    if label_config:
        _queue_config(service, project, label_config)
    return service.version_name(project)


def _queue_config(service: Service, project: str, label_config: str) -> None:
    """Put a project's configuration into its inbox, if it is another than the one known."""
    known = service.store.config(project)
    if known == label_config:
        return
    try:
        service.labeling(label_config)
    except SkylightError as error:
        log.warning("project %s cannot be served: %s", project, error)
    try:
        if not known:  # just connected: it may have annotations already
            service.queue.request_reconciliation(project)
        service.queue.add_event(project, {"what": "config", "label_config": label_config}, dirty=False)
    except redis.RedisError as error:
        log.error("Redis is away: %s", error)


@blueprint.route("/versions")
def versions() -> Response:
    """The names of all versions of all projects; Label Studio does not say which project it asks for."""
    service = service_of(current_app)
    numbers = {n for project in service.store.projects() for n in service.versions.numbers(project)}
    return json_response({"versions": [f"sam-{service.settings.sam}", *(f"skylight-{n}" for n in sorted(numbers))]})


@blueprint.route("/status")
def status() -> Response:
    """Every project's state: samples, what waits and runs, whether it is trained, and its versions' metrics."""
    service, records = service_of(current_app), records_of(current_app)
    states = {name: project_state(service, name, records) for name in service.store.projects()}
    for state in states.values():
        if state.redis_error:
            raise state.redis_error
    return json_response({name: as_json(state) for name, state in states.items()})

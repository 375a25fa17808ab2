"""The web application: `create_app(settings)`."""

import logging

import redis
from flask import Flask, Response, current_app
from werkzeug.exceptions import HTTPException

from skylight.backend.errors import SkylightError
from skylight.backend.queue.retries import explain
from skylight.backend.service import Service
from skylight.backend.settings import MEGABYTE, Settings
from skylight.backend.trace import record_error
from skylight.backend.web import (
    admission,
    auth,
    metrics,
    openapi,
    predict,
    ready,
    rq_dashboard,
    setup,
    tracing,
    webhook,
)
from skylight.backend.web.http import error_response, service_of
from skylight.backend.web.page import views
from skylight.model.sam.checkpoints import CheckpointError
from skylight.model.sam.loading import SamError

log = logging.getLogger(__name__)


def create_app(settings: Settings, service: Service | None = None, host: str = "") -> Flask:
    """A Flask application for the given settings, or for an existing service.

    `host`: the address or name that the server listens on.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_mb * MEGABYTE
    app.extensions["skylight"] = service or Service(settings)
    tracing.install(app, metrics.install(app))  # first, so that refused requests are traced too
    auth.install(app, host)
    admission.install(app, service_of(app).admission)  # after the login was checked
    for module in (setup, ready, metrics, predict, webhook, openapi, views):
        app.register_blueprint(module.blueprint)
    rq_dashboard.install(app, settings.redis_url)
    app.register_error_handler(SkylightError, _answer_skylight_error)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(Exception, _answer_other_error)
    return app


def _answer_skylight_error(error: SkylightError) -> Response:
    log.warning("%s", error)
    record_error(error)
    return error_response(str(error), error.status)


def _answer_http_error(error: HTTPException) -> Response:
    return error_response(error.description or error.name, error.code or 500)


def _answer_other_error(error: Exception) -> Response:
    """A sentence for the caller; the rest goes to the log."""
    record_error(error)
    if isinstance(error, redis.RedisError | SamError | CheckpointError):
        log.error("%s", error)
        return error_response(f"not ready: {error}", 503)
    if isinstance(error, OSError):
        reason, step = explain(error, service_of(current_app).settings.home)
        log.error("%s: %s", reason, error)
        return error_response(f"not ready: {reason}. {step}.", 503)
    log.error("unforeseen error", exc_info=error)
    return error_response("an error that Skylight did not foresee; its log says more", 500)

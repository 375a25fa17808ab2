"""The web application: `create_app(settings)`."""

import logging

import redis
from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from backend import dashboard, openapi, page, predict, status, webhook
from backend.answers import json_response
from backend.errors import SkylightError
from backend.service import Service
from backend.settings import MEGABYTE, Settings
from model.checkpoints import CheckpointError
from model.sam import SamError

log = logging.getLogger(__name__)


def create_app(settings: Settings, service: Service | None = None) -> Flask:
    """A Flask application over the given settings, or over a service that is there already."""
    app = Flask("skylight")
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_mb * MEGABYTE
    app.extensions["skylight"] = service or Service(settings)
    for module in (status, predict, webhook, openapi, page):
        app.register_blueprint(module.blueprint)
    dashboard.mount(app, settings.redis_url)
    app.register_error_handler(SkylightError, _known)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unforeseen)
    return app


def _known(error: SkylightError) -> Response:
    log.warning("%s", error)
    return json_response({"error": str(error)}, error.status)


def _http(error: HTTPException) -> Response:
    return json_response({"error": error.description}, error.code or 500)


def _unforeseen(error: Exception) -> Response:
    """Nothing but a sentence leaves the process; the log has the rest."""
    if isinstance(error, redis.RedisError | SamError | CheckpointError):
        log.error("%s", error)
        return json_response({"error": f"not ready: {error}"}, 503)
    log.error("unforeseen error", exc_info=error)
    return json_response({"error": "an error that Skylight did not foresee; its log says more"}, 500)

"""Request bodies and JSON responses, the same way for every blueprint."""

from typing import Any

import orjson
from flask import Flask, Request, Response
from werkzeug.exceptions import RequestEntityTooLarge

from skylight.backend.admin.project_state import RecordCache
from skylight.backend.errors import BadRequest, TooLarge
from skylight.backend.limits import check_depth
from skylight.backend.service import Service
from skylight.backend.settings import MEGABYTE
from skylight.backend.trace import CURRENT_TRACE


def json_response(value: Any, status: int = 200) -> Response:
    """A JSON response."""
    return Response(orjson.dumps(value), status, mimetype="application/json")


def error_response(message: str, status: int) -> Response:
    """A JSON response that says in a sentence what went wrong, with the request's id, by which to search the log."""
    trace = CURRENT_TRACE.get()
    return json_response({"error": message, **({"id": trace.id} if trace else {})}, status)


def body_object(request: Request) -> dict[str, Any]:
    """The request's JSON object. Raises BadRequest if it holds none, TooLarge if it exceeds the settings' limit."""
    try:
        body = orjson.loads(request.get_data(cache=False))
    except RequestEntityTooLarge as error:
        limit = (request.max_content_length or 0) // MEGABYTE
        raise TooLarge(f"the body is larger than {limit} MB; send less, or raise SKYLIGHT_MAX_BODY_MB") from error
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequest(f"the body must be a JSON object, not {type(body).__name__}")
    check_depth(body)
    return body


def service_of(app: Flask) -> Service:
    """The application's service, which `create_app` gave it."""
    service: Service = app.extensions["skylight"]
    return service


def records_of(app: Flask) -> RecordCache:
    """The application's cache of samples and versions."""
    records: RecordCache = app.extensions.setdefault("skylight-records", RecordCache(service_of(app)))
    return records

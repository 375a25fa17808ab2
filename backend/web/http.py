"""Reading requests and writing answers, the same way for every blueprint."""

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
    """An answer in JSON."""
    return Response(orjson.dumps(value), status, mimetype="application/json")


def error_response(message: str, status: int) -> Response:
    """An answer that says in a sentence what went wrong, with the request's id, by which the log has it."""
    trace = CURRENT_TRACE.get()
    return json_response({"error": message, **({"id": trace.id} if trace else {})}, status)


def body_object(request: Request) -> dict[str, Any]:
    """The request's JSON object. Raises BadRequest if it holds none, TooLarge if it exceeds the settings."""
    try:
        body = orjson.loads(request.get_data(cache=False))
    except RequestEntityTooLarge as error:
        most = (request.max_content_length or 0) // MEGABYTE
        raise TooLarge(f"the body is larger than {most} MB; send less, or raise SKYLIGHT_MAX_BODY_MB") from error
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequest(f"the body must be a JSON object, not {type(body).__name__}")
    check_depth(body)
    return body


def service_of(app: Flask) -> Service:
    """The service that `create_app` gave the application."""
    service: Service = app.extensions["skylight"]
    return service


def records_of(app: Flask) -> RecordCache:
    """The samples and versions that the application has read."""
    records: RecordCache = app.extensions.setdefault("skylight-records", RecordCache(service_of(app)))
    return records

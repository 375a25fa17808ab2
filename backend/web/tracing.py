"""A trace of every request: its id, its line in the log and its metrics."""

import re
import secrets

from flask import Flask, Response, request

from skylight.backend.trace import CURRENT_TRACE, Outcome, Trace
from skylight.backend.web.metrics import Metrics

HEADER = "X-Request-ID"
VALID_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)  # a caller's id that is used as it is
# Endpoints whose metrics label is not the name of their function.
LABELS = {
    "webhook.receive": "webhook",
    "page.train": "train-now",  # the job is called "train"
}


def install(app: Flask, metrics: Metrics) -> None:
    """Trace the application's requests; to be called before any other handler is registered."""

    @app.before_request
    def begin() -> None:
        given = request.headers.get(HEADER, "")
        label = endpoint_label(request.endpoint or "unknown")
        trace = Trace(given if VALID_ID.fullmatch(given) else secrets.token_hex(8), label, method=request.method)
        trace.project = (request.view_args or {}).get("project")
        CURRENT_TRACE.set(trace)

    @app.after_request
    def end(response: Response) -> Response:
        trace = CURRENT_TRACE.get() or Trace("", "unknown")
        CURRENT_TRACE.set(None)
        response.headers[HEADER] = trace.id
        outcome = _outcome(trace, response.status_code)
        metrics.observe(trace, trace.end(outcome, response.status_code), outcome)
        return response


def endpoint_label(endpoint: str) -> str:
    """The name of an endpoint in the metrics and in the log."""
    return LABELS.get(endpoint, endpoint.rpartition(".")[2])


def _outcome(trace: Trace, status: int) -> Outcome:
    if status >= 400:
        return "failed" if status >= 500 else "refused"
    return "faulty" if trace.causes else "ok"

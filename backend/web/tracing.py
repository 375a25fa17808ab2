"""A trace of every request and every job: begun here, and ended with its line in the log and its figures."""

import re
import secrets

from flask import Flask, Response, request

from skylight.backend.trace import CURRENT_TRACE, Outcome, Trace
from skylight.backend.web.metrics import Metrics

HEADER = "X-Request-ID"
SANE = re.compile(r"[\w.-]{1,64}", re.ASCII)  # a request's id that is taken over
# What an endpoint is counted as, where that is not the name of its function.
RENAMED = {
    "webhook.receive": "webhook",
    "predict.answer": "predict",
    "openapi.answer": "openapi",
    "page.train": "train-now",  # the job is called "train"
}


def watch(app: Flask, metrics: Metrics) -> None:
    """Trace the application's requests: to be called before anything else is told to look at them."""

    @app.before_request
    def begin() -> None:
        given = request.headers.get(HEADER, "")
        what = counted_as(request.endpoint or "unknown")
        trace = Trace(given if SANE.fullmatch(given) else secrets.token_hex(8), what, method=request.method)
        trace.project = (request.view_args or {}).get("project")
        CURRENT_TRACE.set(trace)

    @app.after_request
    def end(answer: Response) -> Response:
        trace = CURRENT_TRACE.get() or Trace("", "unknown")
        CURRENT_TRACE.set(None)
        answer.headers[HEADER] = trace.id
        outcome = _outcome(trace, answer.status_code)
        metrics.observe(trace, trace.end(outcome, answer.status_code), outcome)
        return answer


def counted_as(endpoint: str) -> str:
    """What the requests of an endpoint are counted as, and called in the log."""
    return RENAMED.get(endpoint, endpoint.rpartition(".")[2])


def _outcome(trace: Trace, status: int) -> Outcome:
    if status >= 400:
        return "failed" if status >= 500 else "refused"
    return "faulty" if trace.causes else "ok"

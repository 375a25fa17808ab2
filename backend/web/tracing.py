"""A trace of every request and every job: begun here, and ended with its line in the log and its figures."""

import functools
import re
import secrets
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime

import redis
from flask import Flask, Response, request
from rq import get_current_job

from skylight.backend.queue.counters import count_job
from skylight.backend.service import Service
from skylight.backend.trace import CURRENT, Outcome, Trace
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

Job = Callable[[str], None]


def watch(app: Flask, metrics: Metrics) -> None:
    """Trace the application's requests: to be called before anything else is told to look at them."""

    @app.before_request
    def begin() -> None:
        given = request.headers.get(HEADER, "")
        what = counted_as(request.endpoint or "unknown")
        trace = Trace(given if SANE.fullmatch(given) else secrets.token_hex(8), what, method=request.method)
        trace.project = (request.view_args or {}).get("project")
        CURRENT.set(trace)

    @app.after_request
    def end(answer: Response) -> Response:
        trace = CURRENT.get() or Trace("", "unknown")
        CURRENT.set(None)
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


def traced(service: ContextVar[Service]) -> Callable[[Job], Job]:
    """A decorator that traces a job of the worker whose service is in `service`."""

    def decorate(job: Job) -> Job:
        @functools.wraps(job)
        def run(project: str) -> None:
            trace = _job_trace(job.__name__, project)
            token = CURRENT.set(trace)
            before = _lookups(service.get())
            outcome: Outcome = "failed"
            try:
                job(project)
                outcome = "faulty" if trace.causes else "ok"
            except BaseException as error:
                trace.fail(error)
                raise
            finally:
                CURRENT.reset(token)
                seconds = trace.end(outcome)
                with suppress(redis.RedisError):  # nobody counts without it
                    lookups = _lookups(service.get()) - before
                    count_job(service.get().queue, trace.what, outcome, seconds, trace.causes, lookups)

        return run

    return decorate


def _job_trace(kind: str, project: str) -> Trace:
    job = get_current_job()
    waited = (datetime.now(UTC) - job.enqueued_at).total_seconds() if job and job.enqueued_at else None
    return Trace(job.id if job else "", kind, project, waited=waited)


def _lookups(service: Service) -> Counter[str]:
    pictures = service.loaded
    return Counter(pictures.cache.lookups if pictures else {})

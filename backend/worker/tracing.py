"""A trace of every job: begun here, and ended with its line in the log and its counters."""

import functools
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime

import redis
from rq import get_current_job

from skylight.backend.queue.counters import count_job
from skylight.backend.service import Service
from skylight.backend.trace import CURRENT_TRACE, Outcome, Trace

Job = Callable[[str], None]


def traced(service: ContextVar[Service]) -> Callable[[Job], Job]:
    """A decorator that traces a job of the worker whose service is in `service`."""

    def decorate(job: Job) -> Job:
        @functools.wraps(job)
        def run(project: str) -> None:
            trace = _job_trace(job.__name__, project)
            token = CURRENT_TRACE.set(trace)
            before = _lookups(service.get())
            outcome: Outcome = "failed"
            try:
                job(project)
                outcome = "faulty" if trace.causes else "ok"
            except BaseException as error:
                trace.record_error(error)
                raise
            finally:
                CURRENT_TRACE.reset(token)
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
    embedder = service.loaded_embedder
    return Counter(embedder.cache.lookups if embedder else {})

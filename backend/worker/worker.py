"""A worker: takes jobs one after the other, in its own process, with the SAM and its embeddings kept loaded."""

import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import redis
from redis.client import Pipeline
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer
from rq.worker_registration import register

from skylight.backend.queue import recovery
from skylight.backend.queue.allowlist import AllowedWorker
from skylight.backend.queue.inbox import replay
from skylight.backend.queue.keys import KINDS, Kind
from skylight.backend.queue.locks import renewed
from skylight.backend.queue.workers import ALIVE_SECONDS
from skylight.backend.service import Service
from skylight.backend.settings import Settings
from skylight.backend.store import migrations
from skylight.backend.worker.jobs import CURRENT_SERVICE
from skylight.backend.worker.maintenance import Maintenance

GRACE_SECONDS = 5.5  # from SIGTERM; `skylight serve` kills after STOP_SECONDS
LAST_SECONDS = 1.0  # for Redis to take the job back
RETRY_SECONDS = 5  # at most between two tries to reach Redis

log = logging.getLogger(__name__)


class Worker(AllowedWorker):
    """RQ's worker without processes of its own; there is no work horse that could be killed apart from it."""

    service: Service

    def work(self, *args: Any, **kwargs: Any) -> bool:
        """Take jobs, with a heartbeat every few seconds meanwhile, also during a job of an hour."""
        with renewed(self.beat, "the heartbeat"):
            return super().work(*args, **kwargs)

    def beat(self) -> None:
        """Say that it lives, and all about itself: Redis may have been away, or have lost it. Raises RedisError."""
        if self.birth_date is None:  # `work` has just begun
            return
        with self.connection.pipeline() as pipe:
            pipe.hset(self.key, mapping={**self.serialize(), "state": self.get_state()})
            register(self, pipe)
            self.heartbeat(pipeline=pipe)
            pipe.execute()

    def register_birth(self) -> None:
        """As RQ's, which would have it believed for several minutes."""
        super().register_birth()  # type: ignore[no-untyped-call]
        self.heartbeat()

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """As RQ's, but it counts as dead soon after the last one, and not after the hour that a job may take."""
        super().heartbeat(ALIVE_SECONDS, pipeline)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """At SIGTERM or SIGINT: tell the job in hand to give up, and end in any case before long."""
        self.service.stopping.set()
        threading.Thread(target=self._end, daemon=True).start()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def _end(self) -> None:
        """End the process where its job has not come to a safe point: as a kill would, but with the job queued."""
        time.sleep(GRACE_SECONDS)
        log.warning("the job in hand does not end within %.0f s; it is left to the next worker", GRACE_SECONDS)
        last = threading.Thread(target=recovery.requeue_running, args=(self.service.queue,), daemon=True)
        last.start()
        last.join(LAST_SECONDS)  # without Redis a sweep has to find it
        os._exit(0)


def run(settings: Settings, kinds: Sequence[Kind] = KINDS) -> None:
    """Work until SIGTERM: the job in hand gives up at its next safe point, and is queued again.

    Jobs of these kinds only, the first kind first.
    """
    service = Service(settings)
    migrations.check(service.files, service.queue.redis)
    service.check_weights()
    worker = _started(service, kinds)
    with Maintenance(service, sweep=True):
        while worker:
            try:
                worker.work(logging_level=settings.log_level)
            except redis.RedisError as error:
                log.warning("Redis is away: %s", error)
            if worker.pubsub_thread:  # which would go on for ever where Redis was away at the end
                worker.pubsub_thread.stop()
            worker = None if service.stopping.wait(RETRY_SECONDS) else _started(service, kinds)
    if service.stopping.is_set():
        logging.shutdown()
        os._exit(0)  # taking down PyTorch in order took 3 s of a busy machine


def _started(service: Service, kinds: Sequence[Kind]) -> Worker | None:
    """A worker as soon as Redis answers; None if the process is to end first.

    Another one in the same process, with the SAM still loaded, where RQ's own has given up: it does where it loses
    Redis during a job, and not while it waits for one.
    """
    with suppress(StopRequested, redis.RedisError):  # RQ's answers to a signal
        while not service.stopping.is_set():
            try:
                return start(service, kinds)
            except redis.RedisError as error:
                log.warning("Redis is away: %s; tried again in %d s", error, RETRY_SECONDS)
                service.stopping.wait(RETRY_SECONDS)
    return None


def start(service: Service, kinds: Sequence[Kind] = KINDS) -> Worker:
    """Make a process ready for jobs: pick up what a crashed one left behind, and what waits on disk."""
    CURRENT_SERVICE.set(service)
    service.queue.worker_kinds = kinds
    queues = [service.queue.queues[kind] for kind in kinds]
    # First of all, since it gives the connection the patience to wait for a job.
    worker = Worker(queues, connection=service.queue.redis, serializer=JSONSerializer)
    worker.max_connection_wait_time = RETRY_SECONDS
    worker.service = service
    try:
        replay(service.queue, service.spool)
    except OSError as error:
        log.error("what waits on disk cannot be read now; it is tried again beside the work: %s", error)
    recovery.recover(service.queue, service.store.projects())
    return worker

"""Failed jobs: how they are explained to people, and when they are queued again."""

import errno
import functools
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import redis
from redis.client import Pipeline
from rq.timeouts import JobTimeoutException

from skylight.backend.errors import SkylightError, Stopping
from skylight.backend.queue.failures import Failures
from skylight.backend.queue.keys import KINDS, Kind, key
from skylight.backend.queue.quarantine import Quarantine
from skylight.backend.queue.queue import JOB_SECONDS, Queue
from skylight.backend.store.samples import SampleStore
from skylight.backend.trace import record_error
from skylight.model.decoder.training import Diverged

ROOM_BYTES = 20 * 2**20  # free for a job to begin: a decoder, or some embeddings
FIRST_PAUSE_SECONDS = 30.0  # before a failed job is queued again; doubled by each failure, unless by the disk's fault
LONGEST_PAUSE_SECONDS = 3600.0
ANNOTATIONS_PAUSE_SECONDS = 60  # between two tries of failed annotations: Label Studio may not answer just now
AGAIN = key("*", "again")  # sorted set: "<kind> <project>" of jobs that failed, by when they are queued again
FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO)
MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "bad_alloc")  # what torch says

log = logging.getLogger(__name__)


def explain(error: BaseException, home: Path) -> tuple[str, str]:
    """Why a job failed and what to do, in sentences without their last stop."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in FULL:
        step = "Make room (`skylight cache --trim`, SKYLIGHT_DISK_MB); it goes on by itself within a minute"
        return f"the disk of {home} is full", step
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        step = "Give its user the right to write there, or set SKYLIGHT_HOME; it goes on by itself within a minute"
        return f"{home} cannot be written ({os.strerror(error.errno or 0)})", step
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(phrase in text for phrase in MEMORY)):
        step = "Give the worker more, lower SKYLIGHT_MEMORY_MB, or set a smaller SKYLIGHT_SAM"
        return "there was not enough memory", step
    if isinstance(error, JobTimeoutException):
        step = "Give the worker a faster machine, or more workers (SKYLIGHT_WORKERS)"
        return f"it took longer than {JOB_SECONDS // 60} minutes and was ended", step
    if isinstance(error, Diverged | SkylightError):
        return text, "The version served stays; it is tried again when the annotations change, or with 'Train now'"
    return f"an error that Skylight did not foresee: {type(error).__name__}: {text}", "The worker's log says more"


def check_room(home: Path) -> None:
    """Raise OSError unless a job has room for its files and may write them: before hours of work, not after."""
    home.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(home).free < ROOM_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(home))
    probe = home / f".probe-{uuid.uuid4().hex[:8]}"
    try:
        probe.write_bytes(b"?")
    finally:
        with suppress(OSError):
            probe.unlink()


class Retries:
    """The failed jobs of all projects."""

    def __init__(self, queue: Queue, failures: Failures, quarantine: Quarantine, store: SampleStore) -> None:
        self.queue = queue
        self.failures = failures
        self.quarantine = quarantine
        self.store = store

    @contextmanager
    def record_outcome(self, project: str, kind: Kind, writes: bool = True) -> Iterator[None]:
        """Run a job in the block: how it failed is recorded, and when it is queued again, or that it succeeded.

        A training records itself that it succeeded: it may have found nothing to do. Every error is raised again.
        """
        home = self.store.files.folder
        try:
            if writes:
                check_room(home)
            yield
        except (redis.RedisError, Stopping):
            raise  # the next event, or the next worker, goes on from there
        except Exception as error:
            reason, step = explain(error, home)
            log.error("project %s: %s failed: %s", project, kind, reason)
            self.failures.record(project, kind, reason, step)
            self.schedule(project, kind, error)
            raise
        if kind != "train":
            self.failures.clear(project, kind)

    def record_refusal(self, project: str, kind: Kind, what: str, error: SkylightError) -> None:
        """Record that Label Studio refused a job's request, or did not answer, and have the job queued again later.

        It is recorded as the failure `what`, until that is cleared.
        """
        record_error(error)
        step = "It is tried again by itself; `skylight doctor` says how Label Studio stands"
        self.failures.record(project, what, str(error), step)
        self.schedule(project, kind, error, what)

    def schedule(self, project: str, kind: Kind, error: BaseException, what: str = "") -> None:
        """Have a failed job queued again after a while; a training only if the disk was at fault.

        The pause grows with the number of failures recorded as `what`, or as the kind of job.
        """
        disk = isinstance(error, OSError)
        if kind == "train" and not disk:
            return
        count = next((failure.count for failure in self.failures.of(project) if failure.what == (what or kind)), 1)
        pause = (
            FIRST_PAUSE_SECONDS if disk else min(FIRST_PAUSE_SECONDS * 2 ** min(count - 1, 20), LONGEST_PAUSE_SECONDS)
        )
        with suppress(redis.RedisError):
            self.queue.redis.zadd(AGAIN, {f"{kind} {project}": time.time() + pause})

    def request_due(self, now: float | None = None) -> list[str]:
        """Queue the failed jobs, and jobs for the failed annotations, that are due; gives them, each as text.

        Raises redis.RedisError.
        """
        connection = self.queue.redis
        members = cast(list[bytes], connection.zrangebyscore(AGAIN, 0, time.time() if now is None else now))
        requested = []
        for member in members:
            kind, _, project = member.decode().partition(" ")
            if kind in KINDS:  # both or neither: no failed job is forgotten where Redis goes away in between
                self.queue.request(project, kind, functools.partial(_unschedule, member=member))
                requested.append(member.decode())
            else:
                connection.zrem(AGAIN, member)
        for project in sorted({*self.queue.projects(), *self.store.projects()} - self.queue.gone().keys()):
            mark = key(project, "retried")
            if self.quarantine.due(project) and connection.set(mark, 1, ex=ANNOTATIONS_PAUSE_SECONDS, nx=True):
                self.queue.request(project, "ingest")
                requested.append(f"annotations {project}")
        return requested


def _unschedule(pipe: Pipeline, member: bytes) -> None:
    pipe.zrem(AGAIN, member)

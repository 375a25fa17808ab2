"""What becomes of a job that fails: a sentence for people, and when it is taken up again."""

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
from skylight.backend.queue.quarantine import Asides
from skylight.backend.queue.queue import JOB_SECONDS, KINDS, Kind, Queue, key
from skylight.backend.store.samples import SampleStore
from skylight.backend.trace import record_error
from skylight.model.decoder.training import Diverged

ROOM_BYTES = 20 * 2**20  # free for a job to begin: a decoder, or some embeddings
AGAIN_SECONDS = 30.0  # until a job that the disk or an unforeseen error ended is taken up again, at first
LATEST_SECONDS = 3600.0  # at last, as the pause doubles; not where the disk is at fault
RETRY_SECONDS = 60  # between two tries of what was set aside: Label Studio may not answer just now
AGAIN = key("*", "again")  # sorted set: "<kind> <project>" of jobs that failed, by when they are taken up again
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
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(each in text for each in MEMORY)):
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
    """Failed jobs of all projects: what is noted of them, and when they are queued again."""

    def __init__(self, queue: Queue, failures: Failures, quarantine: Asides, store: SampleStore) -> None:
        self.queue = queue
        self.failures = failures
        self.quarantine = quarantine
        self.store = store

    @contextmanager
    def watching(self, project: str, kind: Kind, writes: bool = True) -> Iterator[None]:
        """Around a job: how it failed is noted and when it is tried again, or that it went well.

        A training says itself that it went well: it may have found nothing to do. Whatever was raised goes on.
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
            self.failures.note(project, kind, reason, step)
            self.again(project, kind, error)
            raise
        if kind != "train":
            self.failures.clear(project, kind)

    def refused(self, project: str, kind: Kind, what: str, error: SkylightError) -> None:
        """Note that Label Studio refused a job's request, or did not answer, and have the job queued again later.

        It is noted as `what`, until that is cleared.
        """
        record_error(error)
        step = "It is tried again by itself; `skylight doctor` says how Label Studio stands"
        self.failures.note(project, what, str(error), step)
        self.again(project, kind, error, what)

    def again(self, project: str, kind: Kind, error: BaseException, what: str = "") -> None:
        """Have a job that failed taken up again after a while; a training not, unless it was for the disk.

        The pause grows with the number of failures noted as `what`, or as the kind of job.
        """
        disk = isinstance(error, OSError)
        if kind == "train" and not disk:
            return
        count = next((each.count for each in self.failures.of(project) if each.what == (what or kind)), 1)
        pause = AGAIN_SECONDS if disk else min(AGAIN_SECONDS * 2 ** min(count - 1, 20), LATEST_SECONDS)
        with suppress(redis.RedisError):
            self.queue.redis.zadd(AGAIN, {f"{kind} {project}": time.time() + pause})

    def take_up(self, now: float | None = None) -> list[str]:
        """Request what is due: jobs and annotations that failed a while ago. Raises redis.RedisError."""
        now, where, connection = time.time() if now is None else now, AGAIN, self.queue.redis
        found = cast(list[bytes], connection.zrangebyscore(where, 0, now))
        taken = []
        for member in found:
            kind, _, project = member.decode().partition(" ")
            if kind in KINDS:  # both or neither: no failed job is forgotten where Redis goes away in between
                self.queue.request(project, kind, functools.partial(_take_off, member=member))
                taken.append(member.decode())
            else:
                connection.zrem(where, member)
        for project in sorted({*self.queue.projects(), *self.store.projects()} - self.queue.gone().keys()):
            if self.quarantine.due(project) and connection.set(key(project, "retried"), 1, ex=RETRY_SECONDS, nx=True):
                self.queue.request(project, "ingest")
                taken.append(f"aside {project}")
        return taken


def _take_off(pipe: Pipeline, member: bytes) -> None:
    """Note that a failed job is queued again."""
    pipe.zrem(AGAIN, member)

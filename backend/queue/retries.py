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
from typing import Any, cast

import redis
from redis.client import Pipeline
from rq.timeouts import JobTimeoutException

from skylight.backend.errors import SkylightError, Stopping
from skylight.backend.queue.queue import JOB_SECONDS, KINDS, Kind, key
from skylight.backend.service import Service
from skylight.backend.trace import fail
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


@contextmanager
def watching(service: Service, project: str, kind: Kind, writes: bool = True) -> Iterator[None]:
    """Around a job: how it failed is noted and when it is tried again, or that it went well.

    A training says itself that it went well: it may have found nothing to do. Whatever was raised goes on.
    """
    home = service.settings.home
    try:
        if writes:
            check_room(home)
        yield
    except (redis.RedisError, Stopping):
        raise  # the next event, or the next worker, goes on from there
    except Exception as error:
        reason, step = explain(error, home)
        log.error("project %s: %s failed: %s", project, kind, reason)
        service.failures.note(project, kind, reason, step)
        again(service, project, kind, error)
        raise
    if kind != "train":
        service.failures.clear(project, kind)


def refused(service: Service, project: str, kind: Kind, what: str, error: SkylightError) -> None:
    """Label Studio refused what a job asked of it, or did not answer: noted as `what`, until that is cleared, and the
    job is taken up again after a while.
    """
    fail(error)
    step = "It is tried again by itself; `skylight doctor` says how Label Studio stands"
    service.failures.note(project, what, str(error), step)
    again(service, project, kind, error, what)


def again(service: Service, project: str, kind: Kind, error: BaseException, what: str = "") -> None:
    """Have a job that failed taken up again after a while; a training not, unless it was for the disk.

    The pause grows with the number of failures noted as `what`, or as the kind of job.
    """
    disk = isinstance(error, OSError)
    if kind == "train" and not disk:
        return
    count = next((each.count for each in service.failures.of(project) if each.what == (what or kind)), 1)
    pause = AGAIN_SECONDS if disk else min(AGAIN_SECONDS * 2 ** min(count - 1, 20), LATEST_SECONDS)
    with suppress(redis.RedisError):
        service.queue.redis.zadd(AGAIN, {f"{kind} {project}": time.time() + pause})


def take_up(service: Service, now: float | None = None) -> list[str]:
    """Request what is due: jobs that failed a while ago, annotations set aside a while ago. Raises redis.RedisError."""
    now, where, connection = time.time() if now is None else now, AGAIN, service.queue.redis
    found = cast(list[bytes], connection.zrangebyscore(where, 0, now))
    taken = []
    for member in found:
        kind, _, project = member.decode().partition(" ")
        if kind in KINDS:  # both or neither: no failed job is forgotten where Redis goes away in between
            service.queue.request(project, kind, functools.partial(_take_off, member=member))
            taken.append(member.decode())
        else:
            connection.zrem(where, member)
    for project in sorted({*service.queue.projects(), *service.store.projects()} - service.queue.gone().keys()):
        if service.asides.due(project) and connection.set(key(project, "retried"), 1, ex=RETRY_SECONDS, nx=True):
            service.queue.request(project, "ingest")
            taken.append(f"aside {project}")
    return taken


def _take_off(pipe: Pipeline, member: bytes) -> None:
    """Note that a failed job is queued again."""
    pipe.zrem(key("*", "again"), member)


def summary(service: Service, project: str) -> list[dict[str, Any]]:
    """A project's failures as plain values."""
    return [
        {name: getattr(each, name) for name in ("what", "reason", "step", "count", "since", "at")}
        for each in service.failures.of(project)
    ]

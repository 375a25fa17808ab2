"""The checks of `skylight doctor` on this machine: Redis, workers, inbox, the SAM's weights, disk space."""

import functools
import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis

from skylight.backend.admin.findings import Finding
from skylight.backend.queue import counters, redis_commands
from skylight.backend.queue.failures import KEPT_SECONDS
from skylight.backend.queue.keys import KINDS, Kind
from skylight.backend.queue.workers import running
from skylight.backend.service import Service
from skylight.backend.setting_parsers import redact_url
from skylight.backend.settings import MEGABYTE, Settings
from skylight.backend.store.disk_space import DISK_FAIL, GIGABYTE, _existing, free_bytes
from skylight.model.sam import checkpoints
from skylight.model.sam.checkpoints import CheckpointError
from skylight.model.sam.loading import TINY_WEIGHTS
from skylight.model.storage.lru_folder import list_files

OLDEST_REDIS = 6  # RQ 3 requires it
DISK_WARN = 5 * GIGABYTE  # an embedding has 0.8 to 1.8 MB: 2700 to 6000 images
INBOX_SECONDS = 600.0  # an event that has waited for longer is worth an alarm
MAKE_ROOM = "Make room (`skylight cache --trim`, SKYLIGHT_DISK_MB), or move SKYLIGHT_HOME to a larger disk."
LISTED_FILES = 5  # damaged ones
COMPLETE = ("worker", "inbox")  # findings of `quick_findings` that say all that those of `findings` say


def findings(service: Service) -> list[Finding]:
    """The findings of all checks."""
    return [
        *_check_redis(service),
        _check_inbox(service),
        _check_weights(service),
        _check_disk(service.settings),
        *_check_damaged(service),
    ]


def quick_findings(service: Service) -> list[Finding]:
    """The findings of the checks that take milliseconds; nothing of the weights and the disk if all is well."""
    findings = [_check_inbox(service)]
    try:
        findings.append(_check_workers(service))
    except redis.RedisError as error:
        findings.append(_redis_away(service, error))
    try:
        service.check_weights()
    except CheckpointError as error:
        findings.append(_missing_weights(service, error))
    return [*findings, *_full_disk(service.settings)]


def _check_redis(service: Service) -> list[Finding]:
    connection, findings = service.queue.redis, []
    try:
        findings.append(_check_commands(connection))
        info = connection.info()
        version, persistence = _check_version(service, info), _check_persistence(connection, info)
        return [version, *findings, persistence, _check_workers(service)]
    except redis.RedisError as error:
        return [*findings, _redis_away(service, error)]


def _check_commands(connection: redis.Redis) -> Finding:
    what, refused = "Redis: commands", redis_commands.refused(connection)
    if not refused:
        return Finding(what, "ok", "all that are used are there")
    reason = next(iter(refused.values()))
    step = "Use Redis 6.0 or newer, or Valkey; let Skylight's user run them (rename-command, ACL)."
    return Finding(what, "fail", f"{', '.join(refused)}: refused ({reason[:200]})", step)


def _redis_away(service: Service, error: redis.RedisError) -> Finding:
    step = "Start it, or set REDIS_URL to where it is; without REDIS_URL `skylight serve` runs one by itself."
    return Finding("Redis", "fail", f"{_redis_address(service)}: {error}", step)


def _redis_address(service: Service) -> str:
    return redact_url(service.settings.redis_url)


def _check_version(service: Service, info: dict[str, Any]) -> Finding:
    version = str(info["redis_version"])
    detail = f"Valkey {info['valkey_version']}" if info.get("valkey_version") else f"Redis {version}"
    detail += f" at {_redis_address(service)}"
    if int(version.partition(".")[0]) < OLDEST_REDIS:
        return Finding("Redis", "fail", detail, f"Use Redis {OLDEST_REDIS} or newer, or Valkey.")
    if int(info.get("maxmemory", 0)) and info.get("maxmemory_policy") != "noeviction":
        detail += f", which drops keys when its memory is full ({info['maxmemory_policy']})"
        return Finding("Redis", "fail", detail, "Set maxmemory-policy to noeviction.")
    return Finding("Redis", "ok", detail)


def _check_persistence(connection: redis.Redis, info: dict[str, Any]) -> Finding:
    what, step = "Redis: persistence", "Set `appendonly yes` in its configuration."
    if int(info.get("aof_enabled", 0)):
        if info.get("aof_last_write_status", "ok") != "ok":
            return Finding(what, "fail", "the last write to its append-only file failed", "Look at its log and disk.")
        return Finding(what, "ok", "append-only file")
    try:
        snapshots = bool(connection.config_get("save").get("save"))
    except redis.ResponseError:  # a managed Redis may refuse the command
        return Finding(what, "warn", "no append-only file; whether it keeps snapshots it does not say", step)
    kept = "snapshots: a crash loses what came since the last" if snapshots else "none: a restart loses all it holds"
    return Finding(what, "warn", f"{kept}; no accepted annotation is lost, but it is fetched again", step)


def _check_workers(service: Service) -> Finding:
    waiting = sum(queue.count for queue in service.queue.queues.values())
    if workers := running(service.queue):
        listed = "; ".join(f"{worker}{_only(worker.kinds)}" for worker in workers)
        if untaken := [kind for kind in KINDS if not any(kind in worker.kinds for worker in workers)]:
            step = f"Run a worker that takes them too: skylight worker --queues {','.join(untaken)}"
            return Finding("worker", "fail", f"{listed}; none takes {', '.join(untaken)}", step)
        return Finding("worker", "ok", f"{listed}; {waiting} jobs wait")
    step = "`skylight serve` runs one if SKYLIGHT_WORKERS is not 0; beside `skylight web` run `skylight worker`."
    return Finding("worker", "fail", f"none runs; {waiting} jobs wait, nothing is learned", step)


def _only(kinds: Sequence[Kind]) -> str:
    return "" if len(kinds) == len(KINDS) else f", for {', '.join(kinds)} only"


def _check_inbox(service: Service) -> Finding:
    """How long the oldest event has waited, in Redis or on disk."""
    oldest = counters.spooled_age(service.settings.home)
    with suppress(redis.RedisError):  # which has a finding of its own
        oldest = max(oldest, *counters.read_counters(service.queue, service.store.projects()).age.values(), 0.0)
    if oldest > INBOX_SECONDS:
        step = "Is a worker busy with a long training, or ended? Its log says; more workers: SKYLIGHT_WORKERS."
        return Finding("inbox", "fail", f"the oldest event has waited for {oldest / 60:.0f} min", step)
    return Finding("inbox", "ok", f"the oldest event has waited for {oldest:.0f} s" if oldest else "empty")


def _check_weights(service: Service) -> Finding:
    name, what = service.settings.sam, "SAM"
    try:
        path = service.check_weights() or TINY_WEIGHTS
        stat = path.stat()
        digest = _sha256(path, stat.st_size, stat.st_mtime_ns)
    except (CheckpointError, OSError) as error:
        return _missing_weights(service, error)
    if name == "tiny":
        return Finding(what, "ok", f"tiny, bundled, sha256 {digest[:16]}...")
    if digest != checkpoints.find(name).sha256:
        step = f"Delete it and run: skylight checkpoints download {name}"
        return Finding(what, "fail", f"{path} has sha256 {digest}, not the published one", step)
    return Finding(what, "ok", f"{name}, {path}, sha256 {digest[:16]}... as published")


def _missing_weights(service: Service, error: Exception) -> Finding:
    return Finding("SAM", "fail", str(error), f"Run: skylight checkpoints download {service.settings.sam}")


@functools.lru_cache(maxsize=8)
def _sha256(path: Path, size: int, changed: int) -> str:
    """The sha256 of a file; read again (2.6 GB take seconds) only if it has changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _full_disk(settings: Settings) -> list[Finding]:
    """One finding if the disk is full or cannot be written, else none."""
    home = settings.home
    if not os.access(_existing(home), os.W_OK):
        return [Finding("disk", "fail", f"{home} cannot be written", "Give its user the right, or set SKYLIGHT_HOME.")]
    if (free := free_bytes(home)) < DISK_FAIL:
        return [Finding("disk", "fail", f"{free / GIGABYTE:.1f} GB free for {home}", MAKE_ROOM)]
    return []


def _check_damaged(service: Service) -> list[Finding]:
    """One finding if damaged files were set aside lately, else none."""
    damage = service.store.damage
    if not (names := damage.since(time.time() - KEPT_SECONDS)):
        return []
    more = f" and {len(names) - LISTED_FILES} more" if len(names) > LISTED_FILES else ""
    detail = f"{', '.join(names[:LISTED_FILES])}{more} could not be read and was set aside in {damage.folder}"
    step = "Look at the disk. What was lost is made again from Label Studio. What you have looked at may be deleted."
    return [Finding("damaged files", "warn", detail, step)]


def _check_disk(settings: Settings) -> Finding:
    if full := _full_disk(settings):
        return full[0]
    home = settings.home
    free = free_bytes(home)
    size = sum(embedding.size for embedding in list_files(home / "embeddings"))
    limit = f"at most {settings.disk_mb * MEGABYTE / GIGABYTE:.1f} GB" if settings.disk_mb else "without limit"
    detail = f"{free / GIGABYTE:.1f} GB free for {home}; embeddings take {size / GIGABYTE:.1f} GB, {limit}"
    if free < DISK_WARN:
        return Finding("disk", "warn", detail, MAKE_ROOM)
    return Finding("disk", "ok", detail)

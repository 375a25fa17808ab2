"""The layout of the store and of Redis, a number in each: an older one is migrated, a newer one refused.

    SKYLIGHT_HOME/layout.json   {"layout": 1}
    skylight:layout             1

Layout 0 is what was before there was a number: JSON without checksums, cards without their weights' sha256. Layout 1
has them. Whatever changes the store's files or Redis's keys such that another release would misread them counts
`LAYOUT` up and adds a step to `STEPS`.
"""

import fcntl
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import redis

from skylight.backend.errors import Unavailable
from skylight.backend.store.versions import CARD, WEIGHTS
from skylight.model.storage.checksums import is_sealed, seal, unseal
from skylight.model.storage.file_store import FileStore

LAYOUT = 1
NAME = "layout.json"
LAYOUT_KEY = "skylight:layout"  # in Redis

log = logging.getLogger(__name__)


def check(files: FileStore, connection: redis.Redis) -> None:
    """Bring the store and Redis up to date before anything is read; of several processes one does it.

    Raises Unavailable if either is a newer Skylight's, or if an older store cannot be written. A Redis that is away is
    looked at by the next process that starts.
    """
    _check_store(files)
    try:
        _check_redis(connection)
    except redis.RedisError as error:
        log.warning("Redis is away (%s), so its layout is not known", error)


def _check_store(files: FileStore) -> None:
    found, home = stored(files), files.folder
    if found == LAYOUT:
        return
    if found > LAYOUT:
        raise Unavailable(_newer(f"{home} has", found))
    try:
        home.mkdir(parents=True, exist_ok=True)
        with (home / f".{NAME}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for step in STEPS[stored(files) :]:  # none if another process was first
                step(files)
            files.write(NAME, seal({"layout": LAYOUT}))
    except OSError as error:
        if not files.list_folder("projects").names:
            log.error("%s cannot be written: %s", home, error)
            return  # nothing is there to be misread; clicks work, and `doctor` says it
        text = (
            f"{home} has layout {found}, which this Skylight would bring to {LAYOUT}, but it cannot be written: {error}"
        )
        raise Unavailable(f"{text}. Make it writable, then start again") from error


def _check_redis(connection: redis.Redis) -> None:
    connection.set(LAYOUT_KEY, LAYOUT, nx=True)  # the keys of before the number are those of layout 1
    found: Any = connection.get(LAYOUT_KEY)
    if int(found) > LAYOUT:
        raise Unavailable(_newer("Redis (REDIS_URL) has", int(found)))


def _newer(what: str, found: int) -> str:
    return (
        f"{what} layout {found}, written by a newer Skylight; this one knows layouts up to {LAYOUT}. "
        "Install the newer Skylight again, or give this one another SKYLIGHT_HOME and REDIS_URL"
    )


def stored(files: FileStore) -> int:
    """The layout of a store; 0 where there is no number, or a damaged one: to bring up to date twice does no harm."""
    try:
        return int(unseal(files.read(NAME))["layout"])
    except (OSError, LookupError, TypeError, ValueError):
        return 0


def _add_checksums(files: FileStore) -> None:
    """From 0 to 1. A file that cannot be read is left, and quarantined when it is asked for."""
    count = 0
    for folder, name in _json_files(files):
        try:
            data = files.read(f"{folder}/{name}")
            if is_sealed(data):
                continue
            content = json.loads(data)
            if name == CARD and "sha256" not in content:
                content["sha256"] = hashlib.sha256(files.read(f"{folder}/{WEIGHTS}")).hexdigest()
        except (ValueError, TypeError, OSError) as error:
            log.error("%s/%s cannot be read: %s", files.path(folder), name, error)
            continue
        files.write(f"{folder}/{name}", seal(content, indent=1 if name == CARD else None))
        count += 1
    if count:
        log.info("%s has layout 1 now: %d files were given checksums", files.folder, count)


def _json_files(files: FileStore) -> Iterator[tuple[str, str]]:
    """The folder and the name of every file that layout 1 seals."""
    for project in files.list_folder("projects").names:
        folder = f"projects/{project}"
        for name in files.list_folder(folder).names:
            if name == "project.json" or (name.startswith("current") and name.endswith(".json")):
                yield folder, name
        for name in files.list_folder(f"{folder}/samples").names:
            if name.endswith(".json"):
                yield f"{folder}/samples", name
        for number in files.list_folder(f"{folder}/versions").names:
            if files.exists(f"{folder}/versions/{number}/{CARD}"):
                yield f"{folder}/versions/{number}", CARD


STEPS: tuple[Callable[[FileStore], None], ...] = (_add_checksums,)  # STEPS[n] brings layout n to n + 1

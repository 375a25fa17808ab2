"""Periodic maintenance beside the work: events on disk, lost and failed jobs, lost events, unfinished files, and
predictions of versions that are not served any more.
"""

import logging
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import redis

from skylight.backend.errors import LabelStudioError
from skylight.backend.learning.superseded_predictions import DELETED, HOUR, delete_superseded
from skylight.backend.queue.inbox import replay
from skylight.backend.queue.keys import RECONCILED, key
from skylight.backend.queue.recovery import Sweep
from skylight.backend.service import Service

EVERY_SECONDS = 5.0
CLEAR_SECONDS = 3.0  # of deleting old predictions at a time; Label Studio has other things to do as well
CLEARED_SECONDS = 600  # between two looks for such predictions where none is left
LITTER_SECONDS = 3600.0  # age at which a part of a file that was never finished is litter
CLEARING = "old predictions"  # what a failure by Label Studio's refusal to delete them is called
PART = re.compile(
    r"\..+\.[0-9a-f]{8}|\.[0-9a-f]{32}"
)  # names as `skylight.model.storage.atomic_write.write` and `Versions.publish` make them

log = logging.getLogger(__name__)


class Maintenance:
    """`with Maintenance(service, sweep=True):` in a worker; the web server only empties the spool."""

    def __init__(self, service: Service, sweep: bool) -> None:
        self.service = service
        self._sweep = Sweep(service.queue) if sweep else None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(EVERY_SECONDS)

    def _run(self) -> None:
        try:
            if self._sweep:
                delete_unfinished_files(self.service.settings.home)
        except OSError as error:
            log.warning("litter in SKYLIGHT_HOME is left: %s", error)
        while not self._done.wait(EVERY_SECONDS):
            try:
                self.run_once()
            except (redis.RedisError, OSError) as error:
                log.warning("upkeep: %s; tried again in %.0f s", error, EVERY_SECONDS)
            except Exception:
                log.exception("upkeep: an error that Skylight did not foresee")

    def run_once(self) -> None:
        """Look once. Raises redis.RedisError while Redis is away, OSError if the spool cannot be read."""
        replay(self.service.queue, self.service.spool)
        if self._sweep:
            self._sweep.run()
            self.service.retries.request_due()
            self._reconcile()
            self._clear()

    def _reconcile(self) -> None:
        """Every few minutes, and in one worker only, have all projects compared with Label Studio.

        Also those that Redis does not know any more, which are trained anew; not those that are not in Label Studio any
        more, unless a worker starts, or an event comes.
        """
        minutes, queue = self.service.settings.reconcile_minutes, self.service.queue
        if not minutes or not queue.redis.set(RECONCILED, int(time.time()), nx=True, ex=60 * minutes):
            return
        known, stored = set(queue.projects()), set(self.service.store.projects())
        for project in stored - known:
            queue.mark_dirty(project)
        for project in sorted((known | stored) - queue.gone().keys()):
            queue.request_reconciliation(project, glance=True)
            queue.request(project, "ingest")

    def _clear(self) -> None:
        """In one worker at a time, delete a few of the predictions in Label Studio that are old enough."""
        service, connection = self.service, self.service.queue.redis
        if service.labelstudio is None:
            return
        for project in sorted({*service.queue.projects(), *service.store.projects()}):
            mark = key(project, "superseded-looked")
            if not connection.set(mark, 1, nx=True, ex=CLEARED_SECONDS):
                continue
            try:
                if delete_superseded(service, project, CLEAR_SECONDS):
                    connection.delete(mark)
                service.failures.clear(project, CLEARING)
            except LabelStudioError as error:
                log.warning("project %s: predictions of earlier versions are not deleted: %s", project, error)
                service.failures.record(project, CLEARING, str(error), "It is tried again within ten minutes")
                if not error.http_status:
                    return  # nor would it answer about the next
            self._forget(project)

    def _forget(self, project: str) -> None:
        """Say no more that predictions were deleted by somebody: no editor is open that long."""
        seconds = HOUR * self.service.settings.keep_predictions
        for failure in self.service.failures.of(project):
            if failure.what == DELETED and time.time() - failure.at > seconds:
                self.service.failures.clear(project, DELETED)


def delete_unfinished_files(home: Path, now: float | None = None) -> int:
    """Delete parts of files and versions whose process was killed while it wrote them; gives how many."""
    before = (time.time() if now is None else now) - LITTER_SECONDS
    unfinished = [path for path in _parts(home) if path.lstat().st_mtime < before]
    for path in unfinished:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if unfinished:
        log.info("%d unfinished files of killed processes are deleted", len(unfinished))
    return len(unfinished)


def _parts(home: Path) -> Iterator[Path]:
    for folder in ("projects", "embeddings", "spool"):
        yield from (path for path in (home / folder).rglob(".*") if PART.fullmatch(path.name))

"""Deletes predictions of versions that are not served any more, once no editor can need them.

Label Studio refuses a submit, and the update of an annotation, that names a prediction which is gone (1.23.2: 400,
`parent_prediction`), and it does not tell which task anybody has open. So what an editor may have been opened with is
kept for `SKYLIGHT_KEEP_PREDICTIONS` hours from when another version took its place, and never goes where an annotation
was made from it. What is shown and sorted by is the project's model version alone.
"""

import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from skylight.backend.errors import LabelStudioError
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.labelstudio.events import project_key
from skylight.backend.labelstudio.task_listing import StoredPrediction, TaskReferences
from skylight.backend.queue.keys import key
from skylight.backend.service import Service
from skylight.model.sam.checkpoints import CHECKPOINTS

DECODER = "skylight-"  # and its number: a model version
SAM_ALONE = frozenset(f"sam-{name}" for name in ("tiny", *CHECKPOINTS))  # model versions before the first decoder
MOST_EARLIER = 5  # of a task: each is sent along when the task is opened; the next one is written over the oldest
VERSIONS_AT_ONCE = 20  # named in one listing, whose address must stay short
HOUR = 3600.0  # s
DELETED = "submit"  # what a failure by predictions that somebody deleted is called

log = logging.getLogger(__name__)


def is_ours(version: str) -> bool:
    """Whether a model version is one of Skylight's."""
    return version.startswith(DECODER) or version in SAM_ALONE


def number_of(version: str) -> int:
    """The number of a model version that is a decoder's of Skylight; 0 of any other, as of SAM alone."""
    number = version.removeprefix(DECODER)
    return int(number) if version.startswith(DECODER) and number.isdecimal() else 0


def replaceable(references: TaskReferences, keep: Iterable[str]) -> StoredPrediction | None:
    """The oldest of a task's predictions that another may be written over; None if there is none.

    Of Skylight's, not of the versions in `keep`, and not one that an annotation was made from.
    """
    candidates = [
        prediction
        for prediction in references.predictions
        if is_ours(prediction.model_version)
        and prediction.model_version not in keep
        and prediction.id not in references.parents
    ]
    return min(candidates, key=lambda prediction: prediction.updated_at, default=None)


def record_superseded(
    service: Service, project: str, shown: str, stored: Mapping[str, int], now: float | None = None
) -> dict[str, float]:
    """Note since when versions are superseded; gives it, in seconds as `time.time()` counts.

    `shown`: the project's model version; `stored`: how many predictions Label Studio has of each. A version that is
    served or shown is not superseded. Raises redis.RedisError.
    """
    redis, where, now = service.queue.redis, _where(project), time.time() if now is None else now
    earlier = {version for version in stored if is_ours(version)} - {shown, service.version_name(project)}
    known = {version: float(since) for version, since in _read(service, where).items()}
    young = now - HOUR * service.settings.keep_predictions
    _look_for_deleted(service, project, {one for one in known if known[one] > young and not stored.get(one)})
    if over := known.keys() - earlier:
        for each in (where, _left(project), _held(project)):
            redis.hdel(each, *over)
    for version in earlier - known.keys():
        redis.hset(where, version, str(now))
        redis.hset(_held(project), version, stored[version])
    return {version: known.get(version, now) for version in earlier}


def record_overwrite(service: Service, project: str, old: StoredPrediction) -> None:
    """Note that Skylight itself has written over a prediction: its version has one less."""
    service.queue.redis.hincrby(_held(project), old.model_version, -1)


def record_deleted(service: Service, project: str, which: str) -> None:
    """Say that somebody has deleted predictions, on the page and by the doctor, until no editor is open that long."""
    reason = (
        f"the predictions {which} were deleted in Label Studio, and not by Skylight: whoever had a task open with one "
        "is refused at Submit (400, parent_prediction)"
    )
    step = "Reload the task's page: it goes on from its draft. Delete no predictions by hand while tasks are open"
    service.failures.record(project, DELETED, reason, step)


def _look_for_deleted(service: Service, project: str, gone: Iterable[str]) -> None:
    """Say so where versions are gone before their time, of which Skylight has not written over each prediction."""
    held = _read(service, _held(project))
    if deleted := sorted(version for version in gone if int(held.get(version, 0)) > 0):
        record_deleted(service, project, f"of {', '.join(deleted)}")


def delete_superseded(service: Service, project: str, seconds: float, now: float | None = None) -> bool:
    """Delete, for so long at most, the predictions that have been superseded for long; gives whether any is left.

    Nothing is deleted where Label Studio's project is another one by now, or gone. Raises LabelStudioError and
    redis.RedisError.
    """
    client, number = service.labelstudio, int(project.partition(".")[0])
    if client is None:
        return False
    try:
        response = client.project(number)
    except LabelStudioError as error:
        if error.http_status == 404:
            return False
        raise
    if project_key(response) != project:
        return False
    now = time.time() if now is None else now
    stored = client.model_versions(number)
    since = record_superseded(service, project, str(response.get("model_version") or ""), stored, now)
    before = now - HOUR * service.settings.keep_predictions
    left = _read(service, _left(project))
    over = {version for version in since if since[version] <= before and stored[version] > int(left.get(version, 0))}
    return bool(over) and _Clearing(service, client, project, before, time.monotonic() + seconds).run(over)


@dataclass(frozen=True)
class _Clearing:
    """One slice of the clearing of one project."""

    service: Service
    client: LabelStudio
    project: str
    before: float  # as `time.time()` counts: what was made or written over later is kept
    until: float  # by the monotonic clock

    @property
    def number(self) -> int:
        """The project's id in Label Studio."""
        return int(self.project.partition(".")[0])

    def run(self, over: set[str]) -> bool:
        """Go on where the slice before ended; gives whether tasks are left. `over`: versions superseded for long."""
        place = self._place()
        versions = sorted(over & set(place["versions"])) or sorted(over)[:VERSIONS_AT_ONCE]
        if not set(versions) <= set(place["versions"]):
            place = {"versions": versions, "after": -1, "waiting": False}
        deleted = 0
        for task in self.client.references(self.number, versions, place["after"]):
            if self.service.version_name(self.project) in versions:  # rolled back to it meanwhile
                return True
            count, waiting = self._clear(task, versions)
            deleted += count
            place["after"], place["waiting"] = task.task, place["waiting"] or waiting
            if time.monotonic() > self.until or self.service.stopping.is_set():
                self.service.queue.redis.set(self._where, json.dumps(place), ex=int(24 * HOUR))
                return True
        self.service.queue.redis.delete(self._where)
        if not place["waiting"]:
            self._settle(versions)
        if deleted:
            log.info("project %s: %d predictions of earlier versions are deleted", self.project, deleted)
        return False

    @property
    def _where(self) -> str:
        return key(self.project, "superseded-place")

    def _place(self) -> dict[str, Any]:
        found: Any = self.service.queue.redis.get(self._where)
        made: dict[str, Any] = json.loads(found) if found else {"versions": [], "after": -1, "waiting": False}
        return made

    def _clear(self, task: TaskReferences, versions: list[str]) -> tuple[int, bool]:
        """How many predictions of a task are deleted, and whether others may be later."""
        superseded = [
            prediction
            for prediction in task.predictions
            if prediction.model_version in versions and prediction.id not in task.parents
        ]
        old = [prediction for prediction in superseded if _seconds(prediction.updated_at) <= self.before]
        if old and self._is_open(task.task):
            return 0, True
        return sum(self.client.delete_prediction(prediction.id) for prediction in old), len(old) < len(superseded)

    def _is_open(self, task: int) -> bool:
        """Whether an editor saves drafts of the task: it may have been opened before all that."""
        return any(_seconds(draft["updated_at"]) > self.before for draft in self.client.drafts(task))

    def _settle(self, versions: list[str]) -> None:
        """Remember how many must stay, as annotations were made from them, so that they are not looked for again."""
        stored = self.client.model_versions(self.number)
        for version in versions:
            self.service.queue.redis.hset(_left(self.project), version, stored.get(version, 0))


def _where(project: str) -> str:
    """Key of the hash of when versions were superseded."""
    return key(project, "superseded")


def _held(project: str) -> str:
    """Key of the hash of how many predictions of a superseded version Label Studio holds, but for deleted ones."""
    return key(project, "superseded-held")


def _left(project: str) -> str:
    """Key of the hash of how many of them must stay."""
    return key(project, "superseded-left")


def _read(service: Service, where: str) -> dict[str, str]:
    """A hash of Redis."""
    found: Any = service.queue.redis.hgetall(where)
    return {name.decode(): value.decode() for name, value in found.items()}


def _seconds(when: str) -> float:
    return datetime.fromisoformat(when).timestamp()

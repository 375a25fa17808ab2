"""Delivers a version's predictions to Label Studio without removing one that an editor was opened with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.labelstudio.task_listing import StoredPrediction, TaskSummary
from skylight.backend.learning.superseded_predictions import (
    MOST_EARLIER,
    is_ours,
    number_of,
    record_deleted,
    record_overwrite,
    replaceable,
)
from skylight.backend.queue.keys import key
from skylight.backend.service import Service

MARK_SECONDS = 30 * 24 * 3600  # how long it is remembered which tasks have a version's prediction
CUT_CHARS = 400  # of model versions; Label Studio shows 500 with what stands between them
NAMED = 10  # tasks in a message
EMPTY = {"result": [], "score": 0.0, "cluster": None}


def _done(project: str, version: str) -> str:
    return key(project, f"preannotated-{version}")


def _sent(project: str, version: str) -> str:
    return key(project, f"sent-{version}")


def forget_delivery(service: Service, project: str, version: str) -> None:
    """Forget which tasks have a version's prediction: by now some may have been written over, or deleted."""
    service.queue.redis.delete(_done(project, version), _sent(project, version))


@dataclass(frozen=True)
class Delivery:
    """One version's predictions on their way to one project."""

    service: Service
    client: LabelStudio
    project: str
    version: str  # as Label Studio names it
    shown: str  # the project's model version when the round began

    @property
    def number(self) -> int:
        """The project's id in Label Studio."""
        return int(self.project.partition(".")[0])

    @property
    def late(self) -> str:
        """Key of the set of tasks that a /predict had no time for: Label Studio has an empty prediction of them."""
        return key(self.project, f"late-{self.version}")

    @property
    def sent(self) -> str:
        """Key of the set of tasks whose prediction Label Studio has taken."""
        return _sent(self.project, self.version)

    @property
    def done(self) -> str:
        """Key of the set of tasks that nothing is left to be done for."""
        return _done(self.project, self.version)

    def hide(self) -> None:
        """Have predictions of a version that was rolled back shown no more: rather none than those."""
        if number_of(self.shown) > number_of(self.version):
            stored = self.client.model_versions(self.number)
            self.client.set_model_version(self.number, self.version if stored.get(self.version) else "")
            forget_delivery(self.service, self.project, self.version)

    def is_withdrawn(self, task: TaskSummary) -> bool:
        """Whether a task has a prediction of a version that was rolled back."""
        return any(number_of(version) > number_of(self.version) for version in task.model_versions)

    def store(self, task: TaskSummary, made: Mapping[str, Any]) -> None:
        """Store a task's prediction, {result, score, cluster}: in place of one that is no longer needed, if there is
        one, else as a new one.

        Nothing where the task is gone. Raises LabelStudioError.
        """
        body = {**made, "model_version": self.version}
        written = False
        for old in self._replaceable(task):
            if self.client.replace_prediction(self.number, task.id, old.id, body):
                written = True
                record_overwrite(self.service, self.project, old)
        has_it = self.is_withdrawn(task) and self.version in task.model_versions
        if not written and not has_it and not self.client.create_prediction(self.number, task.id, body):
            return
        redis = self.service.queue.redis
        redis.sadd(self.sent, task.id)
        redis.expire(self.sent, MARK_SECONDS)

    def _replaceable(self, task: TaskSummary) -> list[StoredPrediction]:
        """The predictions to be written over: those of versions that were rolled back, the empty one of a
        late answer, or the oldest of many earlier ones.
        """
        if self.service.queue.redis.sismember(self.late, str(task.id)):
            for prediction in self.client.predictions(task.id):
                if prediction.get("model_version") == self.version and not prediction.get("result"):
                    return [StoredPrediction(prediction["id"], self.version, str(prediction.get("updated_at") or ""))]
        withdrawn = self.is_withdrawn(task)
        if not withdrawn and sum(map(is_ours, task.model_versions)) <= MOST_EARLIER:
            return []
        references = self.client.references_of(self.number, task.id)
        if references is None:
            return []
        if withdrawn:
            over = [
                prediction
                for prediction in references.predictions
                if number_of(prediction.model_version) > number_of(self.version)
            ]
            return [prediction for prediction in over if prediction.id not in references.parents]
        old = replaceable(references, (self.shown, self.version))
        return [old] if old else []

    def look_for_deleted(self, tasks: Iterable[TaskSummary]) -> None:
        """Say so where predictions are gone that Skylight has sent and not deleted; `tasks` are all of the project."""
        redis = self.service.queue.redis
        lacking = {task.id: self.version not in task.model_versions and not _is_cut(task) for task in tasks}
        sent = {int(task) for task in redis.smembers(self.sent)}
        gone = sorted(task for task in sent if lacking.get(task))
        if over := [task for task in sent if lacking.get(task, True)]:
            redis.srem(self.sent, *over)
        if not gone:
            return
        named = ", ".join(map(str, gone[:NAMED])) + (" and others" if len(gone) > NAMED else "")
        record_deleted(self.service, self.project, f"of {len(gone)} tasks ({named})")


def _is_cut(task: TaskSummary) -> bool:
    """Whether the list of a task's model versions may have been cut."""
    return sum(map(len, task.model_versions)) > CUT_CHARS

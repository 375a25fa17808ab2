"""Predictions of the current version on the tasks still open, sent to Label Studio."""

import logging
from dataclasses import dataclass
from typing import Any

from backend.errors import SkylightError
from backend.labeling import Labeling
from backend.labelstudio import LabelStudio, TaskSummary
from backend.predict import image_url, preannotation
from backend.queue import key
from backend.service import Service
from model.decoder import DomainDecoder
from model.images import ImageError

BATCH = 16  # predictions sent at once
MARK_SECONDS = 30 * 24 * 3600  # how long it is remembered which tasks have a version's prediction

log = logging.getLogger(__name__)


def preannotate(service: Service, project: str) -> bool:
    """Give every open task a prediction of the current version and remove those of earlier ones.

    Stops when something more urgent is queued, or when another version has become current; gives whether tasks are
    left. Which tasks are done is remembered, so that it goes on from there. If Label Studio refuses or does not
    answer, the log says so, and the next event of the project brings the rest.
    """
    client = service.labelstudio
    if client is None or not service.versions.current(project):
        return False
    try:
        version = service.version_name(project)  # before the decoder: should the next one come between, it is noticed
        labeling = service.labeling(service.store.config(project))
        decoder = service.decoder(project, labeling)
        if decoder is None:
            log.info("project %s: no pre-annotation before a version for its labels is trained", project)
            return False
        return _Round(service, client, project, version, labeling, decoder).run()
    except SkylightError as error:
        log.warning("project %s is not pre-annotated: %s", project, error)
        return False


@dataclass(frozen=True)
class _Round:
    """One project's open tasks and one version."""

    service: Service
    client: LabelStudio
    project: str
    version: str
    labeling: Labeling
    decoder: DomainDecoder

    @property
    def number(self) -> int:
        """The project's id in Label Studio."""
        return int(self.project.partition(".")[0])

    def run(self) -> bool:
        """As `preannotate`."""
        redis, done_key = self.service.queue.redis, key(self.project, f"preannotated-{self.version}")
        done = {int(task) for task in redis.smembers(done_key)}
        tasks = [task for task in self.client.tasks(self.number) if not task.annotations and not task.skipped]
        todo = [task for task in tasks if task.id not in done and self.version not in task.model_versions]
        for start in range(0, len(todo), BATCH):
            urgent = self.service.queue.waiting("ingest", "train")
            if urgent or self.service.version_name(self.project) != self.version:
                return True
            settled = self._send(todo[start : start + BATCH])
            if settled:
                redis.sadd(done_key, *settled)
                redis.expire(done_key, MARK_SECONDS)
        self._show()
        if todo:
            log.info("project %s: %d open tasks have been pre-annotated by %s", self.project, len(todo), self.version)
        return False

    def _send(self, tasks: list[TaskSummary]) -> list[int]:
        """Predict some tasks and send it; gives the ids of the settled: sent, or their picture unreadable."""
        predictions: list[dict[str, Any]] = []
        settled = []
        for task in tasks:
            try:
                url = image_url({"id": task.id, "data": task.data}, self.labeling)
                regions, score = preannotation(self.service, self.decoder, self.labeling, url)
                made = {"task": task.id, "result": regions, "score": score, "model_version": self.version}
                predictions.append(made)
            except ImageError as error:
                log.warning("project %s task %s gets no pre-annotation: %s", self.project, task.id, error)
            except SkylightError as error:  # it cannot be fetched now
                log.warning("project %s task %s gets no pre-annotation yet: %s", self.project, task.id, error)
                continue
            settled.append(task.id)
        self.client.create_predictions(self.number, predictions)
        return settled

    def _show(self) -> None:
        """Have Label Studio show and sort by this version, and forget those before."""
        stored = self.client.model_versions(self.number)
        if self.version not in stored:
            return
        if self.client.project(self.number).get("model_version") != self.version:
            self.client.set_model_version(self.number, self.version)
        for other in stored:
            if other != self.version and other.startswith(("skylight-", "sam-")):
                self.client.delete_predictions(self.number, other)

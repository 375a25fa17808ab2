"""Predictions of the current version on the tasks still open, sent to Label Studio."""

import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.clustering import cluster_of, find_clusters
from backend.errors import BadRequest, LabelStudioError, SkylightError
from backend.fair import TURN_SECONDS, Turn
from backend.labeling import Labeling
from backend.labelstudio import LabelStudio, TaskSummary
from backend.predict import image_url, preannotation
from backend.queue import Progress, key
from backend.service import Service
from backend.trace import fail
from model.decoder import DomainDecoder
from model.images import ImageError

REFUSALS = 3  # in a row, after which Label Studio is taken to be down
CHUNK = 20  # tasks after which Label Studio is asked which are still open: it asks for predictions itself meanwhile
MARK_SECONDS = 30 * 24 * 3600  # how long it is remembered which tasks have a version's prediction

NO_CLUSTERS = np.zeros((0, 1), np.float32)

log = logging.getLogger(__name__)


def preannotate(service: Service, project: str, undisturbed: float = 0.0) -> bool:
    """Give every open task a prediction of the current version and remove those of earlier ones.

    Stops when something more urgent is queued, but not in the first `undisturbed` seconds, when its turn is over (see
    `backend.fair`), or when another version has become current; gives whether tasks are left. Which tasks are done is
    remembered, so that it goes on from there. If Label Studio refuses or does not answer, the log says so, and the next
    event of the project brings the rest.
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
        turn = Turn(service.queue, "preannotate", max(TURN_SECONDS, undisturbed))
        return _Round(service, client, project, version, labeling, decoder, time.monotonic() + undisturbed, turn).run()
    except SkylightError as error:
        log.warning("project %s is not pre-annotated: %s", project, error)
        fail(error)
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
    until: float  # by the monotonic clock, it goes on whatever is queued
    turn: Turn

    @property
    def number(self) -> int:
        """The project's id in Label Studio."""
        return int(self.project.partition(".")[0])

    @property
    def _late(self) -> str:
        """Key of the set of tasks that a /predict had no time for: Label Studio has an empty prediction of them."""
        return key(self.project, f"late-{self.version}")

    def run(self) -> bool:
        """As `preannotate`."""
        redis, done_key = self.service.queue.redis, key(self.project, f"preannotated-{self.version}")
        done = {int(task) for task in redis.smembers(done_key)}
        tasks = [task for task in self.client.tasks(self.number) if _is_open(task)]
        todo = self._wanting(tasks, done)
        self._note(len(tasks) - len(todo), len(tasks))
        centres = self._clusters(tasks) if todo else NO_CLUSTERS
        if centres is None:
            return True
        refused = settled = 0
        self.turn.work()
        for place, task in enumerate(todo):
            if place % CHUNK == 0:
                ids = [each.id for each in todo[place : place + CHUNK]]
                wanting = {each.id for each in self._wanting(self.client.tasks(self.number, only=ids), done)}
            if self._interrupted():
                return True
            try:
                if task.id not in wanting:
                    settled += 1
                elif self._settle(task, centres):
                    settled += 1
                    redis.sadd(done_key, task.id)
                    redis.expire(done_key, MARK_SECONDS)
                refused = 0
            except LabelStudioError as error:
                refused += 1
                if refused == REFUSALS:
                    raise
                log.warning("project %s task %s: its pre-annotation was refused: %s", self.project, task.id, error)
                fail(error)
            self._note(len(tasks) - len(todo) + settled, len(tasks))
        self._show()
        if todo:
            log.info(
                "project %s: %d of %d open tasks have been pre-annotated by %s",
                self.project,
                settled,
                len(todo),
                self.version,
            )
        return False

    def _wanting(self, tasks: Iterable[TaskSummary], done: set[int]) -> list[TaskSummary]:
        """Those that are open and lack this version's prediction, or have but the empty one of a late answer."""
        late = {int(task) for task in self.service.queue.redis.smembers(self._late)}
        return [
            task
            for task in tasks
            if _is_open(task) and (task.id in late or (task.id not in done and self.version not in task.model_versions))
        ]

    def _settle(self, task: TaskSummary, centres: NDArray[np.float32]) -> bool:
        """As `_send`, in the place of the empty prediction of a late answer, if there is one."""
        redis = self.service.queue.redis
        if redis.sismember(self._late, str(task.id)):
            self.client.delete_empty_predictions(task.id, self.version)
        settled = self._send(task, centres)
        if settled:
            redis.srem(self._late, task.id)
        return settled

    def _interrupted(self) -> bool:
        """Whether something more urgent is queued, or this version is not the current one any more."""
        self.service.check_stop()
        urgent = time.monotonic() > self.until and self.service.queue.waiting("ingest", "train")
        return urgent or self.turn.is_over or self.service.version_name(self.project) != self.version

    def _note(self, done: int, total: int) -> None:
        self.service.queue.set_progress(self.project, Progress(self.version, done, total))

    def _clusters(self, tasks: list[TaskSummary]) -> NDArray[np.float32] | None:
        urls = {}
        for task in tasks:
            with suppress(BadRequest):
                urls[task.id] = self._url(task)
        how = self.decoder.config.normalisation
        return find_clusters(self.service, self.project, self.version, urls, self._interrupted, how)

    def _url(self, task: TaskSummary) -> str:
        return image_url({"id": task.id, "data": task.data}, self.labeling)

    def _send(self, task: TaskSummary, centres: NDArray[np.float32]) -> bool:
        """Predict a task and send it; gives whether it is settled: sent, gone, or its picture unreadable."""
        try:
            url = self._url(task)
            regions, score = preannotation(self.service, self.decoder, self.labeling, url)
            cluster = cluster_of(self.service, centres, url, self.decoder.config.normalisation)
        except ImageError as error:
            log.warning("project %s task %s gets no pre-annotation: %s", self.project, task.id, error)
            fail(error)
            return True
        except SkylightError as error:  # it cannot be fetched now
            log.warning("project %s task %s gets no pre-annotation yet: %s", self.project, task.id, error)
            fail(error)
            return False
        made = {"result": regions, "score": score, "model_version": self.version, "cluster": cluster}
        self.client.create_prediction(self.number, task.id, made)
        return True

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


def _is_open(task: TaskSummary) -> bool:
    """Whether nobody has annotated or skipped it."""
    return not task.annotations and not task.skipped

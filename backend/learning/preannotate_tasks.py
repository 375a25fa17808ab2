"""Predictions of the current version on the tasks still open, sent to Label Studio."""

import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.backend.errors import BadRequest, LabelStudioError, SkylightError
from skylight.backend.inference.preannotation import preannotation
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.labelstudio.events import project_key
from skylight.backend.labelstudio.image_urls import image_url
from skylight.backend.labelstudio.label_config import Labeling
from skylight.backend.labelstudio.task_listing import TaskSummary
from skylight.backend.learning.clusters import cluster_of, find_clusters
from skylight.backend.learning.prediction_delivery import EMPTY, MARK_SECONDS, Delivery, forget_delivery
from skylight.backend.learning.superseded_predictions import number_of, record_superseded
from skylight.backend.queue.queue import Progress
from skylight.backend.queue.time_slice import SHARED_SECONDS, TimeSlice
from skylight.backend.service import Service
from skylight.backend.trace import record_error
from skylight.model.decoder.network import DomainDecoder
from skylight.model.images.decoding import ImageError

REFUSALS = 3  # in a row, after which Label Studio is taken to be down
CHUNK = 20  # tasks after which Label Studio is asked which are still open: it asks for predictions itself meanwhile
REFUSED = "pre-annotation"  # what a failure by Label Studio's refusals is called

NO_CLUSTERS = np.zeros((0, 1), np.float32)

log = logging.getLogger(__name__)


def preannotate(service: Service, project: str, undisturbed: float = 0.0) -> bool:
    """Give every open task a prediction of the current version, and have Label Studio show that.

    Those of earlier versions stay for a while, see `skylight.backend.learning.superseded_predictions`: somebody may
    have the task open with one. Those of versions that were rolled back are written over, with nothing where SAM alone
    is served again.

    Stops when something more urgent is queued, but not in the first `undisturbed` seconds, when its time slice is over,
    or when another version has become current; gives whether tasks are left. Which tasks are done is remembered, so
    that it goes on from there. If Label Studio refuses or does not answer, the log, the page and the doctor say so, and
    it is tried again after a while.
    """
    client = service.labelstudio
    if client is None:
        return False
    try:
        round_ = _begin(service, client, project, undisturbed)
        return round_ is not None and round_.run()
    except LabelStudioError as error:
        log.warning("project %s is not pre-annotated: %s", project, error)
        service.retries.record_refusal(project, "preannotate", REFUSED, error)
    except SkylightError as error:
        log.warning("project %s is not pre-annotated: %s", project, error)
        record_error(error)
    return False


def _begin(service: Service, client: LabelStudio, project: str, undisturbed: float) -> "_PreannotationRound | None":
    """A round, None if there is nothing to send, or if Label Studio's project is another one by now."""
    version = service.version_name(project)  # before the decoder: should the next one come between, it is noticed
    labeling = service.labeling(service.store.config(project))
    decoder = service.decoder_for(project, labeling)
    if decoder is None and service.versions.current(project):
        log.info("project %s: no pre-annotation before a version for its labels is trained", project)
        return None
    number = int(project.partition(".")[0])
    response = client.project(number)
    if project_key(response) != project:
        reason = f"Label Studio's project {number} is another one now, made at {response.get('created_at')}"
        log.warning("project %s is not pre-annotated: %s", project, reason)
        service.failures.record(project, REFUSED, reason, "Nothing is sent to it; what was learned here stays")
        return None
    if decoder is None and not any(map(number_of, client.model_versions(number))):
        service.queue.set_progress(project, Progress(version, 0, 0))
        return None
    delivery = Delivery(service, client, project, version, str(response.get("model_version") or ""))
    time_slice = TimeSlice(service.queue, "preannotate", max(SHARED_SECONDS, undisturbed))
    return _PreannotationRound(delivery, labeling, decoder, time.monotonic() + undisturbed, time_slice)


@dataclass(frozen=True)
class _PreannotationRound:
    """One round over a project's open tasks, by one version or by SAM alone."""

    delivery: Delivery
    labeling: Labeling
    decoder: DomainDecoder | None
    until: float  # by the monotonic clock, it goes on whatever is queued
    time_slice: TimeSlice

    @property
    def service(self) -> Service:
        """Of the round's process."""
        return self.delivery.service

    @property
    def project(self) -> str:
        """The project's key."""
        return self.delivery.project

    @property
    def number(self) -> int:
        """The project's id in Label Studio."""
        return self.delivery.number

    @property
    def version(self) -> str:
        """The version, as Label Studio names it."""
        return self.delivery.version

    @property
    def _done(self) -> str:
        """Key of the set of tasks that nothing is left to be done for."""
        return self.delivery.done

    def run(self) -> bool:
        """As `preannotate`."""
        redis, client = self.service.queue.redis, self.delivery.client
        self.delivery.hide()
        done = {int(task) for task in redis.smembers(self._done)}
        listed = list(client.tasks(self.number))
        self.delivery.look_for_deleted(listed)
        tasks = [task for task in listed if _is_open(task)]
        todo = self._wanting(tasks, done)
        self._note(len(tasks) - len(todo), len(tasks))
        centres = self._clusters(tasks) if todo else NO_CLUSTERS
        if centres is None:
            return True
        settled, in_a_row, latest = 0, 0, None
        self.time_slice.start_work()
        for place, task in enumerate(todo):
            if place % CHUNK == 0:
                ids = [one.id for one in todo[place : place + CHUNK]]
                wanting = {one.id for one in self._wanting(client.tasks(self.number, only=ids), done)}
            if self._interrupted():
                return True
            try:
                settled += task.id not in wanting or self._settle(task, centres)
                in_a_row = 0
            except LabelStudioError as error:
                in_a_row, latest = in_a_row + 1, error
                if in_a_row == REFUSALS:
                    raise
                log.warning("project %s task %s: its pre-annotation was refused: %s", self.project, task.id, error)
                record_error(error)
            self._note(len(tasks) - len(todo) + settled, len(tasks))
        self._show()
        self._end(settled, len(todo), latest)
        return False

    def _end(self, settled: int, todo: int, latest: LabelStudioError | None) -> None:
        """Say what was done, and what Label Studio refused."""
        if todo:
            log.info(
                "project %s: %d of %d open tasks have been pre-annotated by %s",
                self.project,
                settled,
                todo,
                self.version,
            )
        if latest:
            self.service.retries.record_refusal(self.project, "preannotate", REFUSED, latest)
        else:
            self.service.failures.clear(self.project, REFUSED)

    def _wanting(self, tasks: Iterable[TaskSummary], done: set[int]) -> list[TaskSummary]:
        """Those that are open and lack this version's prediction, have but the empty one of a late answer, or have one
        of a version that was rolled back.
        """
        late = {int(task) for task in self.service.queue.redis.smembers(self.delivery.late)}

        def wanting(task: TaskSummary) -> bool:
            lacking = task.id in late or (task.id not in done and self.version not in task.model_versions)
            return (lacking and self.decoder is not None) or (task.id not in done and self.delivery.is_withdrawn(task))

        return [task for task in tasks if _is_open(task) and wanting(task)]

    def _settle(self, task: TaskSummary, centres: NDArray[np.float32]) -> bool:
        """Predict a task and send it; gives whether it is settled: sent, gone, or its picture unreadable."""
        redis = self.service.queue.redis
        try:
            self.delivery.store(task, self._predict(task, self.decoder, centres) if self.decoder else EMPTY)
        except ImageError as error:
            log.warning("project %s task %s gets no pre-annotation: %s", self.project, task.id, error)
            record_error(error)
        except LabelStudioError:
            raise
        except SkylightError as error:  # it cannot be fetched now
            log.warning("project %s task %s gets no pre-annotation yet: %s", self.project, task.id, error)
            record_error(error)
            return False
        redis.srem(self.delivery.late, task.id)
        redis.sadd(self._done, task.id)
        redis.expire(self._done, MARK_SECONDS)
        return True

    def _interrupted(self) -> bool:
        """Whether something more urgent is queued, or this version is not the current one any more."""
        self.service.check_stop()
        urgent = time.monotonic() > self.until and self.service.queue.has_waiting("ingest", "train")
        return urgent or self.time_slice.is_over or self.service.version_name(self.project) != self.version

    def _note(self, done: int, total: int) -> None:
        self.service.queue.set_progress(self.project, Progress(self.version, done, total))

    def _clusters(self, tasks: list[TaskSummary]) -> NDArray[np.float32] | None:
        if self.decoder is None:
            return NO_CLUSTERS
        urls = {}
        for task in tasks:
            with suppress(BadRequest):
                urls[task.id] = self._url(task)
        how = self.decoder.config.normalisation
        return find_clusters(self.service, self.project, self.version, urls, self._interrupted, how)

    def _url(self, task: TaskSummary) -> str:
        return image_url({"id": task.id, "data": task.data}, self.labeling)

    def _predict(self, task: TaskSummary, decoder: DomainDecoder, centres: NDArray[np.float32]) -> dict[str, Any]:
        """A task's prediction. Raises ImageError and SkylightError."""
        url = self._url(task)
        regions, score = preannotation(self.service, decoder, self.labeling, url)
        cluster = cluster_of(self.service, centres, url, decoder.config.normalisation)
        return {"result": regions, "score": score, "cluster": cluster}

    def _show(self) -> None:
        """Have Label Studio show and sort by this version."""
        client = self.delivery.client
        stored = client.model_versions(self.number)
        shown = str(client.project(self.number).get("model_version") or "")
        if stored.get(self.version) and shown != self.version:
            client.set_model_version(self.number, self.version)
            shown = self.version
        for earlier in record_superseded(self.service, self.project, shown, stored):
            forget_delivery(self.service, self.project, earlier)


def _is_open(task: TaskSummary) -> bool:
    """Whether somebody is to annotate it still, and nobody has skipped it."""
    return not task.skipped and not (task.annotations and task.is_labeled)

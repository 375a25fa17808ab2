"""Predictions of the current version on the tasks still open, sent to Label Studio."""

import logging
from typing import Any

from backend.errors import LabelStudioError, SkylightError
from backend.labelstudio import LabelStudio, TaskSummary
from backend.predict import image_url, preannotation
from backend.queue import key
from backend.service import Service
from model.images import ImageError

BATCH = 16  # predictions sent at once
MARK_SECONDS = 30 * 24 * 3600  # how long it is remembered which tasks have a version's prediction

log = logging.getLogger(__name__)


def preannotate(service: Service, project: str) -> bool:
    """Give every open task a prediction of the current version and remove those of earlier ones.

    Stops when something more urgent is queued, or when another version has become current; gives whether tasks are
    left. Which tasks are done is remembered, so that it goes on from there.
    """
    client = service.labelstudio
    if client is None or not service.versions.current(project):
        return False
    number, version = int(project.partition(".")[0]), service.version_name(project)
    done_key = key(project, f"preannotated-{version}")
    done = {int(task) for task in service.queue.redis.smembers(done_key)}
    open_tasks = [task for task in client.tasks(number) if not task.annotations and not task.skipped]
    todo = [task for task in open_tasks if task.id not in done]
    for start in range(0, len(todo), BATCH):
        if service.queue.waiting("ingest", "train") or service.version_name(project) != version:
            return True
        _send(service, client, project, version, todo[start : start + BATCH])
        service.queue.redis.sadd(done_key, *(task.id for task in todo[start : start + BATCH]))
        service.queue.redis.expire(done_key, MARK_SECONDS)
    if todo:
        client.set_model_version(number, version)
        log.info("project %s: %d open tasks carry predictions of %s", project, len(open_tasks), version)
    for other in client.model_versions(number):
        if other != version and other.startswith(("skylight-", "sam-")):
            client.delete_predictions(number, other)
    return False


def _send(service: Service, client: LabelStudio, project: str, version: str, tasks: list[TaskSummary]) -> None:
    labeling = service.labeling(service.store.config(project))
    decoder = service.decoder(project, labeling)
    if decoder is None:
        return
    predictions: list[dict[str, Any]] = []
    for task in tasks:
        try:
            url = image_url({"id": task.id, "data": task.data}, labeling)
            regions, score = preannotation(service, decoder, labeling, url)
        except (SkylightError, ImageError) as error:
            log.warning("project %s task %s gets no pre-annotation: %s", project, task.id, error)
            continue
        predictions.append({"task": task.id, "result": regions, "score": score, "model_version": version})
    try:
        client.create_predictions(int(project.partition(".")[0]), predictions)
    except LabelStudioError as error:
        log.error("project %s: %s", project, error)

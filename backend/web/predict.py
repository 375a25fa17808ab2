"""/predict: SAM answers a click, the project's current decoder an open task."""

import logging
import time
from contextlib import suppress
from typing import Any

import redis
from flask import Blueprint, Response, current_app, request

from skylight.backend.errors import DATA_ERRORS, BadRequest, SkylightError
from skylight.backend.inference.click import click
from skylight.backend.inference.preannotation import preannotation
from skylight.backend.labelstudio.image_urls import image_url, image_urls
from skylight.backend.limits import check_predict, project_name
from skylight.backend.queue.keys import key
from skylight.backend.service import Service
from skylight.backend.trace import record_error, set_subject
from skylight.backend.web.http import body_object, json_response, service_of
from skylight.model.images.decoding import ImageError

BATCH_SECONDS = 80.0  # Label Studio gives up on a batch after 100 s and then throws all of it away
MAX_TILES = 16  # of an image that is pre-annotated in a request; the tiny SAM embeds one in 0.2 s or less
PREWARM = "prewarm"  # the `event` of a context that announces clicks on a task
POSTPONED_SECONDS = 24 * 3600  # how long it is remembered which tasks of a batch a worker has to pre-annotate

Task = dict[str, Any]  # as Label Studio sends it

blueprint = Blueprint("predict", __name__)
log = logging.getLogger(__name__)


@blueprint.route("/predict", methods=["POST"])
def predict() -> Response:
    """Answer a click, or pre-annotate tasks."""
    return json_response({"results": predict_tasks(service_of(current_app), body_object(request))})


def predict_tasks(service: Service, body: dict[str, Any]) -> list[dict[str, Any]]:
    """One prediction per task of a /predict, in order, also for one that fails: with fewer, Label Studio drops all.

    Raises BadRequest for a body that is not a /predict's.
    """
    project, tasks, context = _read_body(body)
    label_config = str(body.get("label_config") or "")
    if context and context.get("event") == PREWARM:
        return _prewarm(service, project, label_config, tasks)
    what = "click" if context and context.get("result") else "predictions"
    set_subject(what, project, tasks[0].get("id") if len(tasks) == 1 else None)
    if context is None:
        with suppress(SkylightError):  # it has been logged, and each task has its line too
            service.latest_decoder(project)  # before it is named: a damaged version gives way to the one before
    version = service.version_name(project)
    deadline = time.monotonic() + BATCH_SECONDS
    predictions, postponed = [], []
    for task in tasks:
        answer = None
        if context is not None or time.monotonic() < deadline:
            answer = _predict_task(service, project, label_config, task, context, version)
        if answer is None:
            postponed.append(task.get("id"))
        regions, score = answer or ([], 0.0)
        predictions.append({"model_version": version, "score": score, "result": regions})
    if postponed:
        _postpone(service, project, version, postponed)
    if context is None:
        _prefetch(service, project, label_config, tasks)
    return predictions


def _read_body(body: dict[str, Any]) -> tuple[str, list[Task], dict[str, Any] | None]:
    """Project, tasks and context of a /predict. Raises BadRequest."""
    project, tasks = project_name(body.get("project")), body.get("tasks")
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise BadRequest("'tasks' must be a list of tasks")
    params = body.get("params") or {}
    context = params.get("context") if isinstance(params, dict) else None
    if context is not None and not isinstance(context, dict):
        raise BadRequest("'context' must be an object with the prompts as its 'result'")
    check_predict(tasks, context)
    return project, tasks, context


def _prewarm(service: Service, project: str, label_config: str, tasks: list[Task]) -> list[dict[str, Any]]:
    """Have the images of tasks embedded beside the request, before the first click; an empty prediction for each."""
    set_subject(PREWARM, project, tasks[0].get("id") if len(tasks) == 1 else None)
    version = service.version_name(project)
    try:
        labeling = service.labeling(label_config)
        for task in reversed(tasks):  # the last requested is embedded first
            service.prefetch_thread.request(project, image_urls(task, labeling))
    except SkylightError as error:
        log.warning("project %s: nothing is embedded before the first click: %s", project, error)
        record_error(error)
    return [{"model_version": version, "score": 0.0, "result": []} for _ in tasks]


def _postpone(service: Service, project: str, version: str, tasks: list[Any]) -> None:
    """Have a worker pre-annotate the tasks that a request has no time for."""
    log.warning("project %s: no time here for the pre-annotation of %d tasks; a worker sends them", project, len(tasks))
    numbers = [task for task in tasks if isinstance(task, int)]
    if not numbers or not service.versions.current(project):
        return
    try:
        late = key(project, f"late-{version}")
        service.queue.redis.sadd(late, *numbers)
        service.queue.redis.expire(late, POSTPONED_SECONDS)
        service.queue.request(project, "preannotate")
    except redis.RedisError as error:
        log.warning("project %s: Redis is away (%s); the next event brings the rest", project, error)


def _prefetch(service: Service, project: str, label_config: str, tasks: list[Task]) -> None:
    """Have the images embedded that will be clicked on. Label Studio asks about a single task when it is opened.

    That one is embedded here, beside the requests, so that a click on it waits for the same work; the next ones, and
    those of many tasks, by a worker.
    """
    if len(tasks) == 1:
        with suppress(SkylightError):  # it has been logged
            service.prefetch_thread.request(project, image_urls(tasks[0], service.labeling(label_config)))
    try:
        if not service.store.config(project):  # anybody could name a project; this one is not known
            return
        if len(tasks) == 1 and isinstance(tasks[0].get("id"), int):
            service.prefetch_requests.request_next(project, tasks[0]["id"])
        elif len(tasks) > 1:
            service.prefetch_requests.request_all(project)
    except (redis.RedisError, OSError) as error:
        log.warning("project %s: %s; what comes next is not embedded", project, error)


def _predict_task(
    service: Service, project: str, label_config: str, task: Task, context: dict[str, Any] | None, version: str
) -> tuple[list[dict[str, Any]], float] | None:
    """Regions and score of one task; no region, and a line in the log, where that fails.

    None for the pre-annotation of an image that is too large for a request.
    """
    try:
        labeling = service.labeling(label_config)
        if context and context.get("result"):
            return click(service, labeling, task, context, service.normalizations.of(project))
        decoder = service.decoder_for(project, labeling)
        if decoder is None or service.version_name(project) != version:  # another is current since the batch began
            return [], 0.0
        url = image_url(task, labeling)
        if service.embedder.with_normalization(decoder.config.normalisation).tile_count(url) > MAX_TILES:
            return None
        return preannotation(service, decoder, labeling, url)
    except (SkylightError, ImageError) as error:
        log.warning("project %s task %s: %s", project, task.get("id"), error)
        record_error(error)
    except DATA_ERRORS as error:
        log.exception("project %s task %s: an error that Skylight did not foresee", project, task.get("id"))
        record_error(error)
    return [], 0.0

"""/predict: a click is answered by SAM, an open task by the project's current decoder."""

import logging
import time
from contextlib import suppress
from typing import Any

import redis
from flask import Blueprint, Response, current_app, request

from skylight.backend.errors import DATA_ERRORS, BadRequest, SkylightError
from skylight.backend.images.download import through_label_studio
from skylight.backend.inference.clicks import answered, drawn, in_turn
from skylight.backend.inference.large_answers import click_large, preannotation_large
from skylight.backend.labelstudio.label_config import Labeling, Output
from skylight.backend.labelstudio.prompts import read_prompt
from skylight.backend.labelstudio.region_validator import check_regions
from skylight.backend.labelstudio.region_writer import Part, draw
from skylight.backend.labelstudio.task_data import browser_address, value_at
from skylight.backend.limits import MAX_ANSWERED, check_predict, project_name
from skylight.backend.queue import prefetch_requests
from skylight.backend.queue.queue import key
from skylight.backend.service import Service
from skylight.backend.trace import fail, note
from skylight.backend.web.http import body_object, json_response, service_of
from skylight.model.decoder.inference import confidence, find_regions, predict_pixels
from skylight.model.decoder.network import DomainDecoder
from skylight.model.decoder.sam_refinement import refine
from skylight.model.images.decoding import ImageError
from skylight.model.images.normalization import OWN, Normalisation
from skylight.model.sam.types import Embedding

BATCH_SECONDS = 80.0  # Label Studio gives up on a batch after 100 s and then throws all of it away
MOST_TILES = 16  # of a picture that is pre-annotated in a request; the tiny SAM embeds one in 0.2 s or less
PREWARM = "prewarm"  # the `event` of a context that announces clicks on a task
LATE_SECONDS = 24 * 3600  # how long it is remembered which tasks of a batch were answered with nothing

blueprint = Blueprint("predict", __name__)
log = logging.getLogger(__name__)


@blueprint.route("/predict", methods=["POST"])
def answer() -> Response:
    """Answer a click, or pre-annotate tasks."""
    return json_response({"results": results(service_of(current_app), body_object(request))})


def results(service: Service, body: dict[str, Any]) -> list[dict[str, Any]]:
    """One result per task of a /predict, in order, whatever happens to one: with fewer, Label Studio drops them all.

    Raises BadRequest for a body that is not a /predict's.
    """
    project, tasks = project_name(body.get("project")), body.get("tasks")
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise BadRequest("'tasks' must be a list of tasks")
    params = body.get("params") or {}
    context = params.get("context") if isinstance(params, dict) else None
    if context is not None and not isinstance(context, dict):
        raise BadRequest("'context' must be an object with the prompts as its 'result'")
    check_predict(tasks, context)
    if context and context.get("event") == PREWARM:
        return _prewarm(service, project, str(body.get("label_config") or ""), tasks)
    what = "click" if context and context.get("result") else "predictions"
    note(what, project, tasks[0].get("id") if len(tasks) == 1 else None)
    if context is None:
        with suppress(SkylightError):  # it has been logged, and each task has its line too
            service.sound(project)  # before it is named: a damaged one gives way to the one before
    version = service.version_name(project)
    deadline = time.monotonic() + BATCH_SECONDS
    answers, late = [], []
    for task in tasks:
        found = None
        if context is not None or time.monotonic() < deadline:
            found = _one(service, project, str(body.get("label_config") or ""), task, context, version)
        if found is None:
            late.append(task.get("id"))
        regions, score = found or ([], 0.0)
        answers.append({"model_version": version, "score": score, "result": regions})
    if late:
        _follow_up(service, project, version, late)
    if context is None:
        _look_ahead(service, project, str(body.get("label_config") or ""), tasks)
    return answers


def _prewarm(service: Service, project: str, label_config: str, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Have the pictures of tasks embedded beside the request, before the first click; an empty result for each."""
    note(PREWARM, project, tasks[0].get("id") if len(tasks) == 1 else None)
    version = service.version_name(project)
    try:
        labeling = service.labeling(label_config)
        for task in reversed(tasks):  # what is asked for last is embedded first
            service.opened.embed(project, image_urls(task, labeling))
    except SkylightError as error:
        log.warning("project %s: nothing is embedded before the first click: %s", project, error)
        fail(error)
    return [{"model_version": version, "score": 0.0, "result": []} for _ in tasks]


def _follow_up(service: Service, project: str, version: str, tasks: list[Any]) -> None:
    """Have a worker send what a request has no time for."""
    log.warning("project %s: no time here for the pre-annotation of %d tasks; a worker sends them", project, len(tasks))
    numbers = [task for task in tasks if isinstance(task, int)]
    if not numbers or not service.versions.current(project):
        return
    try:
        late = key(project, f"late-{version}")
        service.queue.redis.sadd(late, *numbers)
        service.queue.redis.expire(late, LATE_SECONDS)
        service.queue.request(project, "preannotate")
    except redis.RedisError as error:
        log.warning("project %s: Redis is away (%s); the next event brings the rest", project, error)


def _look_ahead(service: Service, project: str, label_config: str, tasks: list[dict[str, Any]]) -> None:
    """Have embedded what will be clicked on. Label Studio asks about a single task when it is opened.

    That one here, beside the requests, so that a click on it joins in; what comes next, and many tasks, by a worker.
    """
    if len(tasks) == 1:
        with suppress(SkylightError):  # it has been logged
            service.opened.embed(project, image_urls(tasks[0], service.labeling(label_config)))
    try:
        if not service.store.config(project):  # anybody could name a project; this one is not known
            return
        if len(tasks) == 1 and isinstance(tasks[0].get("id"), int):
            prefetch_requests.follow(service, project, tasks[0]["id"])
        elif len(tasks) > 1:
            prefetch_requests.want(service, project)
    except (redis.RedisError, OSError) as error:
        log.warning("project %s: %s; what comes next is not embedded", project, error)


def _one(
    service: Service, project: str, label_config: str, task: dict[str, Any], context: Any, version: str
) -> tuple[list[dict[str, Any]], float] | None:
    """Regions and score of one task; none of them, and a line in the log, where it cannot be answered.

    None for the pre-annotation of a picture so large that it is a worker's.
    """
    try:
        labeling = service.labeling(label_config)
        if context and context.get("result"):
            return click(service, labeling, task, context, service.normalisations.of(project))
        decoder = service.decoder(project, labeling)
        if decoder is None or service.version_name(project) != version:  # another is current since the batch began
            return [], 0.0
        url = image_url(task, labeling)
        if service.pictures.seen(decoder.config.normalisation).tile_count(url) > MOST_TILES:
            return None
        return preannotation(service, decoder, labeling, url)
    except (SkylightError, ImageError) as error:
        log.warning("project %s task %s: %s", project, task.get("id"), error)
        fail(error)
    except DATA_ERRORS as error:
        log.exception("project %s task %s: an error that Skylight did not foresee", project, task.get("id"))
        fail(error)
    return [], 0.0


def click(
    service: Service, labeling: Labeling, task: dict[str, Any], context: dict[str, Any], how: Normalisation = OWN
) -> tuple[list[dict[str, Any]], float]:
    """SAM's best mask for the prompt in a context, as regions, and SAM's own estimate of its IoU.

    It goes on from the answer to the same points but the last, see `clicks.answered`.
    """
    pictures = service.pictures.seen(how)
    asked = read_prompt(context, labeling, lambda output, index: pictures.look(image_url(task, output, index))[1].size)
    if asked is None:
        return [], 0.0
    url = image_url(task, asked.output, asked.index)
    digest, embedding = pictures.look(url)
    if not isinstance(embedding, Embedding):
        return click_large(service, pictures, labeling, task, asked, digest, embedding)
    place, asked = in_turn(service, task, asked, digest, embedding.size)
    mask, expected = answered(service, pictures.segmenter, embedding, place, asked, asked.prompt)
    return drawn(service, labeling, task, asked, mask, expected, Part(0, 0, embedding.size))


def preannotation(
    service: Service, decoder: DomainDecoder, labeling: Labeling, url: str
) -> tuple[list[dict[str, Any]], float]:
    """The decoder's regions for an image, and its score: low means "look at me first".

    With `SKYLIGHT_REFINE` SAM is asked about each region too, and the sharper mask is taken where both agree. Of more
    than `MAX_ANSWERED` regions the surest are taken, and the log says so.
    """
    digest, embedding = service.pictures.seen(decoder.config.normalisation).look(url)
    if not isinstance(embedding, Embedding):
        return preannotation_large(service, decoder, labeling, digest, embedding)
    prediction = predict_pixels(decoder, embedding)
    decided = prediction.probabilities
    if (there := embedding.where_known()) is not None:
        prediction.probabilities[:, ~there] = 0  # as in maps, what is not there is background, and not counted
        prediction.probabilities[0, ~there] = 1
        decided = prediction.probabilities[:, there] if there.any() else decided
    every = find_regions(prediction, service.settings.min_area)
    if len(every) > MAX_ANSWERED:
        log.warning("%s: of %d regions the %d with the highest scores are sent", url, len(every), MAX_ANSWERED)
    found = every.surest(MAX_ANSWERED)
    if service.settings.refine:
        found = refine(service.pictures.segmenter, embedding, prediction, found)
    regions = []
    for each in found:
        output = labeling.output(labeling.labels[each.label])
        part = Part(each.top, each.left, embedding.size)
        regions += draw(output, each.part, output.spelled(labeling.labels[each.label]), each.score, part_of=part)
    check_regions(regions, labeling, embedding.size)
    return regions, round(confidence(decided, prediction.count), 4)


def image_url(task: dict[str, Any], source: Labeling | Output, index: int | None = None) -> str:
    """The address of the image that is learned from, or of that of a control; of the `index`-th where it has several.

    Raises BadRequest if there is none.
    """
    data = task.get("data")
    value = value_at(data, source.data_key)
    if isinstance(value, list):
        value = value[index or 0] if 0 <= (index or 0) < len(value) else None
    if not isinstance(value, str) or not (value := browser_address(value)):
        raise BadRequest(f"task {task.get('id')} has no image address in data[{source.data_key!r}]")
    return through_label_studio(value, task.get("id"))


def image_urls(task: dict[str, Any], labeling: Labeling) -> list[str]:
    """The addresses of all images of a task that can be clicked on, in the order of the configuration, each once."""
    data = task.get("data")
    found: dict[str, None] = {}
    for output in labeling.outputs:
        value = value_at(data, output.data_key)
        for index in range(len(value) if isinstance(value, list) else 1):
            with suppress(BadRequest):
                found[image_url(task, output, index)] = None
    return list(found)

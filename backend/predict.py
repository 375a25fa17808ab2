"""/predict: a click is answered by SAM, an open task by the project's current decoder."""

import logging
import time
import uuid
from typing import Any

from flask import Blueprint, Response, current_app, request

from backend.answers import body_object, json_response, service_of
from backend.errors import BadRequest, SkylightError
from backend.labeling import Labeling
from backend.regions import context_index, context_size, make_region, read_prompt
from backend.service import Service
from model.decoder import DomainDecoder
from model.images import ImageError
from model.predict import confidence, instances, predict_pixels
from model.refine import refine

BATCH_SECONDS = 80.0  # Label Studio gives up on a batch after 100 s and then throws all of it away

blueprint = Blueprint("predict", __name__)
log = logging.getLogger(__name__)


@blueprint.post("/predict")
def answer() -> Response:
    """One result per task, in order, whatever happens to a single task: fewer, and Label Studio drops them all."""
    service, body = service_of(current_app), body_object(request)
    project, tasks = str(body.get("project") or ""), body.get("tasks")
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise BadRequest("'tasks' must be a list of tasks")
    params = body.get("params") or {}
    context = params.get("context") if isinstance(params, dict) else None
    if context is not None and not isinstance(context, dict):
        raise BadRequest("'context' must be an object with the prompts as its 'result'")
    version = service.version_name(project)
    deadline = time.monotonic() + BATCH_SECONDS
    results = []
    for task in tasks:
        regions, score = _one(service, project, str(body.get("label_config") or ""), task, context, deadline)
        results.append({"model_version": version, "score": score, "result": regions})
    return json_response({"results": results})


def _one(
    service: Service, project: str, label_config: str, task: dict[str, Any], context: Any, deadline: float
) -> tuple[list[dict[str, Any]], float]:
    """Regions and score of one task; none of them, and a line in the log, where it cannot be answered."""
    try:
        labeling = service.labeling(label_config)
        if context and context.get("result"):
            return click(service, labeling, task, context)
        if time.monotonic() > deadline:
            log.warning("project %s task %s: no time left in this batch; it follows later", project, task.get("id"))
            return [], 0.0
        decoder = service.decoder(project, labeling)
        return preannotation(service, decoder, labeling, image_url(task, labeling)) if decoder else ([], 0.0)
    except (SkylightError, ImageError) as error:
        log.warning("project %s task %s: %s", project, task.get("id"), error)
        return [], 0.0


def click(
    service: Service, labeling: Labeling, task: dict[str, Any], context: dict[str, Any]
) -> tuple[list[dict[str, Any]], float]:
    """SAM's best mask for the prompt in a context, as a region, and SAM's own estimate of its IoU."""
    asked = read_prompt(context, labeling)
    if asked is None:
        return [], 0.0
    prompt, label = asked
    _, embedding = service.pictures.embedding(image_url(task, labeling, context_index(context)))
    if context_size(context) != embedding.size:
        shown, real = context_size(context), embedding.size
        raise BadRequest(f"the browser shows the image as (height, width) {shown}, but it is {real}; reload the task")
    found = service.pictures.segmenter.segment(embedding, prompt, candidates=1)
    if not found.masks[0].any():
        return [], 0.0
    score = min(max(float(found.scores[0]), 0.0), 1.0)
    return [make_region(labeling, found.masks[0], label, score, _region_id(), context_index(context))], score


def preannotation(
    service: Service, decoder: DomainDecoder, labeling: Labeling, url: str
) -> tuple[list[dict[str, Any]], float]:
    """The decoder's regions for an image, and how sure it is of the whole: low means "look at me first".

    With `SKYLIGHT_REFINE` SAM is asked about each region too, and the sharper mask is taken where both agree.
    """
    _, embedding = service.pictures.embedding(url)
    prediction = predict_pixels(decoder, embedding)
    found = instances(prediction, service.settings.min_area)
    if service.settings.refine:
        found = refine(service.pictures.segmenter, embedding, prediction, found)
    regions = [
        make_region(labeling, each.mask, labeling.labels[each.label], each.score, _region_id()) for each in found
    ]
    return regions, round(confidence(prediction.probabilities), 4)


def image_url(task: dict[str, Any], labeling: Labeling, index: int | None = None) -> str:
    """The address of a task's image; of the `index`-th where it has several. Raises BadRequest if there is none."""
    data = task.get("data")
    value = data.get(labeling.data_key) if isinstance(data, dict) else None
    if isinstance(value, list):
        value = value[index or 0] if len(value) > (index or 0) else None
    if not isinstance(value, str) or not value:
        raise BadRequest(f"task {task.get('id')} has no image address in data[{labeling.data_key!r}]")
    return value


def _region_id() -> str:
    return uuid.uuid4().hex[:10]

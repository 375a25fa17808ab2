"""Events of Label Studio's webhooks, reduced to what Skylight uses."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from skylight.backend.errors import BadRequest
from skylight.backend.labelstudio.task_listing import is_reviewed
from skylight.backend.limits import check_config, checked_id, project_name

MODEL_VERSION_PREFIX = "skylight-"  # of the versions of a decoder; SAM alone pre-annotates nothing

Event = dict[str, Any]
# Events after which a training may have other samples than the last one.
DIRTYING = ("annotation", "annotations_deleted", "tasks_deleted", "train")


def count_dirtying(events: Sequence[Event]) -> int:
    """The number of events that may change what there is to train on."""
    return sum(event.get("what") in DIRTYING for event in events)


def project_key(project: Any) -> str:
    """A webhook's project by the name that /setup and /predict use, "<id>.<second of its creation>"."""
    try:
        created = datetime.fromisoformat(project["created_at"])
        return project_name(f"{checked_id(project['id'])}.{int(created.timestamp())}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadRequest(f"'project' must be an object with id and created_at: {error!r}") from error


def webhook_events(body: dict[str, Any]) -> Iterator[Event]:
    """The events in a webhook's body, without the project's object, which has secrets; none of unknown actions."""
    action, config = body.get("action"), str(body["project"].get("label_config") or "")
    check_config(config)
    if action in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"):
        yield annotation_event(_object(body, "annotation"), _object(body, "task"), config)
    elif action == "ANNOTATIONS_CREATED":
        tasks = {str(task.get("id")): task for task in _list(body, "task")}
        for annotation in _list(body, "annotation"):
            yield annotation_event(annotation, tasks.get(str(annotation.get("task")), {}), config)
    elif action == "ANNOTATIONS_DELETED":
        yield {"what": "annotations_deleted", "ids": _ids(body, "annotations"), "label_config": config}
    elif action == "TASKS_DELETED":
        yield {"what": "tasks_deleted", "ids": _ids(body, "tasks"), "label_config": config}
    elif action == "START_TRAINING":
        yield {"what": "train", "label_config": config}
    elif action == "TASKS_CREATED":
        # An import may bring annotations, of which no other event comes.
        has_annotations = any(task.get("total_annotations") for task in _list(body, "tasks"))
        yield {"what": "tasks_created", "reconcile": has_annotations, "label_config": config}
    elif action == "PROJECT_UPDATED":
        yield {"what": "config", "label_config": config}


def annotation_event(annotation: dict[str, Any], task: dict[str, Any], label_config: str) -> Event:
    """An annotation, submitted or skipped, with its task's data. Raises BadRequest if it has no id or no time."""
    try:
        return {
            "what": "annotation",
            "id": checked_id(annotation["id"]),
            "task": checked_id(annotation.get("task") or task["id"]),
            "updated_at": _time(annotation["updated_at"]),
            "skipped": bool(annotation.get("was_cancelled")),
            "result": annotation.get("result") or [],
            "shown": shown_prediction(annotation),
            "ground_truth": bool(annotation.get("ground_truth")),
            "reviewed": is_reviewed(annotation),
            "data": task.get("data") or {},
            "label_config": label_config,
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadRequest(f"an annotation needs id, task and updated_at: {error!r}") from error


def _time(text: Any) -> str:
    """A time as Label Studio writes it. Raises ValueError for another text: it might be later than any time."""
    datetime.fromisoformat(text)
    return str(text)


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    if not isinstance(value, dict):
        raise BadRequest(f"{body.get('action')} needs an object {name!r}")
    return value


def _list(body: dict[str, Any], name: str) -> list[dict[str, Any]]:
    values = body.get(name)
    if not isinstance(values, list) or not all(isinstance(item, dict) for item in values):
        raise BadRequest(f"{body.get('action')} needs a list of objects {name!r}")
    return values


def _ids(body: dict[str, Any], name: str) -> list[int]:
    try:
        return [checked_id(item["id"]) for item in _list(body, name)]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadRequest(f"{body.get('action')} needs ids in {name!r}") from error


def shown_prediction(annotation: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pre-annotation that a task had when a webhook's annotation was made; None if it was none of Skylight's.

    Label Studio keeps a copy of the prediction of the project's model version with each new annotation, also where the
    prediction is deleted later. Only webhooks carry it; annotations listed by the API do not. It is of the version
    shown at the submit: where the editor was opened with another, it is not what the annotator began with, so None.
    """
    prediction, parent = annotation.get("prediction"), annotation.get("parent_prediction")
    if not isinstance(prediction, dict) or not str(prediction.get("model_version") or "").startswith(
        MODEL_VERSION_PREFIX
    ):
        return None
    if parent is not None and prediction.get("id") not in (None, parent):
        return None
    result = prediction.get("result")
    return {"version": str(prediction["model_version"]), "result": result} if isinstance(result, list) else None

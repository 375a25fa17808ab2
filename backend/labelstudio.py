"""Label Studio's REST API, as far as Skylight needs it.

Plain `requests` rather than `label_studio_sdk.client`, by measurement (SDK 2.1.2): importing the SDK's
client takes 1.2 s and 87 MB of memory in every process, because it pulls in pandas; this module takes 0.2
s. The SDK's token client also refreshes by the clock only, never on a 401, and loses the path of an address
such as `https://host/label-studio`. And most of what is asked here is narrower than what the SDK's typed
objects hold: 100 annotations of 70 kB listed by id and time are 20 kB.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.errors import LabelStudioError
from backend.labelstudio_connection import Connection, member, shorten

SLOW_SECONDS = 120.0
"""Read timeout where Label Studio may first ask an ML backend, for which it takes up to 100 s."""
LIGHT_PAGE = 100
"""Tasks in one page of a narrow listing."""
FULL_PAGE = 20
"""Tasks in one page with whole annotations; a mask can be 100 kB."""
PREDICTIONS_CHUNK = 100
"""Predictions in one import request."""
FILES_CHUNK = 50
"""Files in one upload; Label Studio takes 100 by default."""
ONLY_CHUNK = 100
"""Task ids named in one listing, so that its address stays under 8 kB, the limit of common proxies."""

# The Data Manager computes only the columns that are shown: here, predictions_model_versions alone.
_HIDDEN = [
    "tasks:id",
    "tasks:inner_id",
    "tasks:completed_at",
    "tasks:total_annotations",
    "tasks:cancelled_annotations",
    "tasks:total_predictions",
    "tasks:annotators",
    "tasks:annotations_results",
    "tasks:annotations_ids",
    "tasks:predictions_score",
    "tasks:predictions_results",
    "tasks:file_upload",
    "tasks:storage_filename",
    "tasks:created_at",
    "tasks:updated_at",
    "tasks:updated_by",
    "tasks:avg_lead_time",
    "tasks:draft_exists",
    "tasks:data",
]
_HAS_ANNOTATIONS = {
    "filter": "filter:tasks:annotations_ids",
    "operator": "empty",
    "type": "String",
    "value": False,
}
_TASK_FIELDS = (
    "id,data,is_labeled,updated_at,total_annotations,cancelled_annotations,total_predictions,predictions_model_versions"
)


@dataclass(frozen=True)
class TaskSummary:
    """A task without its annotations and predictions; `updated_at` as Label Studio writes it."""

    id: int
    data: dict[str, Any]
    is_labeled: bool
    updated_at: str
    annotations: int
    """Submitted ones; skipped ones are in `skipped`."""
    skipped: int
    predictions: int
    model_versions: tuple[str, ...]
    """Of its predictions, each once; Label Studio cuts the list after 500 characters."""


@dataclass(frozen=True)
class AnnotationSummary:
    """An annotation without its result; `updated_at` as Label Studio writes it (ISO 8601, UTC, with µs)."""

    id: int
    task: int
    updated_at: str
    was_cancelled: bool


class LabelStudio(Connection):
    """Label Studio's projects, tasks, annotations, predictions and ML backends, over one `Connection`.

    Every method raises `LabelStudioError` when Label Studio cannot be reached or refuses.
    """

    def version(self) -> str:
        """Return Label Studio's release, such as `1.23.2`."""
        return str(member(self.request("GET", "/api/version"), "release"))

    def project(self, project_id: int) -> dict[str, Any]:
        """Return the project: label_config, model_version, created_at, counters and so on."""
        return _mapping(self.request("GET", f"/api/projects/{project_id}/"))

    def projects(self) -> list[dict[str, Any]]:
        """Return the projects that the key may see, newest first, the first 1000 of them."""
        return _list(member(self.request("GET", "/api/projects/", params={"page_size": 1000}), "results"))

    def create_project(self, title: str, label_config: str, **options: Any) -> dict[str, Any]:
        """Create a project and return it; Label Studio wants 3 to 50 characters of title.

        `options` are further fields of a project, such as `sampling="Uncertainty sampling"`.
        """
        body = {"title": title, "label_config": label_config, **options}
        return _mapping(self.request("POST", "/api/projects/", json=body))

    def import_files(self, project_id: int, files: Mapping[str, bytes]) -> int:
        """Upload files (name to content), one task each; return the number of tasks made."""
        path = f"/api/projects/{project_id}/import"
        parts = [(name, (name, content)) for name, content in files.items()]
        made = 0
        for start in range(0, len(parts), FILES_CHUNK):
            chunk = parts[start : start + FILES_CHUNK]
            made += int(member(self.request("POST", path, files=chunk, timeout=SLOW_SECONDS), "task_count"))
        return made

    def tasks(self, project_id: int, only: Sequence[int] | None = None) -> Iterator[TaskSummary]:
        """Yield all tasks of the project by rising id, or those of `only` that still exist.

        Reading them this way never makes Label Studio ask an ML backend, unless the project has
        `evaluate_predictions_automatically` set.
        """
        for task in self._pages(project_id, LIGHT_PAGE, only, [], include=_TASK_FIELDS):
            versions = str(task.get("predictions_model_versions") or "")
            yield TaskSummary(
                id=task["id"],
                data=task["data"],
                is_labeled=task["is_labeled"],
                updated_at=task["updated_at"],
                annotations=task["total_annotations"],
                skipped=task["cancelled_annotations"],
                predictions=task["total_predictions"],
                model_versions=tuple(sorted({v.strip() for v in versions.split(",") if v.strip()})),
            )

    def annotation_summaries(self, project_id: int) -> Iterator[AnnotationSummary]:
        """Yield id, task, time and skip mark of every annotation of the project, by rising task id: cheap."""
        options = {"fields": "all", "review": "true", "include": "id,annotations,updated_at,was_cancelled"}
        for task in self._pages(project_id, LIGHT_PAGE, None, [_HAS_ANNOTATIONS], **options):
            for one in task["annotations"]:
                yield AnnotationSummary(one["id"], task["id"], one["updated_at"], bool(one["was_cancelled"]))

    def annotations(self, project_id: int, only: Sequence[int] | None = None) -> Iterator[dict[str, Any]]:
        """Yield every annotation, whole, by rising task id; `only` narrows to these task ids.

        Each is the object that a webhook carries (`task` is its task's id), with the task's data added as
        `data`.
        """
        options = {"fields": "all", "review": "true", "omit": "predictions,drafts"}
        for task in self._pages(project_id, FULL_PAGE, only, [_HAS_ANNOTATIONS], **options):
            for one in task["annotations"]:
                yield {**one, "task": task["id"], "data": task["data"]}

    def task(self, task_id: int) -> dict[str, Any] | None:
        """Return the task with annotations and predictions; None if there is none.

        When it has no prediction yet, Label Studio first asks the project's ML backend for one;
        `tasks(..., only=[id])` does not.
        """
        return _optional(self.request("GET", f"/api/tasks/{task_id}/", missing_ok=True, timeout=SLOW_SECONDS))

    def annotation(self, annotation_id: int) -> dict[str, Any] | None:
        """Return the whole annotation; None if there is none."""
        return _optional(self.request("GET", f"/api/annotations/{annotation_id}/", missing_ok=True))

    def create_annotation(
        self, task_id: int, result: list[dict[str, Any]], was_cancelled: bool = False
    ) -> dict[str, Any]:
        """Submit (or, with `was_cancelled`, skip) an annotation as the key's owner and return it."""
        body = {"result": result, "was_cancelled": was_cancelled}
        return _mapping(self.request("POST", f"/api/tasks/{task_id}/annotations/", json=body, timeout=SLOW_SECONDS))

    def predictions(self, task_id: int) -> list[dict[str, Any]]:
        """Return the task's predictions, whole: id, model_version, score, result and so on."""
        return _list(self.request("GET", "/api/predictions/", params={"task": task_id}))

    def create_predictions(self, project_id: int, predictions: Sequence[Mapping[str, Any]]) -> int:
        """Store predictions, each {task, result, score, model_version}, and return how many were stored.

        Those of tasks that have been deleted meanwhile are left out. Label Studio silently drops a
        prediction that does not fit the labeling config (a wrong name, type or label, a score outside
        0..1); when it did, the others are stored and `LabelStudioError` says how many were lost.
        """
        created = sent = 0
        for start in range(0, len(predictions), PREDICTIONS_CHUNK):
            chunk = [dict(one) for one in predictions[start : start + PREDICTIONS_CHUNK]]
            chunk_sent, chunk_created = self._import_predictions(project_id, chunk)
            sent += chunk_sent
            created += chunk_created
        if created < sent:
            raise LabelStudioError(
                f"Label Studio dropped {sent - created} of {sent} predictions for project {project_id}: "
                "they do not fit its labeling config. Label Studio's log says which and why."
            )
        return created

    def _import_predictions(self, project_id: int, chunk: list[dict[str, Any]]) -> tuple[int, int]:
        """Import one chunk without the tasks that are gone; return how many were sent and how many stored."""
        path = f"/api/projects/{project_id}/import/predictions"
        try:
            answer = self.request("POST", path, json=chunk, timeout=SLOW_SECONDS)
        except LabelStudioError:
            alive = {task.id for task in self.tasks(project_id, only=[one["task"] for one in chunk])}
            left = [one for one in chunk if one["task"] in alive]
            if len(left) == len(chunk):
                raise
            return self._import_predictions(project_id, left) if left else (0, 0)
        return len(chunk), int(member(answer, "created"))

    def delete_prediction(self, prediction_id: int) -> None:
        """Delete one prediction; one that is gone already is fine."""
        self.request("DELETE", f"/api/predictions/{prediction_id}/", missing_ok=True)

    def model_versions(self, project_id: int) -> dict[str, int]:
        """Return how many predictions of each model version the project holds."""
        return _mapping(self.request("GET", f"/api/projects/{project_id}/model-versions/"))

    def delete_predictions(self, project_id: int, model_version: str) -> int:
        """Delete all predictions of one model version in one go and return how many there were."""
        path = f"/api/projects/{project_id}/model-versions/"
        answer = self.request("DELETE", path, json={"model_version": model_version}, timeout=SLOW_SECONDS)
        return int(member(answer, "deleted_predictions"))

    def set_model_version(self, project_id: int, version: str) -> None:
        """Choose whose predictions the project shows and sorts by.

        Label Studio refuses a version of which no prediction is stored, unless it is a connected backend's
        title.
        """
        self.request("PATCH", f"/api/projects/{project_id}/", json={"model_version": version})

    def ml_backends(self, project_id: int) -> list[dict[str, Any]]:
        """Return the connected ML backends: id, url, title, state (`CO` is connected) and so on."""
        path = "/api/ml/"
        return _list(self.request("GET", path, params={"project": project_id}, timeout=SLOW_SECONDS))

    def connect_ml_backend(self, project_id: int, url: str, title: str, is_interactive: bool = True) -> dict[str, Any]:
        """Connect an ML backend, which must answer /health and /setup now, and return its entry."""
        body = {"url": url, "project": project_id, "title": title, "is_interactive": is_interactive}
        return _mapping(self.request("POST", "/api/ml/", json=body, timeout=SLOW_SECONDS))

    def move_ml_backend(self, project_id: int, backend_id: int, url: str) -> None:
        """Give a connected ML backend another address, where it must answer now."""
        body = {"url": url, "project": project_id}  # both, or Label Studio answers 500
        self.request("PATCH", f"/api/ml/{backend_id}", json=body, timeout=SLOW_SECONDS)

    def webhooks(self, project_id: int) -> list[dict[str, Any]]:
        """Return the project's webhooks: id, url, headers, send_for_all_actions and so on."""
        return _list(self.request("GET", "/api/webhooks/", params={"project": project_id}))

    def interactive(self, backend_id: int, task_id: int, context: Mapping[str, Any]) -> dict[str, Any]:
        """Send a click, as the editor does, and return the prediction that came back.

        `context` is {"result": [regions]}. Raises also for a failing ML backend, which comes inside a 200.
        """
        path = f"/api/ml/{backend_id}/interactive-annotating"
        body = {"task": task_id, "context": dict(context)}
        answer = _mapping(self.request("POST", path, json=body, timeout=SLOW_SECONDS))
        if answer.get("errors"):
            raise LabelStudioError(f"Label Studio's ML backend failed at POST {path}: {shorten(answer['errors'])}")
        return _mapping(member(answer, "data"))

    def retrieve_predictions(self, project_id: int, task_ids: Iterable[int]) -> None:
        """Have Label Studio ask the project's ML backend about these tasks; a failure there is not seen."""
        params = {"id": "retrieve_tasks_predictions", "project": project_id}
        body = {"selectedItems": {"all": False, "included": list(task_ids)}}
        self.request("POST", "/api/dm/actions/", params=params, json=body, timeout=SLOW_SECONDS)

    def _pages(
        self,
        project_id: int,
        size: int,
        only: Sequence[int] | None,
        filters: list[dict[str, Any]],
        **options: str,
    ) -> Iterator[dict[str, Any]]:
        """Yield task objects by rising id; `only` is sorted and split, since it travels in the address."""
        if only is None:
            yield from self._behind(project_id, size, {"all": True, "excluded": []}, filters, options)
            return
        ids = sorted(set(only))
        for start in range(0, len(ids), ONLY_CHUNK):
            selected = {"all": False, "included": ids[start : start + ONLY_CHUNK]}
            yield from self._behind(project_id, size, selected, filters, options)

    def _behind(
        self,
        project_id: int,
        size: int,
        selected: dict[str, Any],
        filters: list[dict[str, Any]],
        options: dict[str, str],
    ) -> Iterator[dict[str, Any]]:
        """Page by "id greater than the last", so that nothing is missed when tasks come and go meanwhile."""
        last = -1
        while True:
            behind = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last}
            query = {
                "filters": {"conjunction": "and", "items": [behind, *filters]},
                "ordering": ["tasks:id"],
                "selectedItems": selected,
                "hiddenColumns": {"explore": _HIDDEN, "labeling": _HIDDEN},
            }
            text = json.dumps(query, separators=(",", ":"))
            params = {"project": project_id, "page_size": size, "query": text, **options}
            answer = self.request("GET", "/api/tasks/", params=params, timeout=SLOW_SECONDS)
            page = _list(member(answer, "tasks"))
            yield from page
            if not page or len(page) >= int(member(answer, "total")):
                return
            last = page[-1]["id"]


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise LabelStudioError(f"Label Studio answered {type(value).__name__} where an object was expected.")
    return value


def _optional(value: Any) -> dict[str, Any] | None:
    return None if value is None else _mapping(value)


def _list(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise LabelStudioError(f"Label Studio answered {type(value).__name__} where a list was expected.")
    return value

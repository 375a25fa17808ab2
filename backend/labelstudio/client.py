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

from skylight.backend.errors import LabelStudioError
from skylight.backend.labelstudio.connection import Connection, member, shorten

SLOW_SECONDS = 120.0
"""Read timeout where Label Studio may first ask an ML backend, for which it takes up to 100 s."""
LIGHT_PAGE = 100
"""Tasks in one page of a narrow listing."""
SUMMARY_PAGE = 500
"""Tasks in one page of annotations without results: 10,000 took 13.5 s, with 100 a page 24.5 s, with 1000 15.7 s."""
FULL_PAGE = 20
"""Tasks in one page with whole annotations; a mask can be 100 kB."""
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
# As a number: asked for as a string, Label Studio 1.23.2 answers 500 while a project has no task.
_HAS_ANNOTATIONS = {
    "filter": "filter:tasks:annotations_ids",
    "operator": "empty",
    "type": "Number",
    "value": False,
}
_TASK_FIELDS = (
    "id,data,is_labeled,updated_at,total_annotations,cancelled_annotations,total_predictions,predictions_model_versions"
)

_REFERENCES = {
    "fields": "all",
    "review": "true",
    "include": "id,annotations,parent_prediction,predictions",
}
_MARKS = "updated_at,was_cancelled,ground_truth,last_action"


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
    ground_truth: bool
    reviewed: bool


@dataclass(frozen=True)
class StoredPrediction:
    """A prediction without its result; `updated_at` as Label Studio writes it: when it was made or written over."""

    id: int
    model_version: str
    updated_at: str


@dataclass(frozen=True)
class TaskReferences:
    """A task's predictions, and what refers to them."""

    task: int
    predictions: tuple[StoredPrediction, ...]
    parents: frozenset[int]
    """Ids of the predictions that an annotation was made from: an editor that updates it sends the id along."""


def _references(task: Mapping[str, Any]) -> TaskReferences:
    predictions = [
        StoredPrediction(one["id"], str(one.get("model_version") or ""), one["updated_at"])
        for one in task["predictions"]
    ]
    parents = {one["parent_prediction"] for one in task["annotations"]} - {None}
    return TaskReferences(task["id"], tuple(predictions), frozenset(parents))


def is_reviewed(annotation: Mapping[str, Any]) -> bool:
    """Whether a reviewer's acceptance was the last thing done to an annotation; open-source Label Studio has none."""
    return annotation.get("last_action") in ("accepted", "fixed_and_accepted")


class LabelStudio(Connection):
    """Label Studio's projects, tasks, annotations, predictions and ML backends, over one `Connection`.

    Every method raises `LabelStudioError` when Label Studio cannot be reached or refuses.
    """

    def version(self) -> tuple[str, float | None]:
        """Return Label Studio's release, such as `1.23.2`, and the seconds its clock is ahead of ours (None: unknown).

        Asked without the key, so that a wrong address and a wrong key can be told apart.
        """
        answer, ahead = self.greet("/api/version")
        return str(member(answer, "release")), ahead

    def whoami(self) -> str:
        """Return the e-mail address of the key's owner."""
        return str(member(self.request("GET", "/api/current-user/whoami"), "email"))

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

    def update_project(self, project_id: int, **fields: Any) -> None:
        """Change fields of a project, such as `sampling="Uncertainty sampling"`."""
        self.request("PATCH", f"/api/projects/{project_id}/", json=fields)

    def import_files(self, project_id: int, files: Mapping[str, bytes]) -> int:
        """Upload files (name to content), one task each; return the number of tasks made."""
        path = f"/api/projects/{project_id}/import"
        parts = [(name, (name, content)) for name, content in files.items()]
        made = 0
        for start in range(0, len(parts), FILES_CHUNK):
            chunk = parts[start : start + FILES_CHUNK]
            made += int(member(self.request("POST", path, files=chunk, timeout=SLOW_SECONDS), "task_count"))
        return made

    def import_picture(self, project_id: int, name: str, content: bytes) -> int:
        """Upload one picture's file and return the id of the task made of it."""
        path, params = f"/api/projects/{project_id}/import", {"return_task_ids": "true"}
        answer = self.request("POST", path, params=params, files=[(name, (name, content))], timeout=SLOW_SECONDS)
        ids = member(answer, "task_ids")
        if not isinstance(ids, list) or len(ids) != 1:
            raise LabelStudioError(f"Label Studio made {shorten(ids)} of {name}, where one task was expected.")
        return int(ids[0])

    def tasks(self, project_id: int, only: Sequence[int] | None = None, after: int = -1) -> Iterator[TaskSummary]:
        """Yield all tasks of the project by rising id, or those of `only` that still exist; above the id `after`.

        Reading them this way never makes Label Studio ask an ML backend, unless the project has
        `evaluate_predictions_automatically` set.
        """
        for task in self._pages(project_id, LIGHT_PAGE, only, [], {"include": _TASK_FIELDS}, after):
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

    def newest_annotation(self, project_id: int) -> str | None:
        """Return when the project's newest annotation was made, as Label Studio writes it; None if there is none.

        Of the tasks that count as labeled, so not of those that still want a further annotator.
        """
        return self._newest(project_id, "completed_at", [_HAS_ANNOTATIONS])

    def newest_change(self, project_id: int) -> str | None:
        """Return when a task of the project was last changed, as by any change of its annotations; None: no task."""
        return self._newest(project_id, "updated_at", [])

    def _newest(self, project_id: int, column: str, filters: list[dict[str, Any]]) -> str | None:
        shown = [each for each in _HIDDEN if each != f"tasks:{column}"]
        query = {"ordering": [f"-tasks:{column}"], "hiddenColumns": {"explore": shown, "labeling": shown}}
        if filters:
            query["filters"] = {"conjunction": "and", "items": filters}
        text = json.dumps(query, separators=(",", ":"))
        params = {"project": project_id, "page_size": 1, "query": text, "include": f"id,{column}"}
        answer = self.request("GET", "/api/tasks/", params=params, timeout=SLOW_SECONDS)
        page = _list(member(answer, "tasks"))
        return page[0].get(column) if page else None

    def annotation_summaries(self, project_id: int) -> Iterator[AnnotationSummary]:
        """Yield id, task, time and skip mark of every annotation of the project, by rising task id: cheap."""
        options = {"fields": "all", "review": "true", "include": f"id,annotations,{_MARKS}"}
        for task in self._pages(project_id, SUMMARY_PAGE, None, [_HAS_ANNOTATIONS], options):
            for one in task["annotations"]:
                marks = bool(one["was_cancelled"]), bool(one.get("ground_truth")), is_reviewed(one)
                yield AnnotationSummary(one["id"], task["id"], one["updated_at"], *marks)

    def annotations(self, project_id: int, only: Sequence[int] | None = None) -> Iterator[dict[str, Any]]:
        """Yield every annotation, whole, by rising task id; `only` narrows to these task ids.

        Each is the object that a webhook carries (`task` is its task's id), with the task's data added as
        `data`.
        """
        options = {"fields": "all", "review": "true", "omit": "predictions,drafts"}
        for task in self._pages(project_id, FULL_PAGE, only, [_HAS_ANNOTATIONS], options):
            for one in task["annotations"]:
                yield {**one, "task": task["id"], "data": task["data"]}

    def create_annotation(
        self, task_id: int, result: list[dict[str, Any]], was_cancelled: bool = False, ground_truth: bool = False
    ) -> dict[str, Any]:
        """Submit (or, with `was_cancelled`, skip) an annotation as the key's owner and return it."""
        body = {"result": result, "was_cancelled": was_cancelled, "ground_truth": ground_truth}
        return _mapping(self.request("POST", f"/api/tasks/{task_id}/annotations/", json=body, timeout=SLOW_SECONDS))

    def predictions(self, task_id: int) -> list[dict[str, Any]]:
        """Return the task's predictions, whole: id, model_version, score, result and so on."""
        return _list(self.request("GET", "/api/predictions/", params={"task": task_id}))

    def create_prediction(self, project_id: int, task_id: int, prediction: Mapping[str, Any]) -> bool:
        """Store a prediction, {result, score, model_version, cluster}; gives False if its task is gone.

        One request for each, because `/import/predictions`, which takes many, forgets `cluster` (Label Studio 1.23.2).
        It costs ten times as much: on a busy machine 0.54 s, where an import of 12 took 0.045 s for each.
        """
        body = {"project": project_id, "task": task_id, **prediction}
        try:
            self.request("POST", "/api/predictions/", json=body, timeout=SLOW_SECONDS)
        except LabelStudioError:
            if any(self.tasks(project_id, only=[task_id])):
                raise
            return False
        return True

    def replace_prediction(
        self, project_id: int, task_id: int, prediction_id: int, prediction: Mapping[str, Any]
    ) -> bool:
        """Write over a prediction's {result, score, model_version, cluster}, under its id; gives False if it is gone.

        An editor that was opened with it can go on: Label Studio refuses a submit only where the id is gone.
        """
        body = {"project": project_id, "task": task_id, **prediction}
        return self._of_prediction("PATCH", prediction_id, json=body)

    def delete_prediction(self, prediction_id: int) -> bool:
        """Delete a prediction; gives False if it was gone before.

        What was begun with it and is still open in an editor cannot be submitted any more (Label Studio 1.23.2: 400,
        `parent_prediction`), nor can an annotation that was made from it be updated there.
        """
        return self._of_prediction("DELETE", prediction_id)

    def _of_prediction(self, method: str, prediction_id: int, **options: Any) -> bool:
        try:
            self.request(method, f"/api/predictions/{prediction_id}/", timeout=SLOW_SECONDS, **options)
        except LabelStudioError as error:
            if error.http_status != 404:
                raise
            return False
        return True

    def references(self, project_id: int, versions: Sequence[str], after: int = -1) -> Iterator[TaskReferences]:
        """Yield what refers to the predictions of the tasks that have one of these model versions, by rising task id.

        Above the task id `after`. Other tasks may come too: Label Studio looks for a part of the version's name.
        """
        wanted = {
            "filter": "filter:tasks:predictions_model_versions",
            "operator": "contains",
            "type": "List",
            "value": list(versions),
        }
        for task in self._pages(project_id, FULL_PAGE, None, [wanted], _REFERENCES, after):
            yield _references(task)

    def references_of(self, project_id: int, task_id: int) -> TaskReferences | None:
        """Return what refers to the predictions of one task; None if it is gone."""
        found = self._pages(project_id, FULL_PAGE, [task_id], [], _REFERENCES)
        return next((_references(task) for task in found), None)

    def drafts(self, task_id: int) -> list[dict[str, Any]]:
        """Return the drafts of a task, everybody's: id, user, updated_at, result and so on."""
        return _list(self.request("GET", f"/api/tasks/{task_id}/drafts"))

    def model_versions(self, project_id: int) -> dict[str, int]:
        """Return how many predictions of each model version the project holds."""
        return _mapping(self.request("GET", f"/api/projects/{project_id}/model-versions/"))

    def set_model_version(self, project_id: int, version: str) -> None:
        """Choose whose predictions the project shows and sorts by; "": nobody's.

        Label Studio refuses a version of which no prediction is stored, unless it is a connected backend's
        title.
        """
        self.update_project(project_id, model_version=version)

    def ml_backends(self, project_id: int) -> list[dict[str, Any]]:
        """Return the connected ML backends: id, url, title, state (`CO` is connected) and so on."""
        path = "/api/ml/"
        return _list(self.request("GET", path, params={"project": project_id}, timeout=SLOW_SECONDS))

    def connect_ml_backend(
        self, project_id: int, url: str, title: str, is_interactive: bool = True, **fields: Any
    ) -> dict[str, Any]:
        """Connect an ML backend, which must answer /health and /setup now, and return its entry."""
        body = {"url": url, "project": project_id, "title": title, "is_interactive": is_interactive, **fields}
        return _mapping(self.request("POST", "/api/ml/", json=body, timeout=SLOW_SECONDS))

    def update_ml_backend(self, project_id: int, backend_id: int, url: str, **fields: Any) -> None:
        """Change fields of a connected ML backend, which must answer at `url`, its address from now on."""
        body = {"url": url, "project": project_id, **fields}  # both, or Label Studio answers 500
        self.request("PATCH", f"/api/ml/{backend_id}", json=body, timeout=SLOW_SECONDS)

    def webhooks(self, project_id: int) -> list[dict[str, Any]]:
        """Return the project's webhooks: id, url, headers, is_active, send_payload, send_for_all_actions, actions."""
        return _list(self.request("GET", "/api/webhooks/", params={"project": project_id}))

    def create_webhook(self, project_id: int, url: str, **fields: Any) -> None:
        """Make a webhook of the project, with fields as `webhooks` returns them."""
        self.request("POST", "/api/webhooks/", json={"project": project_id, "url": url, **fields})

    def update_webhook(self, webhook_id: int, url: str, **fields: Any) -> None:
        """Change a webhook: its address and the fields that are given."""
        self.request("PATCH", f"/api/webhooks/{webhook_id}/", json={"url": url, **fields})

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
        options: dict[str, str],
        after: int = -1,
    ) -> Iterator[dict[str, Any]]:
        """Yield task objects by rising id; `only` is sorted and split, since it travels in the address."""
        if only is None:
            yield from self._behind(project_id, size, {"all": True, "excluded": []}, filters, options, after)
            return
        ids = sorted(set(only))
        for start in range(0, len(ids), ONLY_CHUNK):
            selected = {"all": False, "included": ids[start : start + ONLY_CHUNK]}
            yield from self._behind(project_id, size, selected, filters, options, after)

    def _behind(
        self,
        project_id: int,
        size: int,
        selected: dict[str, Any],
        filters: list[dict[str, Any]],
        options: dict[str, str],
        last: int,
    ) -> Iterator[dict[str, Any]]:
        """Page by "id greater than the last", so that nothing is missed when tasks come and go meanwhile."""
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


def _list(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise LabelStudioError(f"Label Studio answered {type(value).__name__} where a list was expected.")
    return value

"""Lists of a project's tasks, annotations and predictions, page by page, through Label Studio's Data Manager."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skylight.backend.labelstudio.connection import Connection, json_list, member

LISTING_SECONDS = 120.0
"""Read timeout of a page: Label Studio may ask an ML backend first, for which it takes up to 100 s."""
LIGHT_PAGE = 100
"""Tasks in one page of a narrow listing."""
SUMMARY_PAGE = 500
"""Tasks in one page of annotations without results: 10,000 took 13.5 s, with 100 a page 24.5 s, with 1000 15.7 s."""
FULL_PAGE = 20
"""Tasks in one page with whole annotations; a mask can be 100 kB."""
MAX_IDS = 100
"""Task ids named in one listing, so that its URL stays under 8 kB, the limit of common proxies."""

# The Data Manager computes only the columns that are shown: here, predictions_model_versions alone.
_HIDDEN_COLUMNS = [
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
_ANNOTATION_FIELDS = "updated_at,was_cancelled,ground_truth,last_action"
_REFERENCE_OPTIONS = {
    "fields": "all",
    "review": "true",
    "include": "id,annotations,parent_prediction,predictions",
}


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

    @classmethod
    def from_json(cls, task: Mapping[str, Any]) -> TaskSummary:
        """Of a task as Label Studio lists it."""
        versions = str(task.get("predictions_model_versions") or "")
        return cls(
            id=task["id"],
            data=task["data"],
            is_labeled=task["is_labeled"],
            updated_at=task["updated_at"],
            annotations=task["total_annotations"],
            skipped=task["cancelled_annotations"],
            predictions=task["total_predictions"],
            model_versions=tuple(sorted({name.strip() for name in versions.split(",") if name.strip()})),
        )


@dataclass(frozen=True)
class AnnotationSummary:
    """An annotation without its result; `updated_at` as Label Studio writes it (ISO 8601, UTC, with µs)."""

    id: int
    task: int
    updated_at: str
    was_cancelled: bool
    ground_truth: bool
    reviewed: bool

    @classmethod
    def from_json(cls, annotation: Mapping[str, Any], task: int) -> AnnotationSummary:
        """Of an annotation as Label Studio lists it."""
        return cls(
            id=annotation["id"],
            task=task,
            updated_at=annotation["updated_at"],
            was_cancelled=bool(annotation["was_cancelled"]),
            ground_truth=bool(annotation.get("ground_truth")),
            reviewed=is_reviewed(annotation),
        )


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

    @classmethod
    def from_json(cls, task: Mapping[str, Any]) -> TaskReferences:
        """Of a task listed with its annotations and predictions."""
        predictions = [
            StoredPrediction(prediction["id"], str(prediction.get("model_version") or ""), prediction["updated_at"])
            for prediction in task["predictions"]
        ]
        parents = {annotation["parent_prediction"] for annotation in task["annotations"]} - {None}
        return cls(task["id"], tuple(predictions), frozenset(parents))


def is_reviewed(annotation: Mapping[str, Any]) -> bool:
    """Whether a reviewer's acceptance was the last thing done to an annotation; open-source Label Studio has none."""
    return annotation.get("last_action") in ("accepted", "fixed_and_accepted")


class TaskListing(Connection):
    """What Label Studio's `/api/tasks/` lists.

    Every method raises `LabelStudioError` when Label Studio cannot be reached or refuses.
    """

    def tasks(self, project_id: int, only: Sequence[int] | None = None, after: int = -1) -> Iterator[TaskSummary]:
        """Yield all tasks of the project by rising id, or those of `only` that still exist; above the id `after`.

        Reading them this way never makes Label Studio ask an ML backend, unless the project has
        `evaluate_predictions_automatically` set.
        """
        options = {"include": _TASK_FIELDS}
        yield from map(TaskSummary.from_json, self._pages(project_id, LIGHT_PAGE, only, [], options, after))

    def newest_annotation(self, project_id: int) -> str | None:
        """Return when the project's newest annotation was made, as Label Studio writes it; None if there is none.

        Of the tasks that count as labeled, so not of those that still want a further annotator.
        """
        return self._newest(project_id, "completed_at", [_HAS_ANNOTATIONS])

    def newest_change(self, project_id: int) -> str | None:
        """Return when a task of the project was last changed, as by any change of its annotations; None: no task."""
        return self._newest(project_id, "updated_at", [])

    def annotation_summaries(self, project_id: int) -> Iterator[AnnotationSummary]:
        """Yield every annotation of the project without its result, by rising task id: cheap."""
        options = {"fields": "all", "review": "true", "include": f"id,annotations,{_ANNOTATION_FIELDS}"}
        for task in self._pages(project_id, SUMMARY_PAGE, None, [_HAS_ANNOTATIONS], options):
            for annotation in task["annotations"]:
                yield AnnotationSummary.from_json(annotation, task["id"])

    def annotations(self, project_id: int, only: Sequence[int] | None = None) -> Iterator[dict[str, Any]]:
        """Yield every annotation, whole, by rising task id; `only` narrows to these task ids.

        Each is the object that a webhook carries (`task` is its task's id), with the task's data added as `data`.
        """
        options = {"fields": "all", "review": "true", "omit": "predictions,drafts"}
        for task in self._pages(project_id, FULL_PAGE, only, [_HAS_ANNOTATIONS], options):
            for annotation in task["annotations"]:
                yield {**annotation, "task": task["id"], "data": task["data"]}

    def references(self, project_id: int, versions: Sequence[str], after: int = -1) -> Iterator[TaskReferences]:
        """Yield what refers to the predictions of the tasks that have one of these model versions, by rising task id.

        Above the task id `after`. Other tasks may come too: Label Studio looks for a part of the version's name.
        """
        has_version = {
            "filter": "filter:tasks:predictions_model_versions",
            "operator": "contains",
            "type": "List",
            "value": list(versions),
        }
        tasks = self._pages(project_id, FULL_PAGE, None, [has_version], _REFERENCE_OPTIONS, after)
        yield from map(TaskReferences.from_json, tasks)

    def references_of(self, project_id: int, task_id: int) -> TaskReferences | None:
        """Return what refers to the predictions of one task; None if it is gone."""
        tasks = self._pages(project_id, FULL_PAGE, [task_id], [], _REFERENCE_OPTIONS)
        return next(map(TaskReferences.from_json, tasks), None)

    def _newest(self, project_id: int, column: str, filters: list[dict[str, Any]]) -> str | None:
        """The largest value of a column of times, None if there is no task."""
        hidden = [name for name in _HIDDEN_COLUMNS if name != f"tasks:{column}"]
        query: dict[str, Any] = {
            "ordering": [f"-tasks:{column}"],
            "hiddenColumns": {"explore": hidden, "labeling": hidden},
        }
        if filters:
            query["filters"] = {"conjunction": "and", "items": filters}
        page = self._page(project_id, 1, query, {"include": f"id,{column}"})[0]
        return page[0].get(column) if page else None

    def _pages(
        self,
        project_id: int,
        size: int,
        only: Sequence[int] | None,
        filters: list[dict[str, Any]],
        options: dict[str, str],
        after: int = -1,
    ) -> Iterator[dict[str, Any]]:
        """Yield task objects by rising id; `only` is sorted and split, since it travels in the URL."""
        if only is None:
            yield from self._pages_after(project_id, size, {"all": True, "excluded": []}, filters, options, after)
            return
        ids = sorted(set(only))
        for start in range(0, len(ids), MAX_IDS):
            selected = {"all": False, "included": ids[start : start + MAX_IDS]}
            yield from self._pages_after(project_id, size, selected, filters, options, after)

    def _pages_after(
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
            is_later = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last}
            query = {
                "filters": {"conjunction": "and", "items": [is_later, *filters]},
                "ordering": ["tasks:id"],
                "selectedItems": selected,
                "hiddenColumns": {"explore": _HIDDEN_COLUMNS, "labeling": _HIDDEN_COLUMNS},
            }
            page, answer = self._page(project_id, size, query, options)
            yield from page
            if not page or len(page) >= int(member(answer, "total")):
                return
            last = page[-1]["id"]

    def _page(
        self, project_id: int, size: int, query: dict[str, Any], options: dict[str, str]
    ) -> tuple[list[dict[str, Any]], Any]:
        """The tasks of one page, and the whole answer."""
        text = json.dumps(query, separators=(",", ":"))
        params = {"project": project_id, "page_size": size, "query": text, **options}
        answer = self.request("GET", "/api/tasks/", params=params, timeout=LISTING_SECONDS)
        return json_list(member(answer, "tasks")), answer

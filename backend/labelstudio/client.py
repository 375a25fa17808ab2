"""Label Studio's REST API, as far as Skylight needs it.

Plain `requests` rather than `label_studio_sdk.client`, by measurement (SDK 2.1.2): importing the SDK's client takes
1.2 s and 87 MB of memory in every process, because it pulls in pandas; this module takes 0.2 s. The SDK's token client
also refreshes by the clock only, never on a 401, and loses the path of a URL such as `https://host/label-studio`. And
most of what is asked here is narrower than what the SDK's typed objects hold: 100 annotations of 70 kB listed by id and
time are 20 kB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skylight.backend.errors import LabelStudioError
from skylight.backend.labelstudio.connection import json_list, json_object, member, shorten
from skylight.backend.labelstudio.task_listing import TaskListing

SLOW_SECONDS = 120.0
"""Read timeout where Label Studio may first ask an ML backend, for which it takes up to 100 s."""
MAX_FILES = 50
"""Files in one upload; Label Studio takes 100 by default."""


class LabelStudio(TaskListing):
    """Label Studio's projects, tasks, annotations, predictions and ML backends, over one `Connection`.

    Every method raises `LabelStudioError` when Label Studio cannot be reached or refuses.
    """

    def version(self) -> tuple[str, float | None]:
        """Return Label Studio's release, such as `1.23.2`, and the seconds its clock is ahead of ours (None: unknown).

        Asked without the key, so that a wrong address and a wrong key can be told apart.
        """
        answer, ahead = self.get_without_key("/api/version")
        return str(member(answer, "release")), ahead

    def whoami(self) -> str:
        """Return the e-mail address of the key's owner."""
        return str(member(self.request("GET", "/api/current-user/whoami"), "email"))

    def project(self, project_id: int) -> dict[str, Any]:
        """Return the project: label_config, model_version, created_at, counters and so on."""
        return json_object(self.request("GET", f"/api/projects/{project_id}/"))

    def projects(self) -> list[dict[str, Any]]:
        """Return the projects that the key may see, newest first, the first 1000 of them."""
        return json_list(member(self.request("GET", "/api/projects/", params={"page_size": 1000}), "results"))

    def create_project(self, title: str, label_config: str, **options: Any) -> dict[str, Any]:
        """Create a project and return it; Label Studio takes titles of 3 to 50 characters.

        `options` are further fields of a project, such as `sampling="Uncertainty sampling"`.
        """
        body = {"title": title, "label_config": label_config, **options}
        return json_object(self.request("POST", "/api/projects/", json=body))

    def update_project(self, project_id: int, **fields: Any) -> None:
        """Change fields of a project, such as `sampling="Uncertainty sampling"`."""
        self.request("PATCH", f"/api/projects/{project_id}/", json=fields)

    def import_files(self, project_id: int, files: Mapping[str, bytes]) -> int:
        """Upload files (name to content), one task each; return the number of tasks made."""
        path = f"/api/projects/{project_id}/import"
        parts = [(name, (name, content)) for name, content in files.items()]
        count = 0
        for start in range(0, len(parts), MAX_FILES):
            chunk = parts[start : start + MAX_FILES]
            count += int(member(self.request("POST", path, files=chunk, timeout=SLOW_SECONDS), "task_count"))
        return count

    def import_image(self, project_id: int, name: str, content: bytes) -> int:
        """Upload one image file and return the id of the task made of it."""
        path, params = f"/api/projects/{project_id}/import", {"return_task_ids": "true"}
        answer = self.request("POST", path, params=params, files=[(name, (name, content))], timeout=SLOW_SECONDS)
        ids = member(answer, "task_ids")
        if not isinstance(ids, list) or len(ids) != 1:
            raise LabelStudioError(f"Label Studio made {shorten(ids)} of {name}, where one task was expected.")
        return int(ids[0])

    def create_annotation(
        self, task_id: int, result: list[dict[str, Any]], was_cancelled: bool = False, ground_truth: bool = False
    ) -> dict[str, Any]:
        """Submit (or, with `was_cancelled`, skip) an annotation as the key's owner and return it."""
        body = {"result": result, "was_cancelled": was_cancelled, "ground_truth": ground_truth}
        return json_object(self.request("POST", f"/api/tasks/{task_id}/annotations/", json=body, timeout=SLOW_SECONDS))

    def predictions(self, task_id: int) -> list[dict[str, Any]]:
        """Return the task's predictions, whole: id, model_version, score, result and so on."""
        return json_list(self.request("GET", "/api/predictions/", params={"task": task_id}))

    def create_prediction(self, project_id: int, task_id: int, prediction: Mapping[str, Any]) -> bool:
        """Store a prediction, {result, score, model_version, cluster}; gives False if its task is gone.

        One request for each, because `/import/predictions`, which takes many, forgets `cluster` (Label Studio 1.23.2);
        see docs/decisions/prediction-delivery.md.
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
        return self._change_prediction("PATCH", prediction_id, json=body)

    def delete_prediction(self, prediction_id: int) -> bool:
        """Delete a prediction; gives False if it was gone before.

        What was begun with it and is still open in an editor cannot be submitted any more (Label Studio 1.23.2: 400,
        `parent_prediction`), nor can an annotation that was made from it be updated there.
        """
        return self._change_prediction("DELETE", prediction_id)

    def drafts(self, task_id: int) -> list[dict[str, Any]]:
        """Return the drafts of a task, everybody's: id, user, updated_at, result and so on."""
        return json_list(self.request("GET", f"/api/tasks/{task_id}/drafts"))

    def model_versions(self, project_id: int) -> dict[str, int]:
        """Return how many predictions of each model version the project holds."""
        return json_object(self.request("GET", f"/api/projects/{project_id}/model-versions/"))

    def set_model_version(self, project_id: int, version: str) -> None:
        """Choose whose predictions the project shows and sorts by; "": nobody's.

        Label Studio refuses a version of which no prediction is stored, unless it is a connected backend's
        title.
        """
        self.update_project(project_id, model_version=version)

    def ml_backends(self, project_id: int) -> list[dict[str, Any]]:
        """Return the connected ML backends: id, url, title, state (`CO` is connected) and so on."""
        path = "/api/ml/"
        return json_list(self.request("GET", path, params={"project": project_id}, timeout=SLOW_SECONDS))

    def connect_ml_backend(
        self, project_id: int, url: str, title: str, is_interactive: bool = True, **fields: Any
    ) -> dict[str, Any]:
        """Connect an ML backend, which must answer /health and /setup now, and return its entry."""
        body = {"url": url, "project": project_id, "title": title, "is_interactive": is_interactive, **fields}
        return json_object(self.request("POST", "/api/ml/", json=body, timeout=SLOW_SECONDS))

    def update_ml_backend(self, project_id: int, backend_id: int, url: str, **fields: Any) -> None:
        """Change fields of a connected ML backend, which must answer at `url`, its address from now on."""
        body = {"url": url, "project": project_id, **fields}  # without either, Label Studio answers 500
        self.request("PATCH", f"/api/ml/{backend_id}", json=body, timeout=SLOW_SECONDS)

    def webhooks(self, project_id: int) -> list[dict[str, Any]]:
        """Return the project's webhooks: id, url, headers, is_active, send_payload, send_for_all_actions, actions."""
        return json_list(self.request("GET", "/api/webhooks/", params={"project": project_id}))

    def create_webhook(self, project_id: int, url: str, **fields: Any) -> None:
        """Make a webhook of the project, with fields as `webhooks` returns them."""
        self.request("POST", "/api/webhooks/", json={"project": project_id, "url": url, **fields})

    def update_webhook(self, webhook_id: int, url: str, **fields: Any) -> None:
        """Change a webhook: its address and the fields that are given."""
        self.request("PATCH", f"/api/webhooks/{webhook_id}/", json={"url": url, **fields})

    def _change_prediction(self, method: str, prediction_id: int, **options: Any) -> bool:
        """Send a request about a prediction; gives False if it is gone."""
        try:
            self.request(method, f"/api/predictions/{prediction_id}/", timeout=SLOW_SECONDS, **options)
        except LabelStudioError as error:
            if error.http_status != 404:
                raise
            return False
        return True

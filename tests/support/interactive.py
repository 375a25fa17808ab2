"""What Label Studio asks its ML backend on behalf of somebody in its pages: a click in the editor, a batch of tasks."""

from collections.abc import Iterable, Mapping
from typing import Any

from skylight.backend.errors import LabelStudioError
from skylight.backend.labelstudio.client import SLOW_SECONDS, LabelStudio


def send_click(client: LabelStudio, backend: int, task: int, context: Mapping[str, Any]) -> dict[str, Any]:
    """The prediction that comes back for a click, as the editor sends it; `context` is {"result": [regions]}.

    Raises LabelStudioError also for a failing ML backend, which comes inside a 200.
    """
    path = f"/api/ml/{backend}/interactive-annotating"
    answer = client.request("POST", path, json={"task": task, "context": dict(context)}, timeout=SLOW_SECONDS)
    if answer.get("errors"):
        raise LabelStudioError(f"Label Studio's ML backend failed at POST {path}: {answer['errors']}")
    prediction: dict[str, Any] = answer["data"]
    return prediction


def retrieve_predictions(client: LabelStudio, project: int, tasks: Iterable[int]) -> None:
    """Have Label Studio ask the project's ML backend about these tasks; a failure there is not seen."""
    params = {"id": "retrieve_tasks_predictions", "project": project}
    body = {"selectedItems": {"all": False, "included": list(tasks)}}
    client.request("POST", "/api/dm/actions/", params=params, json=body, timeout=SLOW_SECONDS)

"""Skylight as a model of `label-studio-ml`, for those who host all their ML backends with it.

label-studio-ml 1.0.9, the newest on the package index, pins Flask 1.1.2, so it lives in an environment of its own
(extra `label-studio-ml`), as must all that this module imports: no decorator there is younger than that Flask.
Its server calls; the work is done as in `skylight web`, and `skylight worker` trains as ever. It asks for no login, so
`SKYLIGHT_USER` is refused here rather than not heeded.
"""

import functools
import os
from typing import Any

import orjson
from flask import Response, after_this_request, has_request_context, request
from label_studio_ml.model import LabelStudioMLBase

from backend import layout
from backend.answers import body_object
from backend.errors import ConfigError
from backend.predict import results
from backend.service import Service
from backend.settings import Settings
from backend.status import set_up
from backend.webhook import accept, events, project_key
from model import shared


@functools.cache
def service() -> Service:
    """The process's only one, from the environment's settings. Raises ConfigError."""
    settings = Settings.from_env(os.environ)
    if not settings.redis_url:
        raise ConfigError("REDIS_URL is not set; beside label-studio-ml no broker is started inside")
    if settings.user:
        raise ConfigError(
            "SKYLIGHT_USER is set, but label-studio-ml's server lets everybody in; unset it here, together with "
            "SKYLIGHT_PASSWORD, and put a proxy in front that asks for a login, or use `skylight serve`"
        )
    shared.hurry(settings.home)
    made = Service(settings)
    layout.check(made)
    return made


class Skylight(LabelStudioMLBase):  # type: ignore[misc]  # label-studio-ml has no types
    """The same service: `label-studio-ml init --script hosted.py:Skylight ...`, where hosted.py imports this class.

    (Its usual name, model.py, would hide the package `model`.)

    What label-studio-ml passes on is not enough, such as the project of a /predict: the request itself is read.
    """

    def __init__(self, label_config: str | None = None, train_output: Any = None, **options: Any) -> None:
        """Made anew at every /setup, and in a process of its own for every webhook."""
        super().__init__(label_config, train_output, **options)
        if has_request_context() and request.path.endswith("/setup"):
            _name(set_up(service(), body_object(request)))

    def predict(self, tasks: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
        """One result per task, in order; see `backend.predict.results`."""
        found = results(service(), body_object(request))
        if found:
            _name(found[0]["model_version"])
        return found

    def process_event(self, event: str, data: dict[str, Any], job_id: Any, additional_params: Any) -> dict[str, Any]:
        """Keep what a webhook says. Its secret header does not get here, so it cannot be asked for."""
        found = list(events({"action": event, **data}))
        accept(service(), project_key(data.get("project")), found)
        return {}


def _name(version: str) -> None:
    """Have the answer name what is served: label-studio-ml's own name for it would make Label Studio ask twice."""

    @after_this_request
    def rename(answer: Response) -> Response:
        if answer.status_code == 200:
            answer.set_data(orjson.dumps({**orjson.loads(answer.get_data()), "model_version": version}))
        return answer

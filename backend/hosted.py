"""Skylight as a model of `label-studio-ml` 2.x, for those who host all their ML backends with it.

Its server (`label_studio_ml.api`) makes an object of the class for every /setup, /predict and /webhook; the work is
done as in `skylight web`, and `skylight worker` trains as ever. It asks for the login in BASIC_AUTH_USER and
BASIC_AUTH_PASS itself, if they are set. Where SKYLIGHT_USER and SKYLIGHT_PASSWORD are set, they are asked for here as
`skylight web` does: of all calls but those of a webhook with its secret header.
"""

import functools
import os
import sys
from typing import Any, NoReturn

from flask import Response, abort, after_this_request, has_request_context, request
from label_studio_ml.model import LabelStudioMLBase
from label_studio_ml.response import ModelResponse

from skylight.backend.errors import ConfigError, SkylightError
from skylight.backend.labelstudio.events import project_key
from skylight.backend.security.basic_auth import BasicAuth
from skylight.backend.security.webhook_secret import HEADER
from skylight.backend.service import Service
from skylight.backend.settings import Settings
from skylight.backend.store import migrations
from skylight.backend.web.auth import CHALLENGE, LOGIN_NEEDED
from skylight.backend.web.http import body_object, error_response
from skylight.backend.web.predict import predict_tasks
from skylight.backend.web.setup import register_project
from skylight.backend.web.webhook import accept_events

UNKNOWN_CREATION = "0"  # seconds of a project's creation, where nothing tells them


@functools.cache
def service() -> Service:
    """The process's `Service`, by the settings of the environment. Raises ConfigError."""
    settings = Settings.from_env(os.environ)
    if not settings.redis_url:
        raise ConfigError("REDIS_URL is not set; beside label-studio-ml no broker is started inside")
    made = Service(settings)
    made.files.prefer_copies()
    migrations.check(made.files, made.queue.redis)
    return made


class Skylight(LabelStudioMLBase):  # type: ignore[misc]  # label-studio-ml has no types
    """The same service: `label-studio-ml create NAME --script hosted.py:Skylight`, where hosted.py imports this class.

    (Its usual name, model.py, would hide the package `model`.)
    """

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        """`project_id` is Label Studio's number alone; when the project was created is read off the request."""
        self.labels_xml = ""
        super().__init__(project_id, label_config)

    def use_label_config(self, label_config: str) -> None:
        """Keep the configuration, to be read by Skylight itself, also where the base class cannot read it."""
        self.labels_xml = label_config

    def set_extra_params(self, extra_params: Any) -> None:
        """Ignore them: Skylight has its own settings, and the base class fails on anything but a text."""

    def setup(self) -> None:
        """Have the base class name as `model_version` what the project is served now; at a /setup, also take note of
        its configuration.
        """
        try:
            self._check_login()
            self.project = self._project_name()
            if _is_request_for("/setup"):
                version = register_project(service(), body_object(request))
            else:
                version = service().version_name(self.project)
        except SkylightError as error:
            _abort_with(error)
        if self.get("model_version") != version:
            self.set("model_version", version)

    def predict(self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **_: Any) -> ModelResponse:
        """One prediction per task, in order; see `skylight.backend.web.predict.predict_tasks`."""
        body = {"project": self.project, "label_config": self.labels_xml, "tasks": tasks}
        try:
            predictions = predict_tasks(service(), {**body, "params": {"context": context or None}})
        except SkylightError as error:
            _abort_with(error)
        version = predictions[0]["model_version"] if predictions else service().version_name(self.project)
        return ModelResponse(predictions=predictions, model_version=version)

    def fit(self, event: str, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Keep what a webhook says; gives how many events were kept."""
        secret = request.headers.get(HEADER) if has_request_context() else None
        try:
            return {"kept": len(accept_events(service(), {**data, "action": event}, secret, _logged_in()))}
        except SkylightError as error:
            _abort_with(error)

    def _project_name(self) -> str:
        """The project's name in Skylight, "<id>.<second of its creation>"."""
        if has_request_context():
            project = body_object(request).get("project")
            return project_key(project) if isinstance(project, dict) else str(project or "")
        names = [name for name in service().store.projects() if name.partition(".")[0] == str(self.project_id)]
        return names[-1] if names else f"{self.project_id or UNKNOWN_CREATION}.{UNKNOWN_CREATION}"

    def _check_login(self) -> None:
        """Refuse who brings neither Skylight's login, if one is set, nor, for a webhook, its secret."""
        if not BasicAuth.from_settings(service().settings) or _logged_in():
            return
        if not (_is_request_for("/webhook") and service().secret.matches(request.headers.get(HEADER))):
            answer = error_response(LOGIN_NEEDED, 401)
            answer.headers["WWW-Authenticate"] = CHALLENGE
            _answer(answer)


def _logged_in() -> bool:
    """Whether the request has brought Skylight's login, or the one without which label-studio-ml lets nobody in."""
    if not has_request_context():
        return True
    server = sys.modules.get("label_studio_ml.api")  # by which the class is hosted, unless it is tried out without
    if getattr(server, "BASIC_AUTH", None) is not None:
        return True
    given, login = request.authorization, BasicAuth.from_settings(service().settings)
    return given is not None and given.type == "basic" and login.matches(given.username, given.password)


def _is_request_for(path: str) -> bool:
    return has_request_context() and request.path.endswith(path)


def _abort_with(error: SkylightError) -> NoReturn:
    """Answer with the error's sentence and status. Raises the error itself where no request is answered."""
    if not has_request_context():
        raise error
    _answer(error_response(str(error), error.status))


def _answer(answer: Response) -> NoReturn:
    """End the request with this answer: label-studio-ml makes a 500 with a traceback of whatever is raised."""
    after_this_request(lambda _: answer)
    abort(answer)

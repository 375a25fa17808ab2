"""As much of label-studio-ml 2.x as Skylight meets: its base class, its answer, and its server, which calls a class.

`python -m tests.support.label_studio_ml_host PORT` serves Skylight by it, as `label-studio-ml start` does. Where
label-studio-ml 2.x itself
is installed, `modules("installed")` gives that.
"""

import hmac
import importlib
import inspect
import json
import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from flask import Flask, Response, jsonify, make_response, request

NAMES = ("label_studio_ml", "label_studio_ml.model", "label_studio_ml.response", "label_studio_ml.api")
CLASS = "skylight.backend.hosted"  # the module that holds what is hosted
EVENTS = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATION_DELETED", "START_TRAINING")  # others stop there


@dataclass
class ModelResponse:
    """What `predict` may give."""

    predictions: list[Any]
    model_version: str | None = None

    def model_dump(self) -> dict[str, Any]:
        """As plain values; predictions without a version get the answer's."""
        made = [{**one, "model_version": one.get("model_version") or self.model_version} for one in self.predictions]
        return {"model_version": self.model_version, "predictions": made}


class LabelStudioMLBase:
    """The base class; what it keeps is kept by project and name, for all objects of the process, as text."""

    INITIAL_MODEL_VERSION = "0.0.1"
    kept: dict[tuple[str, str], str] = {}

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        if label_config is not None:
            self.use_label_config(label_config)
        if not self.model_version:
            self.set("model_version", self.INITIAL_MODEL_VERSION)
        self.setup()

    def setup(self) -> None:
        """For subclasses."""

    def use_label_config(self, label_config: str) -> None:
        """The configuration of the request, if it brought one."""
        self.set("label_config", label_config)

    def set_extra_params(self, extra_params: str) -> None:
        """What one has written into the ML backend's form, as JSON."""
        self.set("extra_params", extra_params)

    def get(self, key: str) -> str | None:
        return self.kept.get((self.project_id, key))

    def set(self, key: str, value: str) -> None:
        assert isinstance(value, str)
        self.kept[self.project_id, key] = value

    @property
    def model_version(self) -> str | None:
        return self.get("model_version")


def server() -> ModuleType:
    """A module with the server: `init_app`, `BASIC_AUTH`."""
    made = ModuleType("label_studio_ml.api")
    made.BASIC_AUTH = None  # type: ignore[attr-defined]
    app = Flask("label_studio_ml")
    hosted: list[type[Any]] = []

    def init_app(model_class: type[Any], basic_auth_user: str = "", basic_auth_pass: str = "") -> Flask:
        hosted[:] = [model_class]
        user = basic_auth_user or os.environ.get("BASIC_AUTH_USER")
        password = basic_auth_pass or os.environ.get("BASIC_AUTH_PASS")
        made.BASIC_AUTH = (user, password) if user and password else None  # type: ignore[attr-defined]
        return app

    made.init_app = init_app  # type: ignore[attr-defined]

    @app.before_request
    def login() -> Response | None:
        if made.BASIC_AUTH is None:
            return None
        given = request.authorization
        pairs = zip((given.username or "", given.password or ""), made.BASIC_AUTH, strict=True) if given else ()
        if given and all([hmac.compare_digest(one, other) for one, other in pairs]):
            return None
        return Response("Unauthorized", 401, {"WWW-Authenticate": 'Basic realm="Login required"'})

    @app.post("/predict")
    @explained
    def predict() -> Response:
        data = request.json
        params = data.get("params", {})
        context = params.pop("context", {})
        model = hosted[0](project_id=str(data.get("project")).split(".", 1)[0], label_config=data.get("label_config"))
        found = model.predict(data.get("tasks"), context=context, **params)
        if isinstance(found, ModelResponse):
            found.model_version = found.model_version or model.model_version
            found = found.model_dump()["predictions"]
        return jsonify({"results": found})

    @app.post("/setup")
    @explained
    def setup() -> Response:
        data = request.json
        model = hosted[0](project_id=data.get("project").split(".", 1)[0], label_config=data.get("schema"))
        if data.get("extra_params"):
            model.set_extra_params(data["extra_params"])
        return jsonify({"model_version": model.get("model_version")})

    @app.post("/webhook")
    def webhook() -> tuple[Response, int]:
        data = request.json
        event = data.pop("action")
        if event not in EVENTS:
            return jsonify({"status": "Unknown event"}), 200
        model = hosted[0](str(data["project"]["id"]), label_config=data["project"]["label_config"])
        return jsonify({"result": model.fit(event, data), "status": "ok"}), 201

    @app.get("/health")
    @app.get("/", endpoint="root")
    def health() -> Response:
        return jsonify({"status": "UP", "model_class": hosted[0].__name__})

    return made


def explained(function: Callable[[], Response]) -> Callable[[], Response]:
    """Whatever is raised becomes a 500 with a traceback in it."""

    def call() -> Response:
        try:
            return function()
        except Exception:  # noqa: BLE001 (as it does)
            return make_response(jsonify({"status": 500, "result": {"traceback": traceback.format_exc()}}), 500)

    call.__name__ = function.__name__
    return call


def stand_in() -> dict[str, ModuleType]:
    """The modules of the stand-in."""
    made = {name: ModuleType(name) for name in NAMES} | {"label_studio_ml.api": server()}
    LabelStudioMLBase.kept = {}
    made["label_studio_ml.model"].LabelStudioMLBase = LabelStudioMLBase  # type: ignore[attr-defined]
    made["label_studio_ml.response"].ModelResponse = ModelResponse  # type: ignore[attr-defined]
    return made


@contextmanager
def modules(which: str) -> Iterator[ModuleType]:
    """label-studio-ml, the "stand-in" or the "installed" one, in the place of whatever is imported; gives its server.

    Raises ImportError where none, or another release than 2, is installed.
    """
    before = {name: module for name, module in sys.modules.items() if name == CLASS or name.split(".")[0] == NAMES[0]}
    for name in before:
        del sys.modules[name]
    method = multiprocessing.get_start_method(allow_none=True)
    try:
        if which == "stand-in":
            sys.modules.update(stand_in())
        else:
            with warnings.catch_warnings(action="ignore"):
                base = importlib.import_module("label_studio_ml.model").LabelStudioMLBase
                if "project_id" not in inspect.signature(base).parameters:
                    raise ImportError("the label-studio-ml that is installed is older than 2")
                importlib.import_module("label_studio_ml.api")
        yield sys.modules["label_studio_ml.api"]
    finally:
        multiprocessing.set_start_method(method, force=True)  # which the installed one has changed
        for name in [name for name in sys.modules if name == CLASS or name.split(".")[0] == NAMES[0]]:
            del sys.modules[name]
        sys.modules.update(before)


def main(port: int) -> None:
    """Serve Skylight until the process is ended."""
    with modules("stand-in") as api:
        hosted = importlib.import_module(CLASS).Skylight
        print(json.dumps({"port": port}), flush=True)
        api.init_app(hosted).run("127.0.0.1", port, threaded=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))

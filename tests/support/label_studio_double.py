"""As much of Label Studio 1.23.2 as Skylight talks to, in memory, served over real HTTP (on 127.0.0.1).

Its answers have the fields and the order that the real one was seen to have. `annotate`, `update`, `delete` are what a
person does in it; `webhook` is what it would send about that.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

from skylight.backend.demo.demo import label_config
from skylight.backend.service import Service
from skylight.backend.web.app import create_app

KEY = "0123456789abcdef0123456789abcdef01234567"
PERSONAL = "personal.refresh.token"
ACCESS = "access.token.of-it"
OWNER = "owner@example.com"
REFUSAL = "URL resolves to a reserved network address (block: 127.0.0.0/8)"
UPLOADS = (".bmp", ".gif", ".jpg", ".jpeg", ".png", ".svg", ".webp", ".json")  # names of files that it takes
INVITE = "the-project's-invite-token"
CONFIG = label_config(["Pit"])
CAPTURES = Path(__file__).parents[1] / "captures"


def capture(number: str) -> dict[str, Any]:
    """The body of a recorded request of a real Label Studio."""
    found: dict[str, Any] = json.loads(next(CAPTURES.glob(f"{number}_*.json")).read_text())["body"]
    return found


def wait_until(done: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until something is true. Fails the test if it takes longer."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(0.02)


class Studio:
    """A Label Studio: `with Studio() as studio`."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.projects: dict[int, dict[str, Any]] = {}
        self.tasks: dict[int, dict[str, Any]] = {}
        self.predictions: dict[int, dict[str, Any]] = {}
        self.drafts: list[dict[str, Any]] = []  # task, updated_at
        self.backends: dict[int, dict[str, Any]] = {}
        self.webhooks: dict[int, dict[str, Any]] = {}
        self.guards: set[str] = set()  # "ml", "webhook": what refuses addresses such as 127.0.0.1
        self.asks = False  # whether it calls /setup of an ML backend, with its login, as the real one does
        self.legacy = True  # whether legacy tokens are valid
        self.pictures: dict[str, bytes] = {}
        self.resolved: dict[str, bytes] = {}  # files in cloud storage by their address here
        self.fetched: list[str] = []  # paths of pictures, as they were asked for
        self.handed_out: dict[int, int] = {}  # when the label stream gave a task last, by the changes until then
        self.changes = 0  # every change of anything moves the clock by a microsecond
        self.on_predictions: Callable[[], None] = lambda: None
        self.port = 0
        self._app = _app(self)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def __enter__(self) -> "Studio":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Serve; after a stop, at the same address again."""
        self._server = make_server(self.host, self.port, self._app, threaded=True)
        self.port = self._server.port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        """Be down."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def now(self) -> str:
        self.changes += 1
        return f"2026-11-22T10:00:00.{self.changes:06d}Z"

    def add_project(self, config: str = CONFIG, title: str = "pits") -> str:
        """Make a project; gives its key as /setup and /predict carry it."""
        number = len(self.projects) + 1
        self.projects[number] = {
            "id": number,
            "title": title,
            "label_config": config,
            "created_at": f"2026-11-22T09:40:{number:02d}.831122Z",
            "model_version": "",
            "sampling": "Sequential sampling",
            "show_collab_predictions": True,
            "token": INVITE,
        }
        return f"{number}.{1795340400 + number}"

    def add_task(
        self, project: str | int, picture: bytes, number: int = 0, name: str = "scene.png", overlap: int = 1
    ) -> int:
        """Make a task of an uploaded picture; gives its id."""
        number, home = number or max(self.tasks, default=0) + 1, int(float(project))
        path = f"/data/upload/{home}/{number:08x}-{name}"
        self.pictures[path] = picture
        self.tasks[number] = {
            "id": number,
            "project": home,
            "data": {"image": path},
            "updated_at": self.now(),
            "annotations": [],
            "overlap": overlap,
        }
        return number

    def add_prediction(self, task: int, version: str, age: float = 0.0, result: Iterable[dict[str, Any]] = ()) -> int:
        """Store a prediction, made `age` seconds ago; gives its id."""
        self.changes += 1
        made = {"task": task, "result": list(result), "score": 0.5, "model_version": version}
        self.predictions[self.changes] = made | {"updated_at": stamp(age)}
        return self.changes

    def annotate(
        self, task: int, result: Iterable[dict[str, Any]], skip: bool = False, number: int = 0
    ) -> dict[str, Any]:
        """Submit (or skip) an annotation."""
        taken = (one["id"] for each in self.tasks.values() for one in each["annotations"])
        annotation = {
            "id": number or max(taken, default=100) + 1,
            "task": task,
            "project": self.tasks[task]["project"],
            "result": list(result),
            "was_cancelled": skip,
            "ground_truth": False,
            "last_action": None,
            "updated_at": self.now(),
            "prediction": self._shown(task),
        }
        self.tasks[task]["annotations"].append(annotation)
        self.tasks[task]["updated_at"] = annotation["updated_at"]
        return annotation

    def _shown(self, task: int) -> dict[str, Any]:
        """The copy that a new annotation keeps of the prediction of the project's model version."""
        wanted = self.projects[self.tasks[task]["project"]]["model_version"]
        found = [one for one in self.predictions.values() if (one["task"], one["model_version"]) == (task, wanted)]
        return found[0] if found else {}

    def update(self, annotation: dict[str, Any], result: Iterable[dict[str, Any]], skip: bool = False) -> None:
        """Submit an annotation anew."""
        annotation.update(result=list(result), was_cancelled=skip, updated_at=self.now())
        self.tasks[annotation["task"]]["updated_at"] = annotation["updated_at"]

    def delete(self, annotation: dict[str, Any]) -> None:
        """Delete an annotation."""
        self.tasks[annotation["task"]]["annotations"].remove(annotation)
        self.tasks[annotation["task"]]["updated_at"] = self.now()

    def webhook(self, action: str, project: str | int, annotation: dict[str, Any] | None = None) -> dict[str, Any]:
        """The body of a webhook, with the annotation as it is now."""
        body: dict[str, Any] = {"action": action, "project": dict(self.projects[int(float(project))])}
        if annotation is None:
            return body
        if action == "ANNOTATIONS_DELETED":
            return body | {"annotations": [{"id": annotation["id"]}]}
        task = {k: v for k, v in self.tasks[annotation["task"]].items() if k != "annotations"}
        return body | {"annotation": json.loads(json.dumps(annotation)), "task": task}

    def submit(self, task: int, parent: int | None, annotation: int = 0) -> int:
        """What an editor sends, which was opened with the prediction `parent`; the HTTP status of the answer.

        `annotation`: the one that is updated, 0 for a new one.
        """
        path = f"annotations/{annotation}/" if annotation else f"tasks/{task}/annotations/"
        body = {"result": [], "was_cancelled": False, "ground_truth": False, "parent_prediction": parent}
        headers = {"Authorization": f"Token {KEY}"}
        method = "PATCH" if annotation else "POST"
        return requests.request(method, f"{self.url}/api/{path}", json=body, headers=headers, timeout=5).status_code

    def predicted(self, version: str) -> list[int]:
        """The tasks that have a prediction of a version, one entry for each."""
        return sorted(one["task"] for one in self.predictions.values() if one["model_version"] == version)


def _app(studio: Studio) -> Flask:
    app = Flask("studio")

    @app.before_request
    def authorize() -> tuple[Response, int] | None:
        given = request.headers.get("Authorization")
        if request.path in ("/api/version", "/api/token/refresh/") or given == f"Bearer {ACCESS}":
            return None
        if given == f"Token {KEY}":
            disabled = "legacy token authentication has been disabled for this organization"
            return None if studio.legacy else (jsonify(detail=disabled), 401)
        return jsonify(detail="Invalid token."), 401

    @app.get("/api/version")
    def version() -> Response:
        return jsonify(release="1.23.2")

    @app.post("/api/token/refresh/")
    def refresh() -> tuple[Response, int]:
        if request.json["refresh"] != PERSONAL:
            return jsonify(detail="Token is invalid"), 401
        return jsonify(access=ACCESS), 200

    @app.get("/api/current-user/whoami")
    def whoami() -> Response:
        return jsonify(email=OWNER)

    @app.get("/data/upload/<path:_>")
    def upload(_: str) -> Response | tuple[str, int]:
        studio.fetched.append(request.path)
        picture = studio.pictures.get(request.path)
        return ("no", 404) if picture is None else Response(picture, mimetype="image/png")

    @app.get("/tasks/<int:_>/resolve/")
    def resolve(_: int) -> Response | tuple[str, int]:
        asked = request.full_path
        studio.fetched.append(asked)
        return Response(studio.resolved[asked]) if asked in studio.resolved else ("no", 404)

    @app.route("/api/projects/", methods=["GET", "POST"])
    def projects() -> tuple[Response, int]:
        if request.method == "GET":
            return jsonify(results=list(studio.projects.values())), 200
        studio.add_project(request.json["label_config"], request.json["title"])
        made = studio.projects[len(studio.projects)]
        made.update(request.json)
        return jsonify(made), 201

    @app.route("/api/projects/<int:number>/", methods=["GET", "PATCH"])
    def project(number: int) -> tuple[Response, int]:
        if number not in studio.projects:
            return jsonify(detail="No Project matches the given query."), 404
        if request.method == "PATCH":
            wanted = request.json.get("model_version")
            if wanted and wanted not in {one["model_version"] for one in studio.predictions.values()}:
                return jsonify(detail="Validation error", validation_errors="Model version doesn't exist"), 400
            studio.projects[number].update(request.json)
        return jsonify({**studio.projects[number], **_counters(studio, number)}), 200

    @app.get("/api/projects/<int:number>/next")
    def next_task(number: int) -> tuple[Response, int]:
        mine = [task for task in studio.tasks.values() if task["project"] == number and not task["annotations"]]
        if not mine:
            return jsonify(detail="There are no tasks left to be annotated."), 404
        task = min(mine, key=lambda task: studio.handed_out.get(task["id"], 0))
        studio.changes += 1
        studio.handed_out[task["id"]] = studio.changes
        version = studio.projects[number]["model_version"]
        held = [{"id": key, **one} for key, one in list(studio.predictions.items()) if one["task"] == task["id"]]
        return jsonify({**task, "predictions": [one for one in held if one["model_version"] == version]}), 200

    @app.post("/api/projects/<int:number>/import")
    def import_files(number: int) -> tuple[Response, int]:
        for name in (str(file.filename) for file in request.files.values()):
            if Path(name).suffix.lower() not in UPLOADS:
                return jsonify(detail=f"{Path(name).suffix} extension is not supported"), 400
        made = [studio.add_task(number, file.read(), name=str(file.filename)) for file in request.files.values()]
        return jsonify(task_count=len(made), **({"task_ids": made} if "return_task_ids" in request.args else {})), 201

    @app.post("/api/tasks/<int:number>/annotations/")
    def annotate(number: int) -> tuple[Response, int]:
        if number not in studio.tasks:
            return jsonify(detail="No Task matches the given query."), 404
        if refusal := _stale(studio):
            return refusal
        made = studio.annotate(number, request.json["result"], request.json["was_cancelled"])
        made["ground_truth"] = request.json["ground_truth"]
        made["parent_prediction"] = request.json.get("parent_prediction")
        return jsonify(made), 201

    @app.patch("/api/annotations/<int:number>/")
    def update(number: int) -> tuple[Response, int]:
        if refusal := _stale(studio):
            return refusal
        (found,) = [one for task in studio.tasks.values() for one in task["annotations"] if one["id"] == number]
        studio.update(found, request.json["result"])
        return jsonify(found), 200

    @app.get("/api/tasks/<int:number>/drafts")
    def drafts(number: int) -> Response:
        return jsonify([one for one in studio.drafts if one["task"] == number])

    @app.get("/api/tasks/")
    def tasks() -> Response:
        query = json.loads(request.args["query"])
        if query["ordering"] in (["-tasks:completed_at"], ["-tasks:updated_at"]):
            return _newest(studio, int(request.args["project"]), query["ordering"][0])
        behind, *others = query["filters"]["items"]
        found = [task for key, task in sorted(studio.tasks.items()) if key > behind["value"]]
        found = [task for task in found if task["project"] == int(request.args["project"])]
        if not query["selectedItems"]["all"]:
            found = [task for task in found if task["id"] in query["selectedItems"]["included"]]
        for other in others:
            found = [task for task in found if _passes(studio, task, other)]
        page = found[: int(request.args["page_size"])]
        return jsonify(tasks=[_listed(studio, task) for task in page], total=len(found))

    _predictions(app, studio)
    _backends(app, studio)
    return app


def _predictions(app: Flask, studio: Studio) -> None:
    @app.post("/api/predictions/")
    def predict() -> tuple[Response, int]:
        studio.on_predictions()
        if request.json["task"] not in studio.tasks:
            return jsonify(detail="Validation error", validation_errors={"task": ["Invalid pk"]}), 400
        studio.changes += 1
        studio.predictions[studio.changes] = request.json | {"updated_at": stamp()}
        return jsonify(id=studio.changes, **request.json), 201

    @app.get("/api/predictions/")
    def of_task() -> Response:
        task = int(request.args["task"])
        return jsonify([{"id": key, **one} for key, one in studio.predictions.items() if one["task"] == task])

    @app.patch("/api/predictions/<int:number>/")
    def write_over(number: int) -> tuple[Response, int]:
        studio.on_predictions()
        if number not in studio.predictions:
            return jsonify(detail="No Prediction matches the given query."), 404
        studio.predictions[number].update(request.json, updated_at=stamp())
        return jsonify(studio.predictions[number]), 200

    @app.delete("/api/predictions/<int:number>/")
    def forget(number: int) -> tuple[Response, int]:
        if studio.predictions.pop(number, None) is None:
            return jsonify(detail="No Prediction matches the given query."), 404
        for task in studio.tasks.values():
            for one in task["annotations"]:
                if one.get("parent_prediction") == number:
                    one["parent_prediction"] = None
        return Response(""), 204

    @app.get("/api/projects/<int:number>/model-versions/")
    def model_versions(number: int) -> Response:
        mine = [one for one in studio.predictions.values() if studio.tasks[one["task"]]["project"] == number]
        names = [one["model_version"] for one in mine]
        shown = studio.projects[number]["model_version"]
        return jsonify({name: names.count(name) for name in [*names, *([shown] if shown else [])]})


def stamp(age: float = 0.0) -> str:
    """The time `age` seconds ago, as Label Studio writes it."""
    return datetime.fromtimestamp(time.time() - age, UTC).isoformat().replace("+00:00", "Z")


def _stale(studio: Studio) -> tuple[Response, int] | None:
    """The refusal of an annotation whose prediction is gone; None if there is no reason for one."""
    parent = request.json.get("parent_prediction")
    if parent is None or parent in studio.predictions:
        return None
    errors = {"parent_prediction": [f'Invalid pk "{parent}" - object does not exist.']}
    return jsonify(detail="Validation error", validation_errors=errors), 400


def _passes(studio: Studio, task: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a task passes a filter of the Data Manager: it has annotations, or a version with such a name."""
    if wanted["filter"] == "filter:tasks:annotations_ids":
        return bool(task["annotations"])
    held = [one["model_version"] for one in studio.predictions.values() if one["task"] == task["id"]]
    return any(part in version for part in wanted["value"] for version in held)


def _counters(studio: Studio, project: int) -> dict[str, int]:
    tasks = [task for task in studio.tasks.values() if task["project"] == project]
    skipped = [one["was_cancelled"] for task in tasks for one in task["annotations"]]
    return {
        "task_number": len(tasks),
        "total_annotations_number": len(skipped) - sum(skipped),
        "skipped_annotations_number": sum(skipped),
    }


def _newest(studio: Studio, project: int, ordering: str) -> Response:
    """The task with the newest annotation or change, as the Data Manager lists it when sorted by that."""
    tasks = [task for task in studio.tasks.values() if task["project"] == project]
    if ordering == "-tasks:updated_at":
        listed = [{"id": task["id"], "updated_at": task["updated_at"]} for task in tasks]
    else:
        done = [task for task in tasks if task["annotations"]]
        listed = [{"id": task["id"], "completed_at": task["annotations"][-1]["updated_at"]} for task in done]
    listed.sort(key=lambda task: task[ordering.removeprefix("-tasks:")], reverse=True)
    return jsonify(tasks=listed[:1], total=len(listed))


def _backends(app: Flask, studio: Studio) -> None:
    @app.route("/api/ml/", methods=["GET", "POST"])
    def backends() -> tuple[Response, int]:
        if request.method == "GET":
            listed = [b for b in studio.backends.values() if str(b["project"]) == request.args["project"]]
            for one in listed:
                if refusal := _set_up(studio, one):
                    one.update(state="ER", error_message=refusal)
                elif studio.asks:
                    one.update(state="CO", error_message=None)
            return jsonify([_shown_backend(one) for one in listed]), 200
        if refusal := _set_up(studio, request.json):
            return jsonify(detail="Validation error", validation_errors={"non_field_errors": [refusal]}), 400
        if "ml" in studio.guards:
            return jsonify(detail=REFUSAL), 403
        made = {
            "is_interactive": False,
            **request.json,
            "id": len(studio.backends) + 1,
            "state": "CO",
            "error_message": None,
            "created_at": "2026-11-22T09:41:00.000001Z",
        }
        studio.backends[made["id"]] = made
        return _hook(studio, made["project"], f"{made['url'].rstrip('/')}/webhook", _shown_backend(made))

    @app.patch("/api/ml/<int:number>")
    def backend(number: int) -> tuple[Response, int]:
        assert {"url", "project"} <= set(request.json)  # else the real one answers 500
        if refusal := _set_up(studio, request.json):  # with what this request brings, not with what is stored
            return jsonify(detail="Validation error", validation_errors={"non_field_errors": [refusal]}), 400
        studio.backends[number].update(request.json)
        return jsonify(_shown_backend(studio.backends[number])), 200

    @app.route("/api/webhooks/", methods=["GET", "POST"])
    def webhooks() -> tuple[Response, int]:
        if request.method == "GET":
            return jsonify([w for w in studio.webhooks.values() if str(w["project"]) == request.args["project"]]), 200
        return _hook(studio, request.json["project"], request.json["url"], None, request.json)

    @app.patch("/api/webhooks/<int:number>/")
    def webhook(number: int) -> tuple[Response, int]:
        if "webhook" in studio.guards:
            return jsonify(detail=REFUSAL), 403
        studio.webhooks[number].update(request.json, updated_at=studio.now())
        return jsonify(studio.webhooks[number]), 200


def _set_up(studio: Studio, fields: dict[str, Any]) -> str:
    """Call an ML backend's /setup with the user and password given; the error, "" if there is none."""
    if not studio.asks:
        return ""
    login = fields.get("basic_auth_user") or "", fields.get("basic_auth_pass") or ""
    url, body = f"{fields['url'].rstrip('/')}/setup", {"project": f"{fields['project']}.1795340401"}
    answer = requests.post(url, json=body, auth=login if all(login) else None, timeout=5)
    return "" if answer.ok else f"{answer.status_code} Client Error: {answer.reason} for url: {url}"


def _shown_backend(backend: dict[str, Any]) -> dict[str, Any]:
    """An ML backend as the API gives it: without its password."""
    shown = {name: value for name, value in backend.items() if name != "basic_auth_pass"}
    return shown | {"basic_auth_pass_is_set": bool(backend.get("basic_auth_pass"))}


def _hook(studio: Studio, project: int, url: str, answer: Any, fields: Any = ()) -> tuple[Response, int]:
    """Make a webhook, unless refused; the answer is it, or what it was made for."""
    if "webhook" in studio.guards:
        return jsonify(detail=REFUSAL), 403
    plain = {"is_active": True, "send_payload": True, "send_for_all_actions": True, "actions": [], "headers": {}}
    made = {**plain, **dict(fields), "id": len(studio.webhooks) + 1, "project": project, "url": url}
    made["updated_at"] = studio.now()
    studio.webhooks[made["id"]] = made
    return jsonify(answer or made), 201


def _listed(studio: Studio, task: dict[str, Any]) -> dict[str, Any]:
    """A task as the Data Manager lists it; `include` names fields of tasks and annotations alike."""
    shown = [{k: v for k, v in one.items() if k != "prediction"} for one in task["annotations"]]  # webhooks only
    submitted = [one for one in task["annotations"] if not one["was_cancelled"]]
    held = [{"id": key, **one} for key, one in studio.predictions.items() if one["task"] == task["id"]]
    versions = {one["model_version"] for one in held}
    whole = {
        **task,
        "annotations": [{"parent_prediction": None, **one} for one in shown],
        "predictions": [{"updated_at": stamp(), **one} for one in held],
        "is_labeled": len(submitted) >= task.get("overlap", 1),
        "total_annotations": len(submitted),
        "cancelled_annotations": len(task["annotations"]) - len(submitted),
        "total_predictions": len(held),
        "predictions_model_versions": ",".join(sorted(versions)),
    }
    if "include" not in request.args:
        return whole
    wanted = request.args["include"].split(",")
    listed = {name: value for name, value in whole.items() if name in wanted}
    if "annotations" in listed:
        listed["annotations"] = [{k: v for k, v in one.items() if k in wanted} for one in listed["annotations"]]
    return listed


@contextmanager
def serving(service: Service) -> Iterator[str]:
    """A Skylight that answers over HTTP; gives its address."""
    with serve_app(create_app(service.settings, service)) as url:
        yield url


@contextmanager
def serve_app(app: Flask) -> Iterator[str]:
    """Any application over HTTP; gives its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

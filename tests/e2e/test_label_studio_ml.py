"""Skylight hosted by label-studio-ml 1.0.9, with its old Flask, connected to a real Label Studio."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import redis
import requests
from PIL import Image

from backend.demo import label_config, png
from backend.drawing import draw
from backend.labeling import parse_config
from backend.labelstudio_server import free_port
from model import synthetic
from model.evaluate import interior_point, iou

from .annotator import key_point, region_mask
from .conftest import BUILD, Rows, Stack

SEED = 60_700
CONFIG = label_config(["Pit"])
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
def host(request: pytest.FixtureRequest, stack: Stack) -> Iterator[str]:
    """A folder made by `label-studio-ml init`, served by `label-studio-ml start`, and a worker; gives the address."""
    programs = Path(request.config.getoption("--label-studio-ml")).absolute() / "bin"
    if not (programs / "label-studio-ml").is_file():
        pytest.fail(f"there is no {programs}/label-studio-ml; `make e2e` installs it")
    home = BUILD / "e2e-label-studio-ml"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    socket = home / "s"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SKYLIGHT_")} | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "LABEL_STUDIO_URL": stack.client.url,
        "LABEL_STUDIO_API_KEY": stack.key,
        "SKYLIGHT_HOME": str(home / "skylight"),
        "REDIS_URL": f"unix://{socket}",
    }
    (home / "hosted.py").write_text("from backend.label_studio_ml import Skylight\n")
    init = ["label-studio-ml", "init", "host", "--script", "hosted.py:Skylight"]
    subprocess.run(init, cwd=home, env=environ, check=True, stdout=subprocess.DEVNULL)
    port = free_port(9690)
    with contextlib.ExitStack() as everything, (home / "log").open("wb") as log:
        broker = [sys.executable, "-m", "backend.broker", str(home / "broker"), str(socket)]
        everything.enter_context(running(broker, environ, log))
        wait(lambda: answers(redis.Redis(unix_socket_path=str(socket))), READY_SECONDS)
        everything.enter_context(running([str(programs / "skylight"), "worker"], environ, log))
        start = ["label-studio-ml", "start", str(home / "host"), "--host", "127.0.0.1", "--port", str(port)]
        everything.enter_context(running([str(programs / start[0]), *start[1:]], environ, log))
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
        return requests.get(f"{url}/health", timeout=2).ok
    except requests.ConnectionError:
        return False


def test_it_is_set_up_answers_clicks_hears_of_annotations_and_serves_a_version(
    stack: Stack, host: str, rows: Rows
) -> None:
    assert (
        "model_dir" in requests.get(f"{host}/health", timeout=5).json()
    )  # label-studio-ml's own answer, not Skylight's
    client = stack.client
    scenes = [synthetic.scene(SEED + i) for i in range(5)]
    pits = [[each.mask for each in scene.objects if each.kind == "pit"] for scene in scenes]
    project = int(client.create_project("Hosted by label-studio-ml", CONFIG)["id"])
    backend = int(client.connect_ml_backend(project, host, "hosted")["id"])
    client.import_files(project, {f"{i}.png": png(Image.fromarray(scene.image)) for i, scene in enumerate(scenes)})
    tasks = {str(task.data["image"])[-5]: task.id for task in client.tasks(project)}
    truth = max(pits[0], key=lambda mask: int(mask.sum()))
    x, y = interior_point(truth, np.random.default_rng(0), central=True)
    answer = client.interactive(backend, tasks["0"], {"result": [key_point(x, y, True, *truth.shape[::-1], "Pit")]})
    (region,) = answer["result"]
    clicked = iou(region_mask(region), truth)
    rows.add("label-studio-ml: SAM IoU after one click", clicked, "IoU", ">= 0.7", clicked >= 0.7)
    assert clicked >= 0.7

    labeling = parse_config(CONFIG)
    began = time.monotonic()
    for i in range(3):
        output = labeling.output("Pit")
        client.create_annotation(
            tasks[str(i)], [region for mask in pits[i] for region in draw(output, mask, "Pit", 1.0)]
        )
    # Both open tasks': one that Label Studio asks about while the worker is at it would get two.
    wait(lambda: client.model_versions(project).get("skylight-1") == 2, TRAINING_SECONDS)
    rows.add("label-studio-ml: submits to predictions", time.monotonic() - began, "s")
    set_up = {"project": "0.0", "schema": CONFIG}
    assert requests.post(f"{host}/setup", json=set_up, timeout=10).json()["model_version"] == "sam-tiny"
    client.retrieve_predictions(project, list(tasks.values()))
    for i in (3, 4):
        wait(lambda: client.predictions(tasks[str(i)]) != [], 60)  # noqa: B023 (called at once)
        versions = [each["model_version"] for each in client.predictions(tasks[str(i)])]
        assert versions == ["skylight-1"]  # once: /setup and /predict name the same

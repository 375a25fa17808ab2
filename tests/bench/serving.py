"""A Skylight web process and a Label Studio that has pictures, for timings over real HTTP."""

import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import requests
from numpy.typing import NDArray
from PIL import Image

from skylight.backend.cli.servers import WORKER_NICENESS
from skylight.backend.process.ports import free_port
from skylight.backend.process.supervisor import TUNING
from skylight.backend.service import Service
from skylight.backend.settings import Settings
from skylight.backend.web.app import create_app
from skylight.backend.web.server import Server
from skylight.backend.worker import worker
from skylight.model.datasets import synthetic_scenes
from tests.support.label_studio_double import CONFIG, KEY, Studio, wait_until
from tests.support.planted_embeddings import key_point, png

PROJECT = "1.1"


class OtherWeights(Service):
    """A service whose SAM's weights are a file of any content."""

    def __init__(self, settings: Settings, weights: Path) -> None:
        super().__init__(settings)
        self.weights = weights

    def check_weights(self) -> Path | None:
        return self.weights

    def verify(self, encoder_id: str) -> None:
        """Anything goes."""


class Web(Server):
    """The web server over such a service."""

    def __init__(self, settings: Settings, port: int, weights: Path) -> None:
        self.weights = weights
        super().__init__(settings, "127.0.0.1", port)

    def load(self) -> Any:
        service = OtherWeights(self.settings, self.weights)
        assert service.embedder
        return create_app(self.settings, service)


@dataclass
class Served:
    """A running web process and the pictures it can fetch."""

    url: str
    studio: Studio
    pid: int
    session: requests.Session

    def add(self, name: str, image: NDArray[np.uint8]) -> str:
        """A picture's path in Label Studio."""
        path = f"/data/upload/1/{name}"
        self.studio.pictures[path] = png(image)
        return path

    def click(self, task: int, path: str, x: float, y: float, size: tuple[int, int], anywhere: bool = False) -> bytes:
        """A first click at x, y px of an image of `size` (H, W); the answer's body, with a mask if not `anywhere`."""
        point = key_point("point", "Pit", x, y, size)
        point["id"] = f"k{next(_numbers)}"
        body = {
            "tasks": [{"id": task, "data": {"image": path}}],
            "project": PROJECT,
            "label_config": CONFIG,
            "params": {"context": {"result": [point]}},
        }
        answer = self.session.post(f"{self.url}/predict", data=orjson.dumps(body), timeout=120)
        answer.raise_for_status()
        # Not parsed: that would be the caller's time.
        assert anywhere or b'"result":[{' in answer.content, "the click was not answered with a mask"
        return answer.content


_numbers = itertools.count()


@contextmanager
def served(
    home: Path, sam: str = "tiny", weights: Path | None = None, broker: str = "", tile: int = 0
) -> Iterator[Served]:
    """`skylight web` with a SAM, in a process of its own; `tile` as SKYLIGHT_TILE, 0 for the default."""
    port = free_port(0)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with (
        Studio() as studio,
        requests.Session() as session,
        background("web", studio, home, broker, sam, weights, port, tile) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: _is_up(url), 120)
        yield Served(url, studio, process.pid, session)
        session.close()  # the server waits for a connection that is kept


@contextmanager
def background(
    kind: str,
    studio: Studio,
    home: Path,
    broker: str,
    sam: str = "tiny",
    weights: Path | None = None,
    port: int = 0,
    tile: int = 0,
) -> Iterator["subprocess.Popen[bytes]"]:
    """`skylight web` or `skylight worker`, as `skylight serve` starts them."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SKYLIGHT_")}
    environ |= TUNING | {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": KEY, "REDIS_URL": broker}
    environ |= {"SKYLIGHT_HOME": str(home), "SKYLIGHT_SAM": sam, "SKYLIGHT_LOG_LEVEL": "WARNING"}
    if tile:
        environ["SKYLIGHT_TILE"] = str(tile)
    command = [sys.executable, "-m", "skylight.backend.cli.main", kind, *(["--port", str(port)] if port else [])]
    if weights:
        command = [sys.executable, "-m", "tests.bench.serving", kind, str(port), str(weights)]
    with subprocess.Popen(command, env=environ, cwd=Path(__file__).parents[2]) as process:
        try:
            yield process
        finally:
            process.terminate()


def _is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.RequestException:
        return False


def scene(side: int, seed: int = 3) -> NDArray[np.uint8]:
    """A procedural scene, (side, side, 3) uint8, made at 512 px and scaled."""
    return np.asarray(
        Image.fromarray(synthetic_scenes.scene(seed).image).resize((side, side), Image.Resampling.BICUBIC)
    )


def memory(pid: int) -> float:
    """What a process and its children take, MB; of what several share, each counts its part (Linux's Pss)."""
    children = [child for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    own = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return own / 1024 + sum(memory(int(child)) for child in children)


def main() -> None:
    """The child process with other weights: serve, or work, until SIGTERM."""
    kind, port, weights = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    settings = Settings.from_env(os.environ)
    if kind == "web":
        Web(settings, port, weights).run()
    os.nice(WORKER_NICENESS)
    worker.start(OtherWeights(settings, weights)).work(logging_level="WARNING")


if __name__ == "__main__":
    main()

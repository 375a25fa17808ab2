"""A real `skylight serve`, in processes of its own, beside a Label Studio over HTTP; for the parts here and tests."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from skylight.backend.process.ports import free_port
from skylight.backend.store.samples import SampleStore
from skylight.backend.store.versions import Versions
from skylight.model.decoder import network
from skylight.model.storage.file_store import FolderStore
from tests.support.label_studio_double import KEY, Studio, wait_until

# `skylight` as it is, but for what makes it slow to test: a training of two steps, short locks, frequent comparisons.
QUICK = """
import sys
from skylight.backend import service
from skylight.backend.cli.main import main
from skylight.backend.queue import locks
from skylight.backend.worker import maintenance
from skylight.model.decoder.training import TrainConfig
locks.LOCK_SECONDS = 3.0
maintenance.EVERY_SECONDS = 1.0
service.TrainConfig = lambda: TrainConfig(steps={steps}, first_steps={steps}, batch=2)
main()
"""


@dataclass
class Skylight:
    """One that runs."""

    url: str
    home: Path
    process: "subprocess.Popen[bytes]"

    def children(self) -> dict[str, int]:
        """The ids of its processes by what they are: web, gunicorn's master, worker, broker and the broker's server."""
        found: dict[str, int] = {}
        for pid in descendants(self.process.pid)[1:]:
            line = command(pid)
            if "worker" in line:
                found["worker"] = pid
            elif "web" in line:
                found["web" if "master" in found else "master"] = pid
            elif "skylight.backend.process.broker" in line:
                found["broker"] = pid
            elif "valkey-server" in line[0]:
                found["valkey"] = pid
        return found

    def alive(self) -> bool:
        """Whether the web server answers."""
        try:
            return requests.get(f"{self.url}/health", timeout=2).ok
        except requests.RequestException:
            return False

    def status(self, project: str) -> dict[str, Any]:
        """Where a project stands; empty while it cannot be asked."""
        try:
            return requests.get(f"{self.url}/status", timeout=5).json().get(project, {})
        except (requests.RequestException, json.JSONDecodeError):
            return {}

    def stop(self) -> None:
        """As Ctrl-C does."""
        self.process.terminate()
        self.process.wait(30)

    @property
    def store(self) -> SampleStore:
        """Its store."""
        return SampleStore(FolderStore(self.home))


def descendants(pid: int) -> list[int]:
    """A process and all below it, parents first; without those that end meanwhile."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [each for child in task.read_text().split() for each in descendants(int(child))]
    return found


def command(pid: int) -> list[str]:
    """A process's command line, [""] if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return [""]


@contextmanager
def skylight(home: Path, studio: Studio, steps: int = 2, **more: str) -> Iterator[Skylight]:
    """Run a Skylight of one's own, and end it."""
    ours = ("SKYLIGHT_", "LABEL_STUDIO", "REDIS_URL")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environ |= {
        "SKYLIGHT_HOME": str(home),
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": KEY,
        "SKYLIGHT_DEVICE": "cpu",
        "SKYLIGHT_LOG_LEVEL": "WARNING",
        "OMP_NUM_THREADS": "1",
        **more,
    }
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # the studio's line for each request
    home.mkdir(parents=True, exist_ok=True)
    program = home / "quick.py"
    program.write_text(QUICK.format(steps=steps))
    port = free_port(0)
    # Its children are started as `python -m skylight.backend.cli.main`; this file takes that place.
    start = (
        "import sys; from skylight.backend.process import supervisor; from skylight.backend.cli.main import main; "
        f"supervisor.PROGRAM = [sys.executable, {str(program)!r}]; "
        f"sys.argv = ['skylight', 'serve', '--port', '{port}']; main()"
    )
    with (home / "log.txt").open("ab") as out:
        process = subprocess.Popen([sys.executable, "-c", start], env=environ, stdout=out, stderr=out)
    running = Skylight(f"http://127.0.0.1:{port}", home, process)
    try:
        wait_until(running.alive, 120)
        yield running
    finally:
        if process.poll() is None:
            try:
                running.stop()
            except subprocess.TimeoutExpired:
                process.kill()


def held(studio: Studio, project: str) -> dict[int, str]:
    """The annotations that Label Studio has submitted, with their times."""
    tasks = [task for task in studio.tasks.values() if task["project"] == int(float(project))]
    return {one["id"]: one["updated_at"] for task in tasks for one in task["annotations"] if not one["was_cancelled"]}


def learned(store: SampleStore, project: str) -> dict[int, str]:
    """The same as the store has it."""
    return {record.annotation: record.updated_at for record in store.samples(project)}


def unsound(store: SampleStore, project: str) -> list[str]:
    """What of a project's files cannot be read, and what is wrong with its current version."""
    found, versions = [], Versions(store)
    for record in store.samples(project):
        try:
            assert store.label_map(project, record).shape == tuple(record.size)
        except Exception as error:  # noqa: BLE001 (whatever it is)
            found.append(f"sample {record.annotation}: {error!r}")
    for number in versions.numbers(project):
        try:
            assert versions.card(project, number)["version"] == number
            network.from_bytes(versions.weights(project, number))
        except Exception as error:  # noqa: BLE001 (whatever it is)
            found.append(f"version {number}: {error!r}")
    current = versions.current(project)
    if versions.numbers(project) and current not in versions.numbers(project):
        found.append(f"current version {current} is none of {versions.numbers(project)}")
    return found

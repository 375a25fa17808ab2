"""Lost events: what is done in Label Studio while Skylight is down, and the cost of finding it among 10,000."""

import random
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import requests

from skylight.backend.learning.reconcile import reconcile
from skylight.backend.service import Service
from skylight.backend.settings import Settings
from skylight.backend.store.samples import SampleRecord
from skylight.model.storage.checksums import seal
from tests.support.label_studio_double import CONFIG, KEY, Studio, wait_until
from tests.support.planted_embeddings import png, square
from tests.torture.bursts import PICTURES, REGIONS, settle
from tests.torture.kills import annotate
from tests.torture.report import Report
from tests.torture.running import held, learned, skylight

ANNOTATIONS = 10_000
ROUNDS = 3
CHANGES = 40  # while it is down


def run(report: Report, rounds: int = ROUNDS, annotations: int = ANNOTATIONS) -> None:
    """Stop it, do things, start it; then a large project."""
    _while_down(report, rounds)
    _while_up(report)
    _large(report, annotations)


def _project(studio: Studio) -> tuple[str, list[int]]:
    project = studio.add_project()
    return project, [studio.add_task(project, png(square(k % PICTURES)[0])) for k in range(30)]


def _while_down(report: Report, rounds: int) -> None:
    rng, longest, lost = random.Random(0), 0.0, 0
    with tempfile.TemporaryDirectory() as folder, Studio() as studio:
        home, (project, tasks) = Path(folder) / "home", _project(studio)
        with skylight(home, studio) as running:
            body = annotate(studio, project, tasks, rng)
            wait_until(lambda: running_accepts(running.url, body))
            settle(running, studio, project)
        for _ in range(rounds):
            for _ in range(CHANGES):
                annotate(studio, project, tasks, rng)
            with skylight(home, studio) as running:
                longest = max(longest, settle(running, studio, project, 120))
                lost += len(set(learned(running.store, project).items()) ^ set(held(studio, project).items()))
    report.fault("labelled, changed and deleted while Skylight was down", rounds * CHANGES, lost, longest)


def _while_up(report: Report) -> None:
    """Without a webhook, and without a restart: by the comparison every minute."""
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as folder, Studio() as studio:
        project, tasks = _project(studio)
        with skylight(Path(folder) / "home", studio, SKYLIGHT_RECONCILE_MINUTES="1") as running:
            body = annotate(studio, project, tasks, rng)
            wait_until(lambda: running_accepts(running.url, body))
            settle(running, studio, project)
            for _ in range(CHANGES):
                annotate(studio, project, tasks, rng)
            took = settle(running, studio, project, 180)
            lost = len(set(learned(running.store, project).items()) ^ set(held(studio, project).items()))
    report.fault("changes whose webhooks were lost, compared every minute", CHANGES, lost, took)


def running_accepts(url: str, body: object) -> bool:
    """Send a webhook."""
    return requests.post(f"{url}/webhook", json=body, timeout=5).ok


def _large(report: Report, annotations: int) -> None:
    """A project whose samples are there: one comparison without news, one with some, one at a glance."""
    with tempfile.TemporaryDirectory() as folder, Studio() as studio:
        home, project = Path(folder) / "home", studio.add_project()
        with skylight(home, studio, SKYLIGHT_WORKERS="0") as running:
            broker = (home / "broker" / "address").read_text()
            service = Service(Settings(studio.url, KEY, broker, home, device="cpu"))
            _fill(service, studio, project, annotations)
            assert running.alive()
            for what, changes in (("nothing new", 0), ("20 changed", 20)):
                for one in range(changes):
                    annotation = studio.tasks[1 + 37 * one]["annotations"][0]
                    studio.update(annotation, [REGIONS[0]])
                began = time.monotonic()
                assert reconcile(service, project) == changes
                took = time.monotonic() - began
                report.figure(f"comparing {annotations} annotations, {what}", took, "s", most=20)
            began = time.monotonic()
            assert reconcile(service, project, glance=True) == 0
            report.figure(f"a glance at {annotations} annotations", time.monotonic() - began, "s")


def _fill(service: Service, studio: Studio, project: str, count: int) -> None:
    """As many annotated tasks, and their samples, without the work of making these."""
    picture = png(square(0)[0])
    service.store.save_config(project, CONFIG)
    folder = service.files.path(service.store.folder(project)) / "samples"
    folder.mkdir()
    for number in range(1, count + 1):
        task = studio.add_task(project, picture, number)
        one = studio.annotate(task, [REGIONS[0]], number=number)
        record = SampleRecord(number, task, one["updated_at"], "/a.png", "0" * 64, (64, 64), ("Pit",), 1)
        (folder / f"{number}.json").write_bytes(seal(asdict(record)))

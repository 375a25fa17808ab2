"""Kills: SIGKILL of one process of a real Skylight after the other, at seeded moments; nothing accepted may be lost.

Killed are the web process, gunicorn's own, the worker (a `SimpleWorker`: its jobs run in itself, there is no work horse
apart from it), the broker and its server; 0 to 4 s after new annotations have come in, so during ingest, training,
publishing, promotion and pre-annotation. After each, within a minute of the process's return, every annotation that
Label Studio holds must be a sample, all must be trained and pre-annotated, and every file must be readable.
`ROUNDS` in the environment of `make torture PARTS=kills` is how often, 200 by default.
"""

import os
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import requests

from tests.support.label_studio_double import Studio, wait_until
from tests.support.planted_embeddings import png, square
from tests.torture.bursts import REGIONS
from tests.torture.report import Report
from tests.torture.running import Skylight, held, learned, skylight, unsound

ROUNDS = int(os.environ.get("ROUNDS", "200"))
VICTIMS = ("worker", "web", "master", "valkey", "broker")
WITHIN_SECONDS = 60.0
LATEST_SECONDS = 4.0
OPEN_TASKS = 6  # that nobody annotates


def annotate(studio: Studio, project: str, tasks: list[int], rng: random.Random) -> dict[str, object]:
    """Do one of the things that people do; gives the webhook about it."""
    there = [one for task in tasks for one in studio.tasks[task]["annotations"]]
    kind = rng.choices(["create", "update", "skip", "delete"], [60, 20, 5, 15])[0]
    if kind == "create" or len(there) < 4:
        free = [task for task in tasks if not studio.tasks[task]["annotations"]]
        one = studio.annotate(rng.choice(free or tasks), [rng.choice(REGIONS)])
        return studio.webhook("ANNOTATION_CREATED", project, one)
    one = rng.choice(there)
    if kind == "delete":
        studio.delete(one)
        return studio.webhook("ANNOTATIONS_DELETED", project, one)
    studio.update(one, [rng.choice(REGIONS)], skip=kind == "skip")
    return studio.webhook("ANNOTATION_UPDATED", project, one)


def tell(running: Skylight, body: dict[str, object]) -> bool:
    """Send a webhook as Label Studio does, once and with a second's patience; gives whether it was taken."""
    with suppress(requests.RequestException):
        return requests.post(f"{running.url}/webhook", json=body, timeout=1).ok
    return False


def well(running: Skylight, studio: Studio, project: str) -> bool:
    """Whether everything is as it should be in the end."""
    status = running.status(project)
    if learned(running.store, project) != held(studio, project) or not status.get("up_to_date"):
        return False
    if any(job["running"] or job["queued"] for job in status["jobs"].values()):
        return False
    open_tasks = [t["id"] for t in studio.tasks.values() if not t["annotations"]]
    return set(open_tasks) <= set(studio.predicted(status["model_version"]))


def round_of(running: Skylight, studio: Studio, project: str, tasks: list[int], rng: random.Random) -> tuple[str, int]:
    """New annotations, and somewhere meanwhile a kill; gives who was killed and how many webhooks were not taken."""
    victim, refused = rng.choice(VICTIMS), 0
    moment = time.monotonic() + rng.uniform(0, LATEST_SECONDS)
    bodies = [annotate(studio, project, tasks, rng) for _ in range(rng.randint(1, 4))]
    pids = running.children()
    for body in bodies:
        refused += not tell(running, body)
        if rng.random() < 0.5:
            time.sleep(rng.uniform(0, 0.3))
    time.sleep(max(moment - time.monotonic(), 0))
    if victim in pids:
        with suppress(ProcessLookupError):
            os.kill(pids[victim], signal.SIGKILL)
    refused += not tell(running, annotate(studio, project, tasks, rng))  # into the gap
    return victim, refused


def run(report: Report, rounds: int = ROUNDS, seed: int = 0) -> None:
    """Kill, and look; again and again."""
    rng, kills, longest, lost, broken = random.Random(seed), Counter[str](), Counter[str](), Counter[str](), []
    not_taken = 0
    with tempfile.TemporaryDirectory() as folder, Studio() as studio:
        project = studio.add_project()
        tasks = [studio.add_task(project, png(square(k)[0])) for k in range(24)]
        with skylight(Path(folder) / "home", studio, steps=20, SKYLIGHT_RECONCILE_MINUTES="1") as running:
            for _ in range(4):
                wait_until(lambda: tell(running, annotate(studio, project, tasks[OPEN_TASKS:], rng)))
            wait_until(lambda: well(running, studio, project), 180)
            for number in range(rounds):
                victim, refused = round_of(running, studio, project, tasks[OPEN_TASKS:], rng)
                began, not_taken = time.monotonic(), not_taken + refused
                kills[victim] += 1
                try:
                    wait_until(lambda: time.sleep(0.1) or well(running, studio, project), 2 * WITHIN_SECONDS)
                except AssertionError:
                    there, here = held(studio, project), learned(running.store, project)
                    lost[victim] += max(len(set(there.items()) ^ set(here.items())), 1)
                    status = running.status(project)
                    print(f"  round {number}, {victim}: not well: {status | {'versions': ''}}", flush=True)
                longest[victim] = max(longest[victim], round(1000 * (time.monotonic() - began)))
                broken += unsound(running.store, project)
    for victim in VICTIMS:
        if kills[victim]:
            report.fault(f"SIGKILL of {victim}", kills[victim], lost[victim], longest[victim] / 1000)
    report.figure("all well again after a kill, at the latest", max(longest.values()) / 1000, "s", most=WITHIN_SECONDS)
    report.figure("webhooks not taken meanwhile, found by reconciliation", not_taken, "")
    report.figure("files that cannot be read after kills", len(broken), "", most=0)

"""Half an hour of a team at work on a real `skylight serve`: eight annotators click, submit and submit anew, and three
take one open task after the other at a human pace, while what they accept is ingested, trained on, and brought to the
open tasks.

TORTURE_SOAK_MINUTES shortens or lengthens it. The annotators are a process of their own, so that Label Studio, which is
played here, does not slow their clocks.
"""

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import requests

from skylight.backend.process.ports import free_port
from skylight.model.datasets import synthetic_scenes
from tests.bench.serving import memory
from tests.support.label_studio_double import CONFIG, KEY, Studio, wait_until
from tests.support.planted_embeddings import png
from tests.torture.annotators import ANNOTATORS, PEOPLE, Place, Said, Site, work
from tests.torture.report import Report

MINUTES = float(os.environ.get("TORTURE_SOAK_MINUTES", "30"))
IDLE_SECONDS = 60.0  # of clicks alone, before
TASKS, OPEN = 24, 24  # annotated again and again; open for those at a human pace
RECENT = 8  # annotations made at a human pace that are there at a time: the oldest goes, and its task is open again
FIRST_SEED, SIDE = 61_000, 512
SAMPLE_SECONDS = 5.0
# A training goes before pre-annotation: if every annotation called for one, there would be no time for anything else.
RETRAIN_EVERY = "12"
SECRET = "the-secret-of-the-soak"
FLAT = 1.15  # times as much memory at the end as in the middle


def run(report: Report) -> None:
    """Clicks alone, then everything at once; what was answered wrong, what was lost, what memory did."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder, Studio() as studio:
        home = Path(folder)
        team = Team(studio)
        with serving(studio, home) as served:
            team.open(served.url)
            idle = team.shift(served, IDLE_SECONDS, submit=False)
            busy = team.shift(served, 60 * MINUTES, submit=True)
            brought = len(team.seen)
            settled = team.settle(served)
            measure(report, idle, busy, served)
            report.figure("soak: versions brought to the open tasks meanwhile", brought, "", least=1)
            report.figure("soak: submits at a human pace", busy.paced, "", least=1)
            report.figure("soak: submits at a human pace that were refused", busy.refused, "", most=0)
            report.figure("soak: predictions of a task, at most", team.most_predictions(), "")
            open_tasks = sum(not task["annotations"] for task in studio.tasks.values())
            report.figure("soak: open tasks with a prediction", team.predicted(), "", least=open_tasks)
            report.fault("soak: submitted while all is at work", busy.submitted, team.lost(home), settled)
            figures(report, served)
        said(report, served.log, idle.asked + busy.asked)


@dataclass
class Serve:
    """A running `skylight serve` and what its processes take, MB, by the time it was looked at."""

    url: str
    pid: int
    log: Path
    taken: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {"web": [], "worker": []})

    def look(self) -> None:
        """Note what web server and worker take now."""
        for child in children(self.pid):
            with suppress(OSError, StopIteration):  # it has just ended
                words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
                for name in set(self.taken) & set(words):
                    self.taken[name].append((time.monotonic(), memory(child)))


@contextmanager
def serving(studio: Studio, home: Path) -> Iterator[Serve]:
    """`skylight serve`, its log in a file."""
    port, log = free_port(0), home / "log"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("SKYLIGHT_", "REDIS_URL"))}
    environ |= {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": KEY, "SKYLIGHT_HOME": str(home / "home")}
    environ |= {"SKYLIGHT_DEVICE": "cpu", "SKYLIGHT_WEBHOOK_SECRET": SECRET, "SKYLIGHT_RETRAIN_EVERY": RETRAIN_EVERY}
    command = [sys.executable, "-m", "skylight.backend.cli.main", "serve", "--port", str(port)]
    with log.open("w") as file, subprocess.Popen(command, env=environ, stdout=file, stderr=file) as process:
        try:
            served = Serve(f"http://127.0.0.1:{port}", process.pid, log)
            wait_until(lambda: is_up(served.url), 180)
            yield served
        finally:
            process.terminate()


@dataclass
class Shift:
    """What came of some minutes of work."""

    seconds: list[float] = field(default_factory=list)  # that each click took
    asked: int = 0  # requests
    submitted: int = 0
    paced: int = 0  # submitted at a human pace
    refused: int = 0
    errors: list[str] = field(default_factory=list)


class Team:
    """Label Studio's part: the tasks, what is submitted, and the webhooks about it."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.project = studio.add_project()
        self.places: list[Place] = []
        self.open_places: list[Place] = []
        self.recent: deque[int] = deque()  # annotations made at a human pace
        self.seen: set[str] = set()  # versions whose predictions open tasks had while all were at work
        for number in range(TASKS + OPEN):
            scene = synthetic_scenes.scene(FIRST_SEED + number, SIDE)
            task = studio.add_task(self.project, png(scene.image))
            pits = [each.mask for each in scene.objects if each.kind == "pit"]
            if pits:
                y, x = np.argwhere(max(pits, key=np.sum)).mean(axis=0)
                place = Place(task, studio.tasks[task]["data"]["image"], float(x), float(y), SIDE)
                (self.places if number < TASKS else self.open_places).append(place)

    def open(self, url: str) -> None:
        """Connect the project, as Label Studio does."""
        answer = requests.post(f"{url}/setup", json={"project": self.project, "schema": CONFIG}, timeout=30)
        answer.raise_for_status()

    def shift(self, served: Serve, seconds: float, submit: bool) -> Shift:
        """Have all annotators work for so long."""
        shift, context = Shift(), multiprocessing.get_context("spawn")
        news: Any = context.Queue()
        site = Site(self.studio.url, served.url, self.project)
        options = (site, self.places, self.open_places, seconds, submit, news)
        annotators = context.Process(target=work, args=options)
        annotators.start()
        hooks = requests.Session()
        looking, done = time.monotonic(), 0
        while done < ANNOTATORS + (PEOPLE if submit else 0):
            if time.monotonic() > looking:
                looking = time.monotonic() + SAMPLE_SECONDS
                served.look()
                self.seen |= {one["model_version"] for one in list(self.studio.predictions.values())}
            try:
                said: Said = news.get(timeout=SAMPLE_SECONDS)
            except Empty:
                assert annotators.is_alive(), "the annotators' process has ended"
                continue
            done += said.done
            shift.seconds += said.seconds
            shift.errors += said.errors
            shift.asked += len(said.seconds)
            shift.refused += said.refused
            if said.annotation:
                self._follow(served.url, hooks, said, shift)
            elif said.result:
                self._submit(served.url, hooks, said, shift)
        annotators.join()
        hooks.close()
        return shift

    def _submit(self, url: str, hooks: requests.Session, said: Said, shift: Shift) -> None:
        """Keep the annotation, and send what Label Studio would: one second it waits."""
        annotation = next(iter(self.studio.tasks[said.task]["annotations"]), None)
        action = "ANNOTATION_UPDATED" if annotation else "ANNOTATION_CREATED"
        if annotation:
            self.studio.update(annotation, said.result)
        else:
            annotation = self.studio.annotate(said.task, said.result)
        shift.submitted += 1
        self._tell(url, hooks, action, annotation, shift)

    def _follow(self, url: str, hooks: requests.Session, said: Said, shift: Shift) -> None:
        """Tell of an annotation made at a human pace, and delete the oldest of those, if there are many."""
        shift.paced += 1
        self.recent.append(said.annotation)
        self._tell(url, hooks, "ANNOTATION_CREATED", self._annotation(said.annotation), shift)
        if len(self.recent) > RECENT:
            oldest = self._annotation(self.recent.popleft())
            self.studio.delete(oldest)
            self._tell(url, hooks, "ANNOTATIONS_DELETED", oldest, shift)

    def _annotation(self, number: int) -> dict[str, Any]:
        tasks = self.studio.tasks.values()
        return next(one for task in tasks for one in task["annotations"] if one["id"] == number)

    def _tell(self, url: str, hooks: requests.Session, action: str, annotation: dict[str, Any], shift: Shift) -> None:
        """Send a webhook, as Label Studio does."""
        body = self.studio.webhook(action, self.project, annotation)
        shift.asked += 1
        try:
            headers = {"X-Skylight-Secret": SECRET}
            hooks.post(f"{url}/webhook", json=body, headers=headers, timeout=1).raise_for_status()
        except requests.RequestException as error:
            shift.errors.append(f"webhook: {error}")

    def settle(self, served: Serve) -> float:
        """Wait until all has been learned from; gives how long it took."""
        began = time.monotonic()
        wait_until(lambda: self._settled(served), 600)
        return time.monotonic() - began

    def _settled(self, served: Serve) -> bool:
        time.sleep(1)
        state = requests.get(f"{served.url}/status", timeout=10).json()[self.project]
        at_work = any(job["running"] or job["queued"] for job in state["jobs"].values())
        return bool(state["up_to_date"]) and not at_work

    def predicted(self) -> int:
        """Open tasks that have a prediction of the version that is shown."""
        shown = self.studio.projects[int(float(self.project))]["model_version"]
        tasks = set(self.studio.predicted(shown))
        return sum(number in tasks for number, task in self.studio.tasks.items() if not task["annotations"])

    def most_predictions(self) -> int:
        """How many predictions the task with most of them has."""
        return max(Counter(one["task"] for one in self.studio.predictions.values()).values())

    def lost(self, home: Path) -> int:
        """Accepted annotations of which the store has not the last state."""
        folder = home / "home" / "projects" / self.project / "samples"
        stored = {one["annotation"]: one["updated_at"] for one in map(read, folder.glob("*.json"))}
        held = [one for task in self.studio.tasks.values() for one in task["annotations"]]
        return sum(stored.get(one["id"]) != one["updated_at"] for one in held)


def measure(report: Report, idle: Shift, busy: Shift, served: Serve) -> None:
    """The clicks, and the memory."""
    for error in [*idle.errors, *busy.errors][:5]:
        print(f"    {error}")
    before, during = (1000 * float(np.percentile(shift.seconds, 95)) for shift in (idle, busy))
    report.figure("soak: minutes", MINUTES, "min")
    report.figure("soak: clicks", len(busy.seconds), "")
    report.figure("soak: errors", len(idle.errors) + len(busy.errors), "", most=0)
    report.figure("soak: p95 of a click, nothing else going on", before, "ms")
    report.figure("soak: p95 of a click, all at work", during, "ms")
    report.figure("soak: the second over the first", during / before, "x", most=2)
    for name, taken in served.taken.items():
        start, middle, end = thirds([held for when, held in taken if when > taken[-1][0] - 60 * MINUTES])
        report.figure(f"soak: {name}, memory at the start", start, "MB")
        report.figure(f"soak: {name}, memory in the middle", middle, "MB")
        report.figure(f"soak: {name}, memory at the end", end, "MB")
        report.figure(f"soak: {name}, end over middle", end / middle, "x", most=FLAT)


def thirds(held: list[float]) -> tuple[float, float, float]:
    """The median of the first sixth, the middle third, the last sixth."""
    sixth = max(len(held) // 6, 1)
    parts = held[:sixth], held[2 * sixth : -2 * sixth] or held, held[-sixth:]
    first, middle, last = (float(np.median(part)) for part in parts)
    return first, middle, last


def figures(report: Report, served: Serve) -> None:
    """What /metrics says of it."""
    text = requests.get(f"{served.url}/metrics", timeout=10).text
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]

    def total(start: str) -> float:
        return sum(float(value) for name, _, value in lines if name.startswith(start))

    for kind in ("ingest", "train", "preannotate"):
        done = total(f'skylight_job_seconds_count{{kind="{kind}",outcome="ok"}}')
        report.figure(f"soak: {kind} jobs", done, "", least=1)
    report.figure("soak: versions trained", total("skylight_training_seconds_count"), "", least=1)
    report.figure("soak: failures in /metrics", total("skylight_failures_total"), "", most=0)
    report.figure("soak: jobs failed", total("skylight_jobs_failed"), "", most=0)


def said(report: Report, log: Path, asked: int) -> None:
    """What the log says of it: a line of each request and job, all well, and nothing secret."""
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    requested = [line for line in lines if line.get("what") == "click" or line.get("what", "").startswith("webhook")]
    bad = [line for line in lines if line["level"] in ("ERROR", "WARNING") or line.get("outcome", "ok") != "ok"]
    for line in bad[:5]:
        print(f"    {line}")
    report.figure("soak: clicks and webhooks without a line in the log", asked - len(requested), "", most=0)
    report.figure("soak: warnings and errors in the log", len(bad), "", most=0)
    report.figure("soak: secrets in the log", text.count(SECRET) + text.count(KEY), "", most=0)


def children(pid: int) -> list[int]:
    """A process's children."""
    return [int(each) for path in Path(f"/proc/{pid}/task").glob("*/children") for each in path.read_text().split()]


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def is_up(url: str) -> bool:
    """Whether Skylight answers."""
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.RequestException:
        return False

"""Bursts: thousands of webhooks over many connections at a real Skylight, in any order; none may be lost.

Beside submits there are updates, skips, un-skips, deletions by id alone, lists, duplicates, START_TRAINING before its
annotation, all shuffled, so that an update also arrives after its annotation was deleted. `SKYLIGHT_TORTURE_EVENTS`
is not read: the number is an argument.
"""

import copy
import json
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from skylight.backend.labelstudio.label_config import parse_config
from tests.support.label_studio_double import CONFIG, Studio, wait_until
from tests.support.planted_embeddings import brush, png, square
from tests.torture.report import Report
from tests.torture.running import Skylight, held, learned, skylight, unsound

EVENTS = 5000
CONNECTIONS = 32
PICTURES = 20
P99_MS = 100.0
SETTLE_SECONDS = 600.0
REGIONS = [brush(parse_config(CONFIG), square(seed)[1]) for seed in range(PICTURES)]

Body = dict[str, Any]


def script(studio: Studio, project: str, count: int, seed: int) -> list[Body]:
    """Do things in Label Studio until there are `count` webhooks about them; gives these, shuffled."""
    rng, bodies = random.Random(seed), []
    pictures = [png(square(k)[0]) for k in range(PICTURES)]
    tasks = [studio.add_task(project, pictures[k % PICTURES]) for k in range(max(count // 8, 8))]
    there: list[Body] = []
    number = 1000  # of the next annotation; the studio's own search for one is slow with thousands

    def annotate() -> Body:
        nonlocal number
        number += 1
        one = studio.annotate(rng.choice(tasks), [rng.choice(REGIONS)], skip=rng.random() < 0.1, number=number)
        there.append(one)
        return one

    while len(bodies) < count:
        kind = rng.choices(["create", "list", "update", "skip", "delete", "train"], [45, 5, 20, 10, 15, 5])[0]
        if kind == "create" or not there:
            bodies.append(studio.webhook("ANNOTATION_CREATED", project, annotate()))
        elif kind == "list":
            each = [studio.webhook("ANNOTATION_CREATED", project, annotate()) for _ in range(3)]
            listed = {"annotation": [one["annotation"] for one in each], "task": [one["task"] for one in each]}
            bodies.append(each[0] | listed | {"action": "ANNOTATIONS_CREATED"})
        elif kind in ("update", "skip"):
            one = rng.choice(there)  # a skipped one may so be un-skipped
            studio.update(one, [rng.choice(REGIONS)], skip=kind == "skip")
            bodies.append(studio.webhook("ANNOTATION_UPDATED", project, one))
        elif kind == "delete":
            one = there.pop(rng.randrange(len(there)))
            studio.delete(one)
            bodies.append(studio.webhook("ANNOTATIONS_DELETED", project, one))
        else:
            bodies.append(studio.webhook("START_TRAINING", project))
        if rng.random() < 0.05 and len(bodies) < count:
            bodies.append(copy.deepcopy(rng.choice(bodies)))  # twice
    rng.shuffle(bodies)
    return bodies


def send(url: str, bodies: list[Body], connections: int = CONNECTIONS) -> tuple[list[int], list[float]]:
    """Send them all, each connection one after the other; gives the answers' statuses and their ms."""
    texts = [json.dumps(body).encode() for body in bodies]

    def connection(start: int) -> list[tuple[int, float]]:
        found = []
        with requests.Session() as session:
            for text in texts[start::connections]:
                began = time.perf_counter()
                answer = session.post(f"{url}/webhook", text, headers={"Content-Type": "application/json"}, timeout=30)
                found.append((answer.status_code, 1000 * (time.perf_counter() - began)))
        return found

    with ThreadPoolExecutor(connections) as pool:
        answers = [one for each in pool.map(connection, range(connections)) for one in each]
    return [status for status, _ in answers], sorted(ms for _, ms in answers)


def settle(running: Skylight, studio: Studio, project: str, seconds: float = SETTLE_SECONDS) -> float:
    """Wait until the samples are what Label Studio holds and all is trained; gives the seconds that took."""
    began = time.monotonic()

    def done() -> bool:
        time.sleep(0.2)
        return learned(running.store, project) == held(studio, project) and bool(
            running.status(project).get("up_to_date")
        )

    wait_until(done, seconds)
    return time.monotonic() - began


def run(report: Report, events: int = EVENTS) -> None:
    """The burst, and what is left of it."""
    with tempfile.TemporaryDirectory() as folder, Studio() as studio:
        project = studio.add_project()
        bodies = script(studio, project, events, seed=0)
        with skylight(Path(folder) / "home", studio) as running:
            send(running.url, [studio.webhook("PROJECT_UPDATED", project)] * CONNECTIONS)  # warm
            began = time.monotonic()
            statuses, ms = send(running.url, bodies)
            rate = len(statuses) / (time.monotonic() - began)
            refused = sum(not 200 <= status < 300 for status in statuses)
            report.figure(f"{events} webhooks, {CONNECTIONS} connections: not answered with 2xx", refused, "", most=0)
            report.figure("webhook p50", ms[len(ms) // 2], "ms")
            report.figure("webhook p99", ms[int(0.99 * len(ms))], "ms", most=P99_MS)
            report.figure("webhook slowest", ms[-1], "ms")
            report.figure("webhooks per second", rate, "1/s")
            took = settle(running, studio, project)
            wrong = set(learned(running.store, project).items()) ^ set(held(studio, project).items())
            report.fault("burst of webhooks in any order", events, len(wrong), took)
            report.figure("files that cannot be read after it", len(unsound(running.store, project)), "", most=0)

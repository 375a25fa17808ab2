"""Graceful stops: SIGTERM in the middle of a click and of a training; how long the end takes, and what is left."""

import signal
import tempfile
import threading
import time
from pathlib import Path

import requests

from skylight.backend.labelstudio.label_config import parse_config
from skylight.model.datasets import synthetic_scenes
from tests.support.label_studio_double import CONFIG, Studio, wait_until
from tests.support.planted_embeddings import brush, key_point, png
from tests.torture.report import Report
from tests.torture.running import command, descendants, held, learned, skylight

ROUNDS = 5
LABELING = parse_config(CONFIG)


def run(report: Report, rounds: int = ROUNDS) -> None:
    """Start, begin a training, click, stop; at the end one that is left alone must take up the training."""
    slowest, broken, left, lost = 0.0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder, Studio() as studio:
        project, home = studio.add_project(), Path(folder) / "home"
        scenes = [synthetic_scenes.scene(seed, 256) for seed in range(rounds + 3)]
        for scene in scenes[:3]:
            studio.annotate(studio.add_task(project, png(scene.image)), [brush(LABELING, scene.truth())])
        for number in range(rounds):
            scene = scenes[3 + number]
            task = studio.add_task(project, png(scene.image))
            annotation = studio.annotate(task, [brush(LABELING, scene.truth())])
            with skylight(home, studio, steps=100_000) as running:
                body = studio.webhook("ANNOTATION_CREATED", project, annotation)
                assert requests.post(f"{running.url}/webhook", json=body, timeout=9).ok
                training = lambda: running.status(project).get("jobs", {}).get("train", {}).get("total")  # noqa: E731
                wait_until(training, 120)
                answers: list[int] = []
                asked = {
                    "project": project,
                    "label_config": CONFIG,
                    "tasks": [{"id": task, "data": studio.tasks[task]["data"]}],
                    "params": {"context": {"result": [key_point("point", "Pit", 40, 40, (256, 256))]}},
                }

                def click(url: str = running.url, body: object = asked, answers: list[int] = answers) -> None:
                    answers.append(requests.post(f"{url}/predict", json=body, timeout=60).status_code)

                clicking = threading.Thread(target=click)
                clicking.start()
                time.sleep(0.1)  # so that it has arrived
                pids, began = descendants(running.process.pid), time.monotonic()
                running.process.send_signal(signal.SIGTERM)
                running.process.wait(60)
                slowest = max(slowest, time.monotonic() - began)
                clicking.join()
                broken += answers != [200]
                left += sum(command(pid) != [""] for pid in pids)
        with skylight(home, studio, steps=2) as running:
            wait_until(lambda: running.status(project).get("up_to_date"), 120)
            lost = len(set(learned(running.store, project).items()) ^ set(held(studio, project).items()))
            began = time.monotonic()
            wait_until(lambda: running.status(project)["model_version"].startswith("skylight-"), 60)
            report.fault("SIGTERM during a training and a click", rounds, lost, time.monotonic() - began)
    report.figure("from SIGTERM to the end of all processes", slowest, "s", most=10)
    report.figure("clicks under way at SIGTERM that got no mask", broken, "", most=0)
    report.figure("processes left behind", left, "", most=0)

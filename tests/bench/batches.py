"""Many tasks at once: a batch /predict when nothing is cached, and the pre-annotation of a large project."""

import tempfile
import time
from pathlib import Path

import orjson

from skylight.backend.learning.training import train_version
from skylight.backend.settings import Settings
from skylight.model.datasets import synthetic_scenes
from skylight.model.decoder.training import TrainConfig
from skylight.model.images.decoding import content_hash
from tests.bench.clicks import chance_weights
from tests.bench.serving import OtherWeights, Served, Service, background, memory, served
from tests.bench.timing import Table
from tests.bench.training import fill
from tests.support.label_studio_double import CONFIG, KEY, Studio, wait_until
from tests.support.planted_embeddings import png

BATCH = 200  # tasks in one /predict
LIMIT = 100.0  # s, after which Label Studio gives up on it
TASKS, EARLY, IMAGES = 10_000, 1000, 200
PATIENCE = 3600.0  # s, on however busy a machine
SEEDS = 60_000
FIRST = 10**9  # the first id of a prediction that Label Studio stores of its own accord, beyond all others
RECIPE = TrainConfig(steps=100, check_every=50)  # what it finds does not matter, but it is to find something


def run(table: Table, broker: str) -> None:
    """With the tiny SAM, with a slow one, and 10,000 tasks by a worker."""
    with tempfile.TemporaryDirectory() as folder:
        weights = chance_weights(Path(folder))
        a_batch(table, Path(folder) / "tiny", broker, "tiny SAM")
        a_batch(table, Path(folder) / "slow", broker, "MobileSAM's encoder", "mobile_sam", weights)
        large_project(table, Path(folder) / "large", broker)


def a_batch(table: Table, home: Path, broker: str, name: str, sam: str = "tiny", weights: Path | None = None) -> None:
    """What a /predict of many tasks that were never seen is answered, and what a worker then brings."""
    with served(home, sam, weights, broker) as web:
        project, service = prepare(web.studio, home, broker, sam, weights)
        with background("worker", web.studio, home, broker, sam, weights):
            wait_until(lambda: service.queue.progress(project), PATIENCE)  # it has looked, and found no open task
            for seed in range(BATCH):
                web.studio.add_task(project, png(synthetic_scenes.scene(SEEDS + seed).image))
            tasks = [{"id": task["id"], "data": task["data"]} for task in web.studio.tasks.values()]
            seconds, answers = ask(web, project, tasks)
            what = f"batch of {BATCH} tasks, nothing cached, {name}"
            table.add(f"{what}: until it is answered", seconds, "s", LIMIT)
            table.add(f"{what}: results", len(answers), "", None, BATCH)
            late = keep(web.studio, project, tasks, answers)
            table.add(f"{what}: answered with nothing, for want of time", len(late), "")
            started = time.perf_counter()
            wait_until(lambda: not missing(web.studio), PATIENCE)
            table.add(f"{what}: then until a worker has sent the rest", time.perf_counter() - started, "s")
            version = service.version_name(project)
            table.add(f"{what}: tasks with a prediction", len(set(web.studio.predicted(version))), "", None, BATCH)


def ask(web: Served, project: str, tasks: list[dict]) -> tuple[float, list[dict]]:
    """Seconds until the answer, and its results."""
    body = {"tasks": tasks, "project": project, "label_config": CONFIG, "params": {}}
    started = time.perf_counter()
    answer = web.session.post(f"{web.url}/predict", data=orjson.dumps(body), timeout=10 * LIMIT)
    answer.raise_for_status()
    return time.perf_counter() - started, orjson.loads(answer.content)["results"]


def keep(studio: Studio, project: str, tasks: list[dict], answers: list[dict]) -> set[int]:
    """Store what was answered, as Label Studio does; gives the tasks that were answered with nothing."""
    late = set()
    for number, (task, answer) in enumerate(zip(tasks, answers, strict=True), 1):
        studio.predictions[FIRST + number] = {"project": int(float(project)), "task": task["id"], **answer}
        if is_empty(answer):
            late.add(task["id"])
    return late


def is_empty(prediction: dict) -> bool:
    """Whether it is what a task without time gets; a decoder that finds nothing is sure of it, its score is not 0."""
    return not prediction["result"] and prediction["score"] == 0


def missing(studio: Studio) -> set[int]:
    """The tasks that have no prediction but an empty one."""
    return set(studio.tasks) - {one["task"] for one in list(studio.predictions.values()) if not is_empty(one)}


def large_project(table: Table, home: Path, broker: str) -> None:
    """A worker's rate and memory, over many tasks whose images are embedded."""
    with Studio() as studio:
        project, service = prepare(studio, home, broker)
        pictures = [png(synthetic_scenes.scene(SEEDS + seed).image) for seed in range(IMAGES)]
        for seed, picture in enumerate(pictures):
            embed = service.embedder.segmenter.embed
            service.embedder.cache.get(content_hash(picture), lambda: embed(synthetic_scenes.scene(SEEDS + seed).image))  # noqa: B023
        for number in range(TASKS):
            studio.add_task(project, pictures[number % IMAGES])
        done: list[float] = []
        studio.on_predictions = lambda: done.append(time.perf_counter())
        service.queue.request(project, "preannotate")
        with background("worker", studio, home, broker) as process:
            wait_until(lambda: len(done) >= EARLY, PATIENCE)
            held = memory(process.pid)
            wait_until(lambda: len(done) >= TASKS, PATIENCE)
            now = memory(process.pid)
        what = f"pre-annotation of {TASKS} tasks, sent to a Label Studio"
        table.add(f"{what}: rate", (TASKS - EARLY) / (done[-1] - done[EARLY - 1]), "images/s", None, 15)
        table.add(f"{what}: rate of the first {EARLY}", (EARLY - 1) / (done[EARLY - 1] - done[0]), "images/s")
        table.add(f"{what}: memory of the worker", now, "MB")
        table.add(f"{what}: growth from {EARLY} to {TASKS} tasks", now - held, "MB", 50)


def prepare(
    studio: Studio, home: Path, broker: str, sam: str = "tiny", weights: Path | None = None
) -> tuple[str, Service]:
    """A project in Label Studio with a trained version that is served, and a service over it."""
    settings = Settings(studio.url, KEY, broker, home, sam=sam, device="cpu")
    service = OtherWeights(settings, weights) if weights else Service(settings)
    service.queue.redis.flushall()
    service.recipe = RECIPE
    project = studio.add_project()
    fill(service, 4, project)
    assert train_version(service, project, asked=True), "no version is served"
    for record in service.store.samples(project):  # their tasks are not in Label Studio
        service.store.remove(project, record.annotation)
    return project, service

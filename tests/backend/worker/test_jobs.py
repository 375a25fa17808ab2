"""What the workers do, with real jobs in a real queue; and what is left when one is killed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.queue.keys import key
from skylight.backend.worker import jobs, worker
from skylight.backend.worker.jobs import CURRENT_SERVICE
from skylight.model.datasets import synthetic_scenes
from tests.support.label_studio_double import CONFIG, KEY, capture, wait_until
from tests.support.planted_embeddings import brush, png, square
from tests.support.shared_exports import share_exports

pytestmark = pytest.mark.slow

LABELING = parse_config(CONFIG)


@pytest.fixture
def project(planted, studio) -> str:
    return studio.add_project()


def submit(client, studio, project, seed=0):
    """Annotate a new task in Label Studio, which tells Skylight."""
    image, mask = square(seed)
    annotation = studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)])
    tell(client, studio, project, "ANNOTATION_CREATED", annotation)
    return annotation


def tell(client, studio, project, action, annotation=None) -> None:
    assert client.post("/webhook", json=studio.webhook(action, project, annotation)).status_code == 202


def learned(service, project) -> list[set[str]]:
    """The annotations that each version was made of."""
    versions = service.versions
    return [set(versions.card(project, number)["annotations"]) for number in versions.numbers(project)]


def status(client, project):
    return client.get("/status").get_json()[project]


def test_fifty_submits_in_a_second_are_trained_on_together(client, planted, studio, project, work):
    bodies = []
    for i in range(50):
        image, mask = square(i % 5)
        annotation = studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)])
        bodies.append(studio.webhook("ANNOTATION_CREATED", project, annotation))
    began = time.monotonic()
    for body in bodies:
        assert client.post("/webhook", json=body).status_code == 202
    assert time.monotonic() - began < 2  # 0.2 on an idle machine
    work()
    made = learned(planted, project)
    assert 1 <= len(made) <= 2
    assert made[-1] == {str(101 + i) for i in range(50)}
    found = status(client, project)
    assert (found["annotations"], found["inbox"], found["up_to_date"]) == (50, 0, True)
    assert planted.versions.current(project) == len(made)


def test_from_setup_to_predictions_on_the_open_tasks(client, planted, studio, project, work):
    open_task = studio.add_task(project, png(square(9)[0]))
    client.post("/setup", json={"project": project, "schema": CONFIG})
    work()
    assert planted.store.config(project) == CONFIG
    for seed in range(2):
        submit(client, studio, project, seed)
    work()
    assert planted.versions.numbers(project) == []
    submit(client, studio, project, 2)
    work()
    assert status(client, project)["model_version"] == "skylight-1"
    assert status(client, project)["versions"][0]["training_images"] >= 1
    assert studio.predicted("skylight-1") == [open_task]
    new = studio.add_task(project, png(square(10)[0]))
    body = studio.webhook("TASKS_CREATED", project) | {"tasks": [{"id": new, "total_annotations": 0}]}
    client.post("/webhook", json=body)
    work()
    assert studio.predicted("skylight-1") == [open_task, new]


def test_a_project_connected_with_annotations_learns_from_them(client, planted, studio, project, work):
    for seed in range(4):
        image, mask = square(seed)
        studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)])
    client.post("/setup", json={"project": project, "schema": CONFIG})
    work()
    assert learned(planted, project) == [{"101", "102", "103", "104"}]


def test_an_import_with_annotations_is_learned_from(client, planted, studio, project, work):
    for seed in range(3):
        image, mask = square(seed)
        studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)])
    body = studio.webhook("TASKS_CREATED", project) | {"tasks": [{"id": 1, "total_annotations": 1}]}
    client.post("/webhook", json=body)
    work()
    assert learned(planted, project) == [{"101", "102", "103"}]


def test_a_lost_webhook_is_made_up_for_by_the_next(client, planted, studio, project, work):
    for seed in range(3):
        image, mask = square(seed)
        studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)])  # Skylight was down
    gone = submit(client, studio, project, 3)
    studio.delete(gone)  # and down again
    tell(client, studio, project, "START_TRAINING")
    work()
    assert learned(planted, project)[-1] == {"101", "102", "103"}


def test_what_comes_while_it_trains_is_trained_on_next(client, planted, studio, project, work, monkeypatch):
    for seed in range(3):
        submit(client, studio, project, seed)
    train = jobs.train_version

    def interrupted(service, key: str, asked: bool) -> int:
        if not planted.versions.numbers(project):
            submit(client, studio, project, 7)
        return train(service, key, asked)

    monkeypatch.setattr(jobs, "train_version", interrupted)
    work()
    assert [len(made) for made in learned(planted, project)] == [3, 4]
    assert status(client, project)["up_to_date"]


def test_a_change_that_another_worker_left_to_the_one_that_trains_is_trained_on(planted, studio, project, monkeypatch):
    CURRENT_SERVICE.set(planted)
    planted.store.save_config(project, CONFIG)
    monkeypatch.setattr(jobs, "train_version", lambda *_, asked: planted.queue.mark_dirty(project))
    jobs.train(project)
    assert planted.queue.queues["train"].count == 1


def test_what_waits_in_the_inbox_is_ingested_before_it_counts_as_trained(client, planted, studio, project):
    planted.settings = replace(planted.settings, label_studio_api_key="")  # so that no reconciliation finds it
    CURRENT_SERVICE.set(planted)
    for seed in range(3):
        submit(client, studio, project, seed)
    jobs.train(project)
    assert learned(planted, project) == [{"101", "102", "103"}]
    assert planted.queue.trained(project) == planted.queue.dirty(project) == 3


def test_a_skip_or_an_empty_task_gone_does_not_train_again(client, planted, studio, project, work):
    for seed in range(3):
        submit(client, studio, project, seed)
    work()
    tell(client, studio, project, "ANNOTATION_CREATED", studio.annotate(studio.add_task(project, b""), [], skip=True))
    client.post("/webhook", json=studio.webhook("TASKS_DELETED", project) | {"tasks": [{"id": 77}]})
    tell(client, studio, project, "START_TRAINING")
    work()
    assert len(learned(planted, project)) == 1
    assert status(client, project)["up_to_date"]


def test_deleting_an_annotation_trains_without_it(client, planted, studio, project, work):
    submitted = [submit(client, studio, project, seed) for seed in range(4)]
    work()
    studio.delete(submitted[1])
    tell(client, studio, project, "ANNOTATIONS_DELETED", submitted[1])
    work()
    assert learned(planted, project) == [{"101", "102", "103", "104"}, {"101", "103", "104"}]


def test_new_labels_train_anew(client, planted, studio, project, work):
    for seed in range(3):
        submit(client, studio, project, seed)
    work()
    config = CONFIG.replace('<Label value="Pit"', '<Label value="Crater"/><Label value="Pit"')
    studio.projects[1]["label_config"] = config
    tell(client, studio, project, "PROJECT_UPDATED")
    work()
    assert planted.versions.card(project, 2)["labels"] == ["Crater", "Pit"]
    assert planted.versions.current(project) == 2


def test_without_label_studios_key_what_comes_by_webhook_is_still_ingested(client, planted, studio, project, work):
    planted.settings = replace(planted.settings, label_studio_api_key="")  # pictures still come
    for seed in range(3):
        submit(client, studio, project, seed)
    work()
    assert len(learned(planted, project)) == 1


def test_label_studio_down_delays_but_loses_nothing(client, planted, studio, project, work):
    for seed in range(3):
        submit(client, studio, project, seed)
    studio.stop()
    work()
    assert planted.versions.numbers(project) == []
    assert status(client, project)["inbox"] == 0  # given up for now
    studio.start()
    tell(client, studio, project, "START_TRAINING")
    work()
    assert learned(planted, project) == [{"101", "102", "103"}]


def test_whoever_finds_another_at_it_leaves_it_to_him(planted, studio, project, monkeypatch):
    monkeypatch.setattr("skylight.backend.queue.locks.LOCK_SECONDS", 1.0)  # a busy machine may not renew it in less
    CURRENT_SERVICE.set(planted)
    planted.store.save_config(project, CONFIG)
    planted.queue.mark_dirty(project)
    with planted.queue.lock(project, "train"):
        jobs.train(project)
    assert planted.queue.trained(project) == 0
    with planted.queue.lock(project, "preannotate"):
        jobs.preannotate(project)
    assert planted.queue.queues["preannotate"].count == 1  # looked at once more when he is done


def test_events_left_because_another_had_the_inbox_get_another_job(client, planted, studio, project, monkeypatch):
    monkeypatch.setattr("skylight.backend.queue.locks.LOCK_SECONDS", 0.2)
    CURRENT_SERVICE.set(planted)
    submit(client, studio, project)
    planted.queue.queues["ingest"].empty()
    planted.queue.redis.set(key(project, "lock-ingest"), "another", px=60_000)
    jobs.ingest(project)
    assert planted.queue.inbox_length(project) == 1
    assert planted.queue.queues["ingest"].count == 1


def test_a_worker_waits_for_jobs_with_a_patient_connection(planted):
    started = worker.start(planted)
    connection = planted.queue.redis.connection_pool.get_connection()
    assert connection.socket_timeout > started.dequeue_timeout
    planted.queue.redis.connection_pool.release(connection)


def test_a_start_replays_what_waited_on_disk(planted, studio, project, work):
    image, mask = square(0)
    annotation = studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)])
    event = {
        "what": "annotation",
        "id": annotation["id"],
        "task": annotation["task"],
        "updated_at": annotation["updated_at"],
        "skipped": False,
        "result": annotation["result"],
        "data": studio.tasks[annotation["task"]]["data"],
        "label_config": CONFIG,
    }
    planted.spool.add(project, event)
    work()
    assert [record.annotation for record in planted.store.samples(project)] == [annotation["id"]]


def test_a_start_after_redis_lost_everything_trains_what_the_store_holds(client, planted, studio, project, work):
    for seed in range(3):
        submit(client, studio, project, seed)
    planted.settings = replace(planted.settings, min_annotations=4)
    work()
    assert planted.versions.numbers(project) == []
    planted.settings = replace(planted.settings, min_annotations=3)
    planted.queue.redis.flushall()
    work()
    assert learned(planted, project) == [{"101", "102", "103"}]


# The command as it is, but for two constants: short locks, and a recipe.
WORKER = """
import sys
from skylight.backend import service
from skylight.backend.cli.main import main
from skylight.backend.queue import locks
from skylight.model.decoder.training import TrainConfig
locks.LOCK_SECONDS = 2.0
service.TrainConfig = lambda: TrainConfig(steps={steps}, first_steps={steps}, batch=2)
sys.argv = ["skylight", "worker"]
main()
"""


def start_worker(settings, steps: int) -> subprocess.Popen[bytes]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("SKYLIGHT_", "LABEL_STUDIO"))}
    environ |= {
        "REDIS_URL": settings.redis_url,
        "LABEL_STUDIO_URL": settings.label_studio_url,
        "LABEL_STUDIO_API_KEY": KEY,
        "SKYLIGHT_HOME": str(settings.home),
        "SKYLIGHT_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen([sys.executable, "-c", WORKER.format(steps=steps)], env=environ)


def test_a_worker_killed_in_the_middle_of_training_loses_nothing(client, service, settings, studio, exports):
    share_exports(settings.home, exports)
    project = studio.add_project()
    for seed in range(3):
        scene = synthetic_scenes.scene(seed, 96)
        annotation = studio.annotate(studio.add_task(project, png(scene.image)), [brush(LABELING, scene.truth())])
        tell(client, studio, project, "ANNOTATION_CREATED", annotation)
    open_task = studio.add_task(project, png(synthetic_scenes.scene(9, 96).image))
    with start_worker(settings, steps=100_000) as first:
        try:
            wait_until(lambda: service.queue.redis.exists(key(project, "lock-train")), 180)
            wait_until(lambda: len(service.store.samples(project)) == 3)
            time.sleep(0.5)
        finally:
            first.send_signal(signal.SIGKILL)
    scene = synthetic_scenes.scene(3, 96)
    annotation = studio.annotate(studio.add_task(project, png(scene.image)), [brush(LABELING, scene.truth())])
    tell(client, studio, project, "ANNOTATION_CREATED", annotation)
    assert service.versions.numbers(project) == []
    assert not status(client, project)["up_to_date"]
    with start_worker(settings, steps=2) as second:
        try:
            wait_until(lambda: open_task in studio.predicted(service.version_name(project)), 180)
        finally:
            second.terminate()
            second.wait(20)
    assert service.versions.current(project) == max(service.versions.numbers(project))
    assert learned(service, project)[-1] == {"101", "102", "103", "104"}
    found = status(client, project)
    assert (found["annotations"], found["inbox"], found["up_to_date"]) == (4, 0, True)


def test_a_recorded_skip_of_an_unknown_project_ends_without_a_trace_of_training(client, planted, work):
    client.post("/webhook", json=capture("26"))
    work()
    assert status(client, "1.1795340435")["versions"] == []


def test_start_training_does_not_wait_for_enough_annotations(client, planted, studio, project, work):
    planted.settings = replace(planted.settings, retrain_every=10)
    for seed in range(3):
        submit(client, studio, project, seed)
    work()
    last = submit(client, studio, project, 3)
    work()
    assert len(learned(planted, project)) == 1
    tell(client, studio, project, "START_TRAINING")
    work()
    assert str(last["id"]) in learned(planted, project)[1]
    assert planted.queue.newest_training_request(project) == 0

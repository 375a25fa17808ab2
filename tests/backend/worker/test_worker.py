"""A worker's end: asked to, it puts down what it has in hand."""

import signal
import threading
import time
from dataclasses import replace

import pytest

from skylight.backend.errors import Stopping
from skylight.backend.labelstudio.events import webhook_events
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.queue.connection import connect
from skylight.backend.queue.keys import key
from skylight.backend.queue.queue import Queue
from skylight.backend.queue.recovery import running
from skylight.backend.service import Service
from skylight.backend.worker import worker
from skylight.backend.worker.jobs import CURRENT_SERVICE, ingest, train
from skylight.model.datasets import synthetic_scenes
from tests.backend.worker.test_jobs import start_worker, tell
from tests.support.label_studio_double import CONFIG, wait_until
from tests.support.planted_embeddings import brush, png, square
from tests.support.s3_double import Between
from tests.support.shared_exports import share_exports

pytestmark = pytest.mark.slow

LABELING = parse_config(CONFIG)


@pytest.fixture
def project(planted, studio) -> str:
    return studio.add_project()


def submit(studio, project, seed):
    image, mask = square(seed)
    return studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)])


def test_an_ingest_that_is_told_to_end_leaves_the_rest_in_the_inbox(planted, studio, project):
    CURRENT_SERVICE.set(planted)
    for seed in range(3):
        body = studio.webhook("ANNOTATION_CREATED", project, submit(studio, project, seed))
        planted.queue.add_events(project, list(webhook_events(body)), 1)
    planted.queue.queues["ingest"].pop_job_id()
    planted.stopping.set()
    ingest(project)
    assert planted.queue.inbox_length(project) == 3
    assert planted.queue.queues["ingest"].count == 1


def test_a_comparison_that_is_told_to_end_is_wanted_again(planted, studio, project):
    CURRENT_SERVICE.set(planted)
    submit(studio, project, 0)
    planted.queue.request_reconciliation(project)
    planted.stopping.set()
    ingest(project)
    assert planted.queue.take_reconciliation(project) == "all"
    assert planted.queue.queues["ingest"].count == 1


def test_a_training_that_is_told_to_end_is_queued_again(planted, studio, project, monkeypatch):
    CURRENT_SERVICE.set(planted)
    for seed in range(3):
        submit(studio, project, seed)
    monkeypatch.setattr(
        "skylight.backend.learning.training.reporter", lambda *_: lambda step, steps: planted.stopping.set()
    )
    train(project)
    assert planted.versions.numbers(project) == []
    assert planted.queue.queues["train"].count == 1
    planted.stopping.clear()
    monkeypatch.undo()
    train(project)
    assert planted.versions.current(project) == 1


def test_a_job_that_comes_to_no_safe_point_is_queued_and_the_process_ends(planted, monkeypatch):
    ended = []
    monkeypatch.setattr(worker, "GRACE_SECONDS", 0.01)
    monkeypatch.setattr("os._exit", ended.append)
    started = worker.start(planted)
    with running(planted.queue, "1.1", "embed"):
        started._end()
    assert ended == [0]
    assert planted.queue.queues["embed"].count == 1


def test_stopping_is_no_error_that_anything_swallows(planted):
    planted.stopping.set()
    with pytest.raises(Stopping):
        planted.check_stop()


def test_a_worker_that_starts_before_redis_waits_for_it(settings, tmp_path, broker_socket, monkeypatch, caplog):
    monkeypatch.setattr(worker, "RETRY_SECONDS", 0.05)
    service, made = Service(replace(settings, redis_url=f"unix://{tmp_path}/redis.sock")), []
    starting = threading.Thread(target=lambda: made.append(worker._started(service, ("embed",))))
    starting.start()
    wait_until(lambda: "Redis is away" in caplog.text)
    (tmp_path / "redis.sock").symlink_to(broker_socket)
    starting.join(30)
    assert made[0].queue_names() == ["skylight-embed"]
    service.queue.redis.close()


def test_a_worker_that_is_told_to_end_waits_for_no_redis(settings, tmp_path):
    service = Service(replace(settings, redis_url=f"unix://{tmp_path}/redis.sock"))
    service.stopping.set()
    assert worker._started(service, ("embed",)) is None


def test_a_worker_that_loses_redis_in_the_middle_of_a_job_works_again_once_it_is_back(
    settings, studio, broker_port, exports
):
    share_exports(settings.home, exports)
    project = studio.add_project()
    for seed in range(3):
        submit(studio, project, seed)
    between, queue = Between(broker_port), Queue(connect(f"redis://127.0.0.1:{broker_port}/0"))
    queue.request_reconciliation(project)
    queue.request(project, "ingest")
    with start_worker(replace(settings, redis_url=f"redis://127.0.0.1:{between.port}/0"), steps=100) as process:
        try:
            wait_until(lambda: queue.redis.hlen(key(project, "train-hand")), 180)
            between.cut_off()
            time.sleep(3 * worker.RETRY_SECONDS)  # the training ends meanwhile
            between.cut = False
            queue.request(project, "preannotate")
            wait_until(lambda: not queue.has_waiting("preannotate") or process.poll() is not None, 120)
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    queue.redis.close()
    between.close()


def test_a_worker_at_its_training_ends_at_sigterm_and_the_next_takes_it_up(client, service, settings, studio, exports):
    share_exports(settings.home, exports)
    project = studio.add_project()
    for seed in range(3):
        scene = synthetic_scenes.scene(seed, 96)
        annotation = studio.annotate(studio.add_task(project, png(scene.image)), [brush(LABELING, scene.truth())])
        tell(client, studio, project, "ANNOTATION_CREATED", annotation)
    with start_worker(settings, steps=100_000) as process:
        try:
            wait_until(lambda: service.queue.redis.exists(key(project, "train-progress")), 180)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert service.queue.queues["train"].count == 1
    assert service.queue.redis.exists(key(project, "lock-train")) == 0
    assert service.versions.numbers(project) == []

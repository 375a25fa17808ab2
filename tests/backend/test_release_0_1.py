"""What release 0.1 left behind is used: a store of its layout, and its jobs in Redis."""

import json
import zipfile
import zlib
from pathlib import Path

import pytest

from skylight.backend.inference.preannotation import preannotation
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.labelstudio.label_map import label_map
from skylight.backend.learning.reconcile import reconcile
from skylight.backend.learning.training import train_version
from skylight.backend.store import migrations
from skylight.model.decoder.training import TrainConfig
from skylight.model.evaluation.metrics import iou
from tests.support.planted_embeddings import brush, png, square

FOLDER = Path(__file__).parent / "fixtures/release_0_1"
P = "1.1795340401"
CONFIG = (FOLDER / "label_config.xml").read_text()  # the labeling configuration in that store
LABELING = parse_config(CONFIG)


@pytest.fixture
def upgraded(planted, studio):
    """A service on the store of release 0.1, beside the Label Studio that it learned from."""
    with zipfile.ZipFile(FOLDER / "store.zip") as archive:
        archive.extractall(planted.settings.home)
    assert studio.add_project() == P
    for number in (1, 2, 3):
        annotate(studio, number)
    migrations.check(planted.files, planted.queue.redis)
    return planted


def annotate(studio, number: int) -> None:
    """Submit a task's square."""
    image, mask = square(number)
    studio.annotate(studio.add_task(P, png(image), number), [brush(LABELING, mask)])


def test_its_store_is_read_and_served(upgraded, studio):
    store, versions = upgraded.store, upgraded.versions
    assert store.projects() == [P] and store.config(P) == CONFIG and upgraded.secret.is_required(P)
    records = store.samples(P)
    assert [(record.annotation, record.task) for record in records] == [(101, 1), (102, 2), (103, 3)]
    for record in records:
        mask = square(record.task)[1]
        assert (store.label_map(P, record) == mask).all() and (store.objects(P, record) == mask).all()
        assert upgraded.url_index.digest(record.url) == record.image
    assert (versions.numbers(P), versions.current(P), versions.card(P, 1)["labels"]) == ([1], 1, ["Pit"])
    decoder = upgraded.decoder_for(P, LABELING)
    image, mask = square(9)
    task = studio.tasks[studio.add_task(P, png(image), 9)]
    regions, score = preannotation(upgraded, decoder, LABELING, task["data"]["image"])
    assert iou(label_map(regions, LABELING, mask.shape).array == 1, mask) > 0.8 and score > 0


def test_its_samples_are_as_label_studio_has_them_and_are_trained_on(upgraded, studio):
    upgraded.recipe = TrainConfig(steps=30, batch=4, check_every=10)  # as version 1 was trained
    assert reconcile(upgraded, P) == 0  # nothing to fetch again
    assert train_version(upgraded, P) == 0  # nor to train, as version 1 has all of them
    annotate(studio, 4)
    assert reconcile(upgraded, P) == 1
    train_version(upgraded, P)
    card = upgraded.versions.card(P, 2)
    assert sorted(card["annotations"]) == ["101", "102", "103", "104"]
    assert "current version" in card["verdict"]  # with which it was compared, or too little to do so


def test_its_jobs_are_done(upgraded, studio, work):
    annotate(studio, 4)
    image, _ = square(5)
    studio.add_task(P, png(image), 5)
    jobs = restore(upgraded.queue.redis)
    assert len(jobs) == 4 and all(b"backend.jobs." in data and b"skylight" not in data for data in jobs)
    work()
    assert 104 in [record.annotation for record in upgraded.store.samples(P)]
    assert upgraded.versions.numbers(P) == [1, 2] and upgraded.queue.inbox_length(P) == 0
    assert {prediction["task"] for prediction in studio.predictions.values()} == {5}
    for queue in upgraded.queue.queues.values():
        assert queue.count == queue.failed_job_registry.count == 0
    assert upgraded.failures.of(P) == []


def restore(redis) -> list[bytes]:
    """Write what was in Redis; gives the data of the jobs."""
    data = []
    for name, entry in json.loads((FOLDER / "redis.json").read_text()).items():
        value = entry["value"]
        match entry["type"]:
            case "string":
                redis.set(name, value.encode("latin-1"))
            case "list":
                redis.rpush(name, *(text.encode("latin-1") for text in value))
            case "set":
                redis.sadd(name, *(text.encode("latin-1") for text in value))
            case "hash":
                redis.hset(name, mapping={field: text.encode("latin-1") for field, text in value.items()})
        if name.startswith("rq:job:"):
            data.append(zlib.decompress(value["data"].encode("latin-1")))
    return data

"""Bad luck: bits that turn, disks that are full, annotations and trainings that fail; and what people are told."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from skylight.backend.admin import status
from skylight.backend.errors import DamagedFile, Unavailable
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.learning import dataset
from skylight.backend.learning.ingest import ingest_inbox, record_worker_death
from skylight.backend.learning.reconcile import reconcile
from skylight.backend.learning.training import train_version
from skylight.backend.limits import MACHINE
from skylight.backend.queue.quarantine import DEATHS
from skylight.backend.queue.retries import FIRST_PAUSE_SECONDS, explain
from skylight.backend.service import Service
from skylight.backend.store import migrations
from skylight.backend.store.migrations import LAYOUT_KEY
from skylight.backend.web.app import create_app
from skylight.backend.worker.jobs import CURRENT_SERVICE
from skylight.model.decoder.training import Diverged, TrainConfig
from skylight.model.storage.checksums import is_sealed, seal, unseal
from tests.support.bit_flips import flip
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import brush, png, square

LABELING = parse_config(CONFIG)
LATER = FIRST_PAUSE_SECONDS + 1


@pytest.fixture
def project(planted, studio) -> str:
    planted.recipe = TrainConfig(steps=2, batch=1)
    key = studio.add_project()
    planted.store.save_config(key, CONFIG)
    return key


def annotate(studio, project, count=1, seed=0):
    made = []
    for number in range(seed, seed + count):
        image, mask = square(number)
        made.append(studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)]))
    return made


def tell(client, studio, project, annotation):
    return client.post("/webhook", json=studio.webhook("ANNOTATION_CREATED", project, annotation))


def reasons(service, project) -> dict[str, str]:
    return {each.what: each.reason for each in service.failures.of(project)}


def restarted(service) -> None:
    """Forget what only the process knows."""
    service._decoder.cache_clear()
    service.embedder.cache._memory.clear()


def two_versions(service, studio, project) -> None:
    annotate(studio, project, 3)
    reconcile(service, project)
    assert train_version(service, project) == 1
    service.recipe = replace(service.recipe, seed=1)
    assert train_version(service, project) == 2


@pytest.mark.parametrize("pattern", ["*.json", "*[0-9a-f].png", "*-objects.png"])
def test_a_damaged_sample_is_set_aside_and_comes_again_from_label_studio(planted, studio, project, pattern):
    annotate(studio, project)
    reconcile(planted, project)
    (record,) = planted.store.samples(project)
    planted.store.put(project, record, square(0)[1].astype(np.uint8), square(0)[1].astype(np.uint16))
    (record,) = planted.store.samples(project)
    (path,) = (planted.files.path(planted.store.folder(project)) / "samples").glob(pattern)
    for seed in range(8):
        flip(path, np.random.default_rng(seed))
        try:
            for found in planted.store.samples(project):
                planted.store.label_map(project, found), planted.store.objects(project, found)
            raise AssertionError("a turned bit was not noticed")
        except (DamagedFile, AssertionError) as error:
            assert isinstance(error, DamagedFile) or not planted.store.samples(project)
        assert planted.store.samples(project) == []
        assert "is damaged" in reasons(planted, project)["damaged"]
        assert reconcile(planted, project) == 1
        (found,) = planted.store.samples(project)
        assert (planted.store.label_map(project, found) == square(0)[1]).all()
        assert "damaged" not in reasons(planted, project)
        (path,) = (planted.files.path(planted.store.folder(project)) / "samples").glob(pattern)
    assert len(list((planted.settings.home / "damaged").iterdir())) >= 8


@pytest.mark.parametrize("name", ["decoder.safetensors", "card.json"])
def test_of_a_damaged_version_the_one_before_is_served_and_its_number_is_not_used_again(planted, studio, project, name):
    two_versions(planted, studio, project)
    first = planted.decoder_of_version(project, 1).state_dict()["head.bias"]
    flip(planted.files.path(planted.versions.folder(project)) / "2" / name, np.random.default_rng(0), 3)
    restarted(planted)
    served = planted.decoder_for(project, LABELING)
    assert (served.state_dict()["head.bias"] == first).all()
    assert planted.version_name(project) == "skylight-1" and planted.versions.numbers(project) == [1]
    assert "versions/2 is damaged" in reasons(planted, project)["damaged"]
    planted.recipe = replace(planted.recipe, seed=2)
    train_version(planted, project, asked=True)
    assert planted.versions.numbers(project) == [1, 3]


@pytest.mark.parametrize("copied", [True, False])
def test_which_version_is_served_is_known_without_its_file(planted, studio, project, copied):
    two_versions(planted, studio, project)
    planted.versions.roll_back(project)
    folder = planted.files.path(planted.store.folder(project))
    for name in ("current.json",) if copied else ("current.json", "current.copy.json"):
        flip(folder / name, np.random.default_rng(0))
    assert planted.versions.current(project) == (1 if copied else 2)


def test_a_damaged_embedding_is_made_again_and_the_answer_is_the_same(planted, studio, project):
    annotate(studio, project)
    reconcile(planted, project)
    (record,) = planted.store.samples(project)
    planted.embedder.cache.on_damage = planted._report_damaged_embedding
    path, right = planted.embedder.cache.path(record.image), planted.embedder.embedding_of(record.image, record.url)
    for seed in range(20):
        flip(path, np.random.default_rng(seed), 1 + seed % 3)
        restarted(planted)
        found = planted.embedder.embedding_of(record.image, record.url)
        assert (found.features == right.features).all() and (found.thumbnail == right.thumbnail).all()
    assert "was damaged and is made again" in reasons(planted, MACHINE)["embeddings"]


def test_a_damaged_configuration_comes_again(planted, studio, project):
    flip(planted.files.path(planted.store.folder(project)) / "project.json", np.random.default_rng(0))
    assert planted.store.config(project) == ""
    reconcile(planted, project)
    assert planted.store.config(project) == CONFIG


def test_an_annotation_that_fails_twice_is_quarantined_until_it_changes(planted, studio, project, client):
    bad, *_ = annotate(studio, project)
    image, mask = square(0)
    bad["result"] = [brush(LABELING, np.ones((9, 9), bool))]
    good, *_ = annotate(studio, project, seed=1)
    for each in (bad, bad, good):
        tell(client, studio, project, each)
    ingest_inbox(planted, project)
    assert [record.annotation for record in planted.store.samples(project)] == [good["id"]]
    (aside,) = planted.quarantine.of(project)
    assert aside.quarantined and "drawn on 9 x 9 pixels, but the image has 64 x 64" in aside.reason
    fetched = len(studio.fetched)
    assert reconcile(planted, project) == 0 and len(studio.fetched) == fetched
    page = client.get(f"/projects/{project}").get_data(as_text=True)
    assert "Annotations set aside" in page and "drawn on 9 x 9" in page
    studio.update(bad, [brush(LABELING, mask)])
    assert reconcile(planted, project) == 1
    assert planted.quarantine.of(project) == []


def test_an_image_that_cannot_be_fetched_is_no_fault_of_the_annotation(planted, studio, project):
    (annotation,) = annotate(studio, project)
    url = studio.tasks[annotation["task"]]["data"]["image"]
    picture = studio.pictures.pop(url)
    for _ in range(4):
        planted.quarantine.retry_all(project)
        reconcile(planted, project)
    (aside,) = planted.quarantine.of(project)
    assert not aside.quarantined
    studio.pictures[url] = picture
    planted.quarantine.clock = lambda: time.time() + 3601
    assert planted.retries.request_due() == [f"annotations {project}"]
    assert reconcile(planted, project) == 1 and planted.quarantine.of(project) == []


def test_an_annotation_that_ends_its_worker_does_not_end_every_worker(planted, studio, project, client, monkeypatch):
    bad, good = annotate(studio, project, 2)
    for each in (bad, good):
        tell(client, studio, project, each)
    real = planted.embedder.embedding

    class Killed(BaseException):
        pass

    def embed(url):
        if url == studio.tasks[bad["task"]]["data"]["image"]:
            raise Killed
        return real(url)

    monkeypatch.setattr(planted.embedder, "embedding", embed)
    for _ in range(2):
        with pytest.raises(Killed):
            ingest_inbox(planted, project)
    ingest_inbox(planted, project)
    assert [record.annotation for record in planted.store.samples(project)] == [good["id"]]
    (aside,) = planted.quarantine.of(project)
    assert aside.deaths == 2 and not aside.quarantined
    for day in range(DEATHS - 2):
        planted.quarantine.clock = lambda day=day: time.time() + 10**5 * (day + 1)
        with pytest.raises(Killed):
            reconcile(planted, project)
        record_worker_death(planted, project)
    reconcile(planted, project)
    assert planted.quarantine.of(project)[0].quarantined
    monkeypatch.undo()
    planted.quarantine.retry_all(project)
    assert reconcile(planted, project) == 1


def test_a_job_without_room_says_so_and_is_taken_up_when_there_is(planted, studio, project, client, work, monkeypatch):
    (annotation,) = annotate(studio, project)
    assert tell(client, studio, project, annotation).status_code == 202
    monkeypatch.setattr("skylight.backend.queue.retries.ROOM_BYTES", 10**18)
    work()
    assert "is full" in reasons(planted, project)["ingest"]
    assert planted.queue.inbox_length(project) == 1
    assert "is full" in client.get(f"/projects/{project}").get_data(as_text=True)
    assert planted.retries.request_due() == []
    monkeypatch.undo()
    planted._pictures = planted.embedder
    assert planted.retries.request_due(time.time() + LATER) == [f"ingest {project}"]
    work()
    assert len(planted.store.samples(project)) == 1
    assert "ingest" not in reasons(planted, project)


def test_a_store_that_is_a_file_refuses_no_webhook_and_no_click(planted, studio, project, client):
    (annotation,) = annotate(studio, project)
    home = planted.settings.home
    client.get("/health")
    home.rename(home.with_name("away"))
    home.write_text("in the way")
    assert tell(client, studio, project, annotation).status_code in (202, 503)
    answer = client.post("/predict", json={"project": project, "label_config": CONFIG, "tasks": [{"id": 1}]})
    assert answer.status_code == 200
    home.unlink()
    home.with_name("away").rename(home)


def test_a_training_that_diverges_is_tried_once_more_then_reported_and_left(planted, studio, project, monkeypatch):
    two_versions(planted, studio, project)
    tried = []

    def fit(samples, config, how, *rest):
        tried.append((how.seed, how.learning_rate))
        raise Diverged("the training diverged: its loss was nan at step 1 of 2")

    monkeypatch.setattr("skylight.model.decoder.training.fit", fit)
    annotate(studio, project, seed=7)
    reconcile(planted, project)
    CURRENT_SERVICE.set(planted)
    from skylight.backend.worker.jobs import train

    for _ in range(3):
        planted.queue.mark_dirty(project)
        try:
            train(project)
        except Diverged:
            continue
    seeds = {seed for seed, _ in tried}
    assert len(seeds) == 2 and len({rate for _, rate in tried}) == 2
    count = len(tried)
    train(project)
    assert len(tried) == count
    assert planted.version_name(project) == "skylight-2" and planted.versions.numbers(project) == [1, 2]
    assert "training is given up" in reasons(planted, project)["train"]
    monkeypatch.undo()
    planted._pictures = planted.embedder
    assert train_version(planted, project, asked=True) == 3
    assert "train" not in reasons(planted, project)


def test_a_loss_that_is_no_number_is_noticed(planted, studio, project, monkeypatch):
    annotate(studio, project, 3)
    reconcile(planted, project)
    spoilt = dataset.load_sample

    def load(*args):
        sample = spoilt(*args)
        return replace(sample, embedding=replace(sample.embedding, features=sample.embedding.features * np.inf))

    monkeypatch.setattr(dataset, "load_sample", load)
    with pytest.raises(Diverged, match="its loss was nan"):
        train_version(planted, project)
    assert planted.versions.numbers(project) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "is full"),
        (OSError(30, "Read-only file system"), "cannot be written"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (KeyError("x"), "did not foresee: KeyError"),
    ],
)
def test_every_failure_has_a_reason_and_a_step(tmp_path, error, words):
    reason, step = explain(error, tmp_path)
    assert words in reason and step


def test_labels_come_back_to_annotations_when_they_come_back_to_the_configuration(planted, studio, project, client):
    (annotation,) = annotate(studio, project)
    other = CONFIG.replace('value="Pit"', 'value="Crater"')
    studio.projects[1]["label_config"] = other
    reconcile(planted, project)
    (record,) = planted.store.samples(project)
    assert record.parked == ("Pit",) and set(np.unique(planted.store.label_map(project, record))) == {0, 255}
    studio.projects[1]["label_config"] = CONFIG
    assert reconcile(planted, project) == 1
    (record,) = planted.store.samples(project)
    assert record.parked == () and (planted.store.label_map(project, record) == square(0)[1]).all()


def unnumbered(service, project) -> None:
    """Make a store that of before there were layouts."""
    for path in service.settings.home.rglob("*.json"):
        if path.name != migrations.NAME:
            path.write_text(json.dumps({k: v for k, v in unseal(path.read_bytes()).items() if k != "sha256"}))
    (service.settings.home / migrations.NAME).unlink(missing_ok=True)


def test_a_store_of_before_there_were_layouts_is_brought_up_to_date(planted, studio, project):
    two_versions(planted, studio, project)
    before, card = planted.store.samples(project), planted.versions.card(project, 2)
    unnumbered(planted, project)
    migrations.check(planted.files, planted.queue.redis)
    assert planted.store.samples(project) == before and planted.versions.card(project, 2) == card
    assert planted.store.config(project) == CONFIG and planted.versions.before(project) == 1
    assert all(is_sealed(path.read_bytes()) for path in planted.settings.home.rglob("*.json"))
    assert migrations.stored(planted.files) == migrations.LAYOUT
    migrations.check(planted.files, planted.queue.redis)


def test_a_file_of_an_old_store_that_cannot_be_read_keeps_no_process_from_starting(planted):
    folder = planted.files.path(planted.store.folder("1.1795340435"))
    (folder / "samples" / "7.json").mkdir(parents=True)
    (folder / "project.json").write_text(json.dumps({"label_config": CONFIG}))
    migrations.check(planted.files, planted.queue.redis)
    assert migrations.stored(planted.files) == migrations.LAYOUT
    assert planted.store.config("1.1795340435") == CONFIG and planted.store.samples("1.1795340435") == []


def test_a_newer_layout_is_refused_with_both_numbers(planted, settings):
    migrations.check(planted.files, planted.queue.redis)
    planted.queue.redis.set(LAYOUT_KEY, migrations.LAYOUT + 1)
    with pytest.raises(Unavailable, match=r"Redis .* layout 2, written by a newer Skylight; this one knows .* up to 1"):
        migrations.check(planted.files, planted.queue.redis)
    planted.queue.redis.delete(LAYOUT_KEY)
    (settings.home / migrations.NAME).write_bytes(seal({"layout": 7}))
    with pytest.raises(Unavailable, match=r"layout 7, .*Install the newer Skylight again"):
        migrations.check(planted.files, planted.queue.redis)


def test_the_page_stands_whatever_is_damaged(planted, studio, project):
    two_versions(planted, studio, project)
    for path in planted.files.path(planted.store.folder(project)).rglob("*.json"):
        flip(path, np.random.default_rng(1), 5)
    client = create_app(planted.settings, Service(planted.settings)).test_client()
    assert client.get("/status").status_code == 200
    assert client.get(f"/projects/{project}").status_code == 200


def test_status_says_in_words_what_fails_and_what_to_do(planted, studio, project):
    (bad,) = annotate(studio, project)
    bad["result"] = [brush(LABELING, np.ones((9, 9), bool))]
    for _ in range(2):
        reconcile(planted, project)
    planted.failures.record(project, "train", "the training diverged", "Look at it")
    planted.failures.record(project, "train", "the training diverged", "Look at it")
    text = "\n".join(status.lines(status.all_as_json(planted)))
    assert f"project {project}: serves sam-tiny, 0 annotations" in text
    assert "FAIL  train: the training diverged" in text and "2 times since" in text and "-> Look at it" in text
    assert f"ASIDE annotation {bad['id']} of task {bad['task']}, in quarantine" in text
    away = Service(replace(planted.settings, redis_url="unix:///nowhere/redis.sock"))
    assert "FAIL  Redis does not answer" in "\n".join(status.lines(status.all_as_json(away)))

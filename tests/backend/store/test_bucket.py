"""A store in a bucket, over real HTTP: two machines that share nothing else."""

import hashlib
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import requests

from skylight.backend.errors import ConfigError, Unavailable
from skylight.backend.settings import Settings
from skylight.backend.store import bucket as module
from skylight.backend.store import migrations
from skylight.backend.store.bucket import BucketStore
from skylight.backend.store.opening import open_files
from skylight.backend.store.samples import SampleRecord, SampleStore
from skylight.backend.store.spool import Spool
from skylight.backend.store.url_index import UrlIndex
from skylight.backend.store.versions import Versions
from skylight.model.embeddings.cache import EmbeddingCache
from skylight.model.embeddings.file_format import pack
from skylight.model.sam.segmenter import Embedding
from tests.support.label_studio_double import wait_until
from tests.support.s3_double import Between

P = "1.1795340435"
CURRENT, CONFIG = f"projects/{P}/current.json", f"projects/{P}/project.json"


@pytest.fixture
def machine(between: Between, tmp_path: Path) -> Callable[[str], BucketStore]:
    """A machine's files in a bucket of this test."""
    url = f"s3://maps/{tmp_path.name}"
    return lambda name: BucketStore(url, tmp_path / name)


@pytest.fixture
def own_bucket(between: Between, s3_port: int) -> str:
    """The address of an empty bucket of this test."""
    name = f"own-{uuid.uuid4().hex}"
    requests.put(f"http://127.0.0.1:{s3_port}/{name}", timeout=30).raise_for_status()
    return f"s3://{name}"


def embedding(seed: int) -> Embedding:
    values = np.random.default_rng(seed).normal(size=(4, 2, 2)).astype(np.float16)
    return Embedding(features=values, size=(64, 64), thumbnail=np.full((8, 8, 3), seed, np.uint8))


def record(annotation: int) -> SampleRecord:
    return SampleRecord(annotation, 7, "2026-11-22T09:40:01Z", "/a.png", "0" * 64, (8, 8), ("Pit",), 1)


def test_what_one_machine_writes_the_other_reads(machine):
    one, two = SampleStore(machine("one")), SampleStore(machine("two"))
    assert two.projects() == [] and two.config(P) == "" and two.samples(P) == []
    drawn = np.eye(8, dtype=np.uint8)
    one.save_config(P, "<View/>")
    one.put(P, record(5), drawn, drawn.astype(np.uint16))
    time.sleep(module.FRESH_SECONDS)
    assert two.projects() == [P] and two.config(P) == "<View/>"
    (found,) = two.samples(P)
    assert (two.label_map(P, found) == drawn).all() and (two.objects(P, found) == drawn).all()
    one.remove(P, 5)
    time.sleep(module.FRESH_SECONDS)
    assert two.samples(P) == [] and two.get(P, 5) is None


def test_what_one_machine_forgets_the_other_has_no_more(machine):
    one, two = SampleStore(machine("one")), SampleStore(machine("two"))
    for project in (P, "2.5"):
        one.save_config(project, "<View/>")
        one.put(project, record(7), np.ones((4, 4), np.uint8), np.ones((4, 4), np.uint16))
        Versions(one).publish(project, lambda path: path.write_bytes(b"x") and None, {})
    (kept,) = two.samples(P)
    assert two.label_map(P, kept).all() and two.projects() == [P, "2.5"]
    one.forget(P, 1)
    assert one.projects() == ["2.5"] and one.samples(P) == [] and one.config(P) == ""
    three = SampleStore(machine("three"))
    assert three.projects() == ["2.5"] and three.samples(P) == [] and three.newest_forgotten(P) == 1
    assert not list(one.files.path("projects").rglob(f"{P}/*"))


@pytest.mark.parametrize("prefix", ["", "/", "/team", "/team/mars/"])
def test_a_root_is_listed_by_whole_names(own_bucket, tmp_path, prefix):
    one, two = (BucketStore(own_bucket + prefix, tmp_path / name) for name in ("one", "two"))
    assert one.list_folder("").names == [] and not one.exists("layout.json")
    one.write("layout.json", b"{}")
    one.write(f"projects/{P}/samples/1.json", b"{}")
    for files in (one, two):
        listing = files.list_folder("")
        assert listing.names == ["layout.json", "projects"]
        assert (set(listing.files), set(listing.folders)) == ({"layout.json"}, {"projects"})
        assert files.exists("layout.json") and not files.exists("projects")
        assert files.list_folder("projects").names == [P] == SampleStore(files).projects()
        assert files.list_folder(f"projects/{P}/samples").names == ["1.json"]
        assert files.read(f"projects/{P}/samples/1.json") == b"{}"
    assert one.changed_at("") == two.changed_at("")


def test_an_object_of_a_folder_s_own_name_is_not_in_it(machine, s3_port, tmp_path):
    """S3's console makes one where somebody makes a folder."""
    files = machine("one")
    for name in ("", "projects/", f"projects/{P}/"):
        requests.put(f"http://127.0.0.1:{s3_port}/maps/{tmp_path.name}/{name}", timeout=30).raise_for_status()
    files.write(f"projects/{P}/project.json", b"{}")
    assert files.list_folder("").names == ["projects"] and SampleStore(files).projects() == [P]
    assert files.list_folder(f"projects/{P}").names == ["project.json"]


@pytest.mark.parametrize("prefix", ["", "/team"])
def test_a_store_of_before_checksums_is_brought_up_to_date_in_a_bucket(own_bucket, service, tmp_path, prefix):
    files = BucketStore(own_bucket + prefix, tmp_path / "copy")
    files.write(f"projects/{P}/project.json", b'{"label_config": "<View/>"}')
    files.write(f"projects/{P}/versions/1/decoder.safetensors", b"weights")
    files.write(f"projects/{P}/versions/1/card.json", b'{"labels": ["Pit"]}')
    migrations.check(files, service.queue.redis)
    other = BucketStore(own_bucket + prefix, tmp_path / "other")
    assert migrations.stored(other) == migrations.LAYOUT and SampleStore(other).config(P) == "<View/>"
    assert Versions(SampleStore(other)).card(P, 1)["sha256"] == hashlib.sha256(b"weights").hexdigest()


def test_a_store_in_a_bucket_that_cannot_be_brought_up_to_date_is_not_misread(own_bucket, service, tmp_path):
    def refuse(self, name, data, durable=True):
        raise OSError("access is refused")

    files = BucketStore(own_bucket, tmp_path / "copy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BucketStore, "write", refuse)
        migrations.check(files, service.queue.redis)  # nothing is there to be misread
    files.write(f"projects/{P}/project.json", b'{"label_config": "<View/>"}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BucketStore, "write", refuse)
        with pytest.raises(Unavailable, match="access is refused"):
            migrations.check(files, service.queue.redis)


def test_a_folder_has_another_time_once_anything_in_it_has_changed(machine):
    files, folder = machine("one"), f"projects/{P}/samples"
    with pytest.raises(FileNotFoundError):
        files.changed_at(folder)
    files.write(f"{folder}/1.json", b"{}")
    before = files.changed_at(folder)
    assert files.changed_at(folder) == before < time.time_ns()
    files.write(f"{folder}/2.json", b"{}")
    assert files.changed_at(folder) != before


def test_what_is_in_flight_stays_here(machine, tmp_path):
    one, two = (Spool(tmp_path / name, SampleStore(machine(name))) for name in ("one", "two"))
    one.add(P, {"what": "train"})
    assert len(list((tmp_path / "one/spool").glob("*.json"))) == 1 and two.is_empty()
    assert "spool" not in machine("three").list_folder("").names


def test_a_version_is_there_whole_or_not_at_all(machine):
    one, two = (Versions(SampleStore(machine(name))) for name in ("one", "two"))
    number = one.publish(P, lambda path: path.write_bytes(b"weights") and None, {"labels": ["Pit"]})
    one.promote(P, number)
    time.sleep(module.FRESH_SECONDS)
    assert two.numbers(P) == [1] and two.card(P, 1)["labels"] == ["Pit"] and two.current(P) == 1
    assert two.weights(P, 1) == b"weights"
    one.files.write(f"{one.folder(P)}/2/decoder.safetensors", b"half")  # its card has not come yet
    time.sleep(module.FRESH_SECONDS)
    assert two.numbers(P) == [1]


def test_of_two_machines_that_publish_one_number_one_is_told_so(machine, tmp_path):
    one, two = machine("one"), machine("two")
    for files in (one, two):
        files.path(f"projects/{P}/versions/.part").mkdir(parents=True)
        files.path(f"projects/{P}/versions/.part/card.json").write_bytes(str(files.folder).encode())
    one.publish(one.path(f"projects/{P}/versions/.part"), f"projects/{P}/versions/1", last="card.json")
    with pytest.raises(FileExistsError):
        two.publish(two.path(f"projects/{P}/versions/.part"), f"projects/{P}/versions/1", last="card.json")


def test_an_image_is_embedded_once_for_all_machines(machine):
    one, two = machine("one"), machine("two")
    computed: list[int] = []

    def compute() -> Embedding:
        computed.append(1)
        return embedding(1)

    caches = [EmbeddingCache(files, "sam", 0) for files in (one, two)]
    found = [cache.get("ab" * 32, compute) for cache in caches]
    assert len(computed) == 1 and (found[0].features == found[1].features).all()
    UrlIndex(one).note("http://a/b.png", "ab" * 32)
    assert UrlIndex(two).digest("http://a/b.png") == "ab" * 32
    assert caches[1].has("ab" * 32) and not caches[1].has("cd" * 32)


def test_the_copies_have_a_cap_and_come_back_from_the_bucket(machine, tmp_path):
    files = machine("one")
    cache = EmbeddingCache(files, "sam", 0)
    size = len(pack(embedding(0))[0])
    files.cap.limit = 3 * size
    keys = [f"{seed:02d}" * 32 for seed in range(8)]
    for seed, key in enumerate(keys):
        cache.get(key, lambda seed=seed: embedding(seed))
        os.utime(cache.path(key), (seed, seed))  # not in use just now
    assert sum(cache.path(key).is_file() for key in keys) <= 3
    assert all((cache.get(key, pytest.fail).picture is None) for key in keys)


def test_a_bucket_that_fails_a_few_times_is_asked_again(machine, between):
    one, two = machine("one"), machine("two")
    between.failing = 3
    one.write(CURRENT, b"1")
    assert between.failed == 3
    between.failing = 2
    assert two.read(CURRENT) == b"1"
    assert between.failed == 5


def test_a_machine_that_is_cut_off_serves_what_it_has_and_catches_up(machine, between, monkeypatch):
    monkeypatch.setattr(module, "TRIES", 1)
    monkeypatch.setattr(module, "AWAY_SECONDS", 1.0)
    one, two = machine("one"), machine("two")
    one.write(CURRENT, b"1")
    assert two.read(CURRENT) == b"1"
    between.cut_off()
    time.sleep(module.FRESH_SECONDS)
    assert two.read(CURRENT) == b"1"
    with pytest.raises(OSError, match="does not answer"):
        one.write(CURRENT, b"2")
    with pytest.raises(OSError, match="no copy"):
        two.read(CONFIG)
    between.cut = False
    time.sleep(module.AWAY_SECONDS)
    one.write(CURRENT, b"2")
    time.sleep(module.FRESH_SECONDS)
    assert two.read(CURRENT) == b"2"


def test_who_answers_people_does_not_wait_for_a_slow_bucket_and_has_its_answer_soon(machine, between):
    one, two = machine("one"), machine("two")
    two.prefer_copies()
    one.write(CURRENT, b"1")
    assert two.read(CURRENT) == b"1" and not two.exists(CONFIG)
    one.write(CURRENT, b"2")
    one.write(CONFIG, b"{}")
    time.sleep(module.FRESH_SECONDS)
    between.delay = 2 * module.COPY_SECONDS
    two._client = BucketStore(two.url, two.folder)._client  # no connection that is open already
    assert two.read(CURRENT) == b"1" and not two.exists(CONFIG)
    wait_until(lambda: two.read(CURRENT) == b"2" and two.exists(CONFIG), 20)
    assert two.read(CONFIG) == b"{}"  # of what there is no copy, the bucket's answer is waited for


def test_what_has_not_changed_is_not_sent_again(machine, between, monkeypatch):
    one, two = machine("one"), machine("two")
    one.write(CONFIG, b"x" * 1000)
    assert two.read(CONFIG) == b"x" * 1000
    written: list[str] = []
    monkeypatch.setattr(BucketStore, "_copy", lambda self, name, data, tag: written.append(name))
    time.sleep(module.FRESH_SECONDS)
    assert two.read(CONFIG) == b"x" * 1000 and written == []


def test_the_home_in_a_bucket_is_a_setting(tmp_path, between):
    given = {
        "SKYLIGHT_HOME": "s3://maps/team",
        "SKYLIGHT_COPY": str(tmp_path / "copy"),
        "SKYLIGHT_WEBHOOK_SECRET": "x" * 16,
    }
    settings = Settings.from_env(given)
    assert (settings.bucket, settings.home) == ("s3://maps/team", tmp_path / "copy")
    files = open_files(settings)
    assert isinstance(files, BucketStore) and (files.url, files.folder) == (settings.bucket, settings.home)
    assert files.cap.limit == 20000 * 2**20
    with pytest.raises(ConfigError, match="SKYLIGHT_WEBHOOK_SECRET"):
        Settings.from_env({"SKYLIGHT_HOME": "s3://maps/team"})

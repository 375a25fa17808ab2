"""A store in a bucket, over real HTTP: two machines that share nothing else."""

import dataclasses
import hashlib
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import requests

from skylight.backend.errors import Unavailable
from skylight.backend.settings import Settings
from skylight.backend.store import bucket as module
from skylight.backend.store import bucket_path, migrations
from skylight.backend.store.bucket import Bucket
from skylight.backend.store.samples import SampleRecord, Store
from skylight.backend.store.url_index import Addresses
from skylight.backend.store.versions import Versions
from skylight.model.embeddings.cache import EmbeddingCache, pack
from skylight.model.sam.types import Embedding
from skylight.model.storage import atomic_write
from tests.support.label_studio_double import wait_until
from tests.support.s3_double import Between

P = "1.1795340435"


@pytest.fixture
def machine(between: Between, tmp_path: Path) -> Callable[[str], Path]:
    """A machine's home in a bucket of this test."""
    url = f"s3://maps/{tmp_path.name}"
    return lambda name: bucket_path.at(url, tmp_path / name)


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
    one, two = Store(machine("one")), Store(machine("two"))
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
    one, two = Store(machine("one")), Store(machine("two"))
    for project in (P, "2.5"):
        one.save_config(project, "<View/>")
        one.put(project, record(7), np.ones((4, 4), np.uint8), np.ones((4, 4), np.uint16))
        Versions(one).publish(project, lambda path: path.write_bytes(b"x") and None, {})
    (kept,) = two.samples(P)
    assert two.label_map(P, kept).all() and two.projects() == [P, "2.5"]
    one.forget(P, 1)
    assert one.projects() == ["2.5"] and one.samples(P) == [] and one.config(P) == ""
    three = Store(machine("three"))
    assert three.projects() == ["2.5"] and three.samples(P) == [] and three.newest_forgotten(P) == 1
    assert not list(Path(one.folder(P)).parent.rglob(f"{P}/*"))


@pytest.mark.parametrize("prefix", ["", "/", "/team", "/team/mars/"])
def test_a_root_is_listed_by_whole_names(own_bucket, tmp_path, prefix):
    home, other = (bucket_path.at(own_bucket + prefix, tmp_path / name) for name in ("one", "two"))
    assert list(home.iterdir()) == [] and not (home / "layout.json").exists()
    atomic_write.write(home / "layout.json", b"{}")
    atomic_write.write(home / "projects" / P / "samples" / "1.json", b"{}")
    for each in (home, other):
        assert [path.name for path in each.iterdir()] == ["layout.json", "projects"]
        assert (each / "layout.json").is_file() and (each / "projects").is_dir() and not each.is_file()
        assert [path.name for path in each.glob("projects/*")] == [P] == Store(each).projects()
        assert [path.read_bytes() for path in each.glob("projects/*/samples/*.json")] == [b"{}"]
    assert home.stat().st_mtime_ns == other.stat().st_mtime_ns


def test_an_object_of_a_folder_s_own_name_is_not_in_it(machine, s3_port, tmp_path):
    """S3's console makes one where somebody makes a folder."""
    home = machine("one")
    for name in ("", "projects/", f"projects/{P}/"):
        requests.put(f"http://127.0.0.1:{s3_port}/maps/{tmp_path.name}/{name}", timeout=30).raise_for_status()
    atomic_write.write(home / "projects" / P / "project.json", b"{}")
    assert [path.name for path in home.iterdir()] == ["projects"] and Store(home).projects() == [P]
    assert [path.name for path in home.glob("projects/*/*")] == ["project.json"]


@pytest.mark.parametrize("prefix", ["", "/team"])
def test_a_store_of_before_checksums_is_brought_up_to_date_in_a_bucket(own_bucket, service, tmp_path, prefix):
    home = bucket_path.at(own_bucket + prefix, tmp_path / "copy")
    atomic_write.write(home / "projects" / P / "project.json", b'{"label_config": "<View/>"}')
    atomic_write.write(home / "projects" / P / "versions" / "1" / "decoder.safetensors", b"weights")
    atomic_write.write(home / "projects" / P / "versions" / "1" / "card.json", b'{"labels": ["Pit"]}')
    service.settings = dataclasses.replace(service.settings, home=home)
    migrations.check(service.settings.home, service.queue.redis)
    machine = bucket_path.at(own_bucket + prefix, tmp_path / "other")
    assert migrations.stored(machine) == migrations.LAYOUT and Store(machine).config(P) == "<View/>"
    assert Versions(Store(machine)).card(P, 1)["sha256"] == hashlib.sha256(b"weights").hexdigest()


def test_a_store_in_a_bucket_that_cannot_be_brought_up_to_date_is_not_misread(own_bucket, service, tmp_path):
    def refuse(self, name, data, new=False):
        raise OSError("access is refused")

    home = bucket_path.at(own_bucket, tmp_path / "copy")
    service.settings = dataclasses.replace(service.settings, home=home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "write", refuse)
        migrations.check(service.settings.home, service.queue.redis)  # nothing is there to be misread
    atomic_write.write(home / "projects" / P / "project.json", b'{"label_config": "<View/>"}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "write", refuse)
        with pytest.raises(Unavailable, match="access is refused"):
            migrations.check(service.settings.home, service.queue.redis)


def test_a_folder_has_another_time_once_anything_in_it_has_changed(machine):
    folder = machine("one") / "projects" / P / "samples"
    atomic_write.write(folder / "1.json", b"{}")
    before = folder.stat().st_mtime_ns
    assert folder.stat().st_mtime_ns == before < time.time_ns()
    atomic_write.write(folder / "2.json", b"{}")
    assert folder.stat().st_mtime_ns != before


def test_what_is_in_flight_stays_here(machine, tmp_path):
    one, two = machine("one"), machine("two")
    Store(one).spool(P, {"what": "train"})
    assert type(one / "spool") is type(one / "checkpoints") is type(Path()) is type(one / "broker" / "address")
    assert len(list((tmp_path / "one/spool").glob("*.json"))) == 1 and not (two / "spool").exists()


def test_a_version_is_there_whole_or_not_at_all(machine):
    one, two = (Versions(Store(machine(name))) for name in ("one", "two"))
    number = one.publish(P, lambda path: path.write_bytes(b"weights") and None, {"labels": ["Pit"]})
    one.promote(P, number)
    time.sleep(module.FRESH_SECONDS)
    assert two.numbers(P) == [1] and two.card(P, 1)["labels"] == ["Pit"] and two.current(P) == 1
    assert two.weights(P, 1).read_bytes() == b"weights"
    atomic_write.write(one.folder(P) / "2" / "decoder.safetensors", b"half")  # its card has not come yet
    time.sleep(module.FRESH_SECONDS)
    assert two.numbers(P) == [1]


def test_of_two_machines_that_publish_one_number_one_is_told_so(machine, tmp_path):
    one, two = machine("one") / "projects" / P / "versions" / "1", machine("two") / "projects" / P / "versions" / "1"
    for each in (one, two):
        each.mkdir(parents=True)
        Path(each, "card.json").write_bytes(str(each).encode())
    bucket_path.publish(one, last="card.json")
    with pytest.raises(FileExistsError):
        bucket_path.publish(two, last="card.json")


def test_an_image_is_embedded_once_for_all_machines(machine):
    one, two = machine("one"), machine("two")
    computed: list[int] = []

    def compute() -> Embedding:
        computed.append(1)
        return embedding(1)

    caches = [EmbeddingCache(home / "embeddings", "sam", 0) for home in (one, two)]
    found = [cache.get("ab" * 32, compute) for cache in caches]
    assert len(computed) == 1 and (found[0].features == found[1].features).all()
    Addresses(one / "addresses").note("http://a/b.png", "ab" * 32)
    assert Addresses(two / "addresses").digest("http://a/b.png") == "ab" * 32
    assert caches[1].path("ab" * 32).exists() and not caches[1].path("cd" * 32).exists()


def test_the_copies_have_a_cap_and_come_back_from_the_bucket(machine, tmp_path):
    home = machine("one")
    cache = EmbeddingCache(home / "embeddings", "sam", 0)
    size = len(pack(embedding(0))[0])
    home.bucket.cap.limit = 3 * size
    keys = [f"{seed:02d}" * 32 for seed in range(8)]
    for seed, key in enumerate(keys):
        cache.get(key, lambda seed=seed: embedding(seed))
        os.utime(Path(cache.path(key)), (seed, seed))  # not in use just now
    assert sum(Path(cache.path(key)).is_file() for key in keys) <= 3
    assert all((cache.get(key, pytest.fail).picture is None) for key in keys)


def test_a_bucket_that_fails_a_few_times_is_asked_again(machine, between):
    home = machine("one")
    between.failing = 3
    atomic_write.write(home / "projects" / P / "current.json", b"1")
    assert between.failed == 3
    between.failing = 2
    assert (machine("two") / "projects" / P / "current.json").read_bytes() == b"1"
    assert between.failed == 5


def test_a_machine_that_is_cut_off_serves_what_it_has_and_catches_up(machine, between, monkeypatch):
    monkeypatch.setattr(module, "TRIES", 1)
    monkeypatch.setattr(module, "AWAY_SECONDS", 1.0)
    one, two = machine("one") / "projects" / P / "current.json", machine("two") / "projects" / P / "current.json"
    atomic_write.write(one, b"1")
    assert two.read_bytes() == b"1"
    between.cut_off()
    time.sleep(module.FRESH_SECONDS)
    assert two.read_bytes() == b"1"
    with pytest.raises(OSError, match="does not answer"):
        atomic_write.write(one, b"2")
    with pytest.raises(OSError, match="no copy"):
        (two.parent / "project.json").read_bytes()
    between.cut = False
    time.sleep(module.AWAY_SECONDS)
    atomic_write.write(one, b"2")
    time.sleep(module.FRESH_SECONDS)
    assert two.read_bytes() == b"2"


def test_who_answers_people_does_not_wait_for_a_slow_bucket_and_has_its_answer_soon(machine, between):
    one, two = machine("one") / "projects" / P, machine("two") / "projects" / P
    bucket_path.hurry(two.bucket.folder)  # a plain path: nothing
    bucket_path.hurry(two)
    atomic_write.write(one / "current.json", b"1")
    assert (two / "current.json").read_bytes() == b"1" and not (two / "project.json").exists()
    atomic_write.write(one / "current.json", b"2")
    atomic_write.write(one / "project.json", b"{}")
    time.sleep(module.FRESH_SECONDS)
    between.delay = 2 * module.HURRY_SECONDS
    two.bucket._store = Bucket(two.bucket.url, two.bucket.folder)._store  # no connection that is open already
    assert (two / "current.json").read_bytes() == b"1" and not (two / "project.json").exists()
    wait_until(lambda: (two / "current.json").read_bytes() == b"2" and (two / "project.json").exists(), 20)
    assert (two / "project.json").read_bytes() == b"{}"  # of what there is no copy, the bucket's answer is waited for


def test_what_has_not_changed_is_not_sent_again(machine, between, monkeypatch):
    one, two = machine("one"), machine("two")
    atomic_write.write(one / "projects" / P / "project.json", b"x" * 1000)
    place = two / "projects" / P / "project.json"
    assert place.read_bytes() == b"x" * 1000
    written: list[str] = []
    monkeypatch.setattr(Bucket, "_copy", lambda self, name, data, tag: written.append(name))
    time.sleep(module.FRESH_SECONDS)
    assert place.read_bytes() == b"x" * 1000 and written == []


def test_the_home_in_a_bucket_is_a_setting(tmp_path):
    given = {
        "SKYLIGHT_HOME": "s3://maps/team",
        "SKYLIGHT_COPY": str(tmp_path / "copy"),
        "SKYLIGHT_WEBHOOK_SECRET": "x" * 16,
    }
    home = Settings.from_env(given).home
    assert isinstance(home, bucket_path.SharedPath) and home.bucket.url == "s3://maps/team"
    assert home.bucket.cap.limit == 20000 * 2**20
    assert str(home / "checkpoints") == str(tmp_path / "copy/checkpoints")
    from skylight.backend.errors import ConfigError

    with pytest.raises(ConfigError, match="SKYLIGHT_WEBHOOK_SECRET"):
        Settings.from_env({"SKYLIGHT_HOME": "s3://maps/team"})

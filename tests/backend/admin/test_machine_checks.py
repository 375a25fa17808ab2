"""What the doctor sees of this machine: Redis, workers, weights, disk."""

import hashlib
import os
import shutil
import socket
from collections import namedtuple
from dataclasses import replace

import pytest
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from skylight.backend.admin import machine_checks
from skylight.backend.queue.connection import REPLY_SECONDS
from skylight.backend.service import Service
from skylight.model.sam import checkpoints
from skylight.model.sam.checkpoints import Checkpoint

Usage = namedtuple("Usage", "total used free")


def found(service: Service) -> dict[str, machine_checks.Finding]:
    return {each.what: each for each in machine_checks.findings(service)}


def info(monkeypatch: pytest.MonkeyPatch, service: Service, **change: object) -> None:
    """Redis as it is but for what is changed."""
    real = service.queue.redis.info()
    monkeypatch.setattr(service.queue.redis, "info", lambda: {**real, **change})


def test_the_broker_is_a_valkey_that_keeps_a_file(service):
    seen = found(service)
    assert seen["Redis"].state == "ok" and seen["Redis"].detail.startswith("Valkey ")
    assert (seen["Redis: persistence"].state, seen["Redis: persistence"].detail) == ("ok", "append-only file")


@pytest.mark.parametrize(
    ("change", "what", "state", "said"),
    [
        ({"redis_version": "5.0.14", "valkey_version": None}, "Redis", "fail", "5.0.14"),
        ({"maxmemory": 1000, "maxmemory_policy": "allkeys-lru"}, "Redis", "fail", "allkeys-lru"),
        ({"maxmemory": 1000, "maxmemory_policy": "noeviction"}, "Redis", "ok", ""),
        ({"aof_last_write_status": "err"}, "Redis: persistence", "fail", "failed"),
        ({"aof_enabled": 0}, "Redis: persistence", "warn", "snapshots"),
    ],
)
def test_a_redis_that_could_lose_something_is_named(service, monkeypatch, change, what, state, said):
    monkeypatch.setattr(service.queue.redis, "config_get", lambda name: {name: "3600 1"})
    info(monkeypatch, service, **change)
    seen = found(service)[what]
    assert seen.state == state and said in seen.detail
    assert bool(seen.next_step) == (state != "ok")


def test_a_redis_without_any_file_is_named(service, monkeypatch):
    info(monkeypatch, service, aof_enabled=0)
    monkeypatch.setattr(service.queue.redis, "config_get", lambda name: {name: ""})
    assert found(service)["Redis: persistence"].detail.startswith("none: ")


def test_a_redis_that_is_away_is_one_line_with_its_address_and_no_password(service):
    away = Service(replace(service.settings, redis_url="redis://user:s3cret@127.0.0.1:1/0"))
    seen = found(away)
    assert seen["Redis"].state == "fail" and "127.0.0.1:1" in seen["Redis"].detail
    assert "s3cret" not in str(seen)
    assert "worker" not in seen and seen["SAM"].state == "ok"


def test_a_worker_is_alive_while_its_process_is(service):
    assert found(service)["worker"].state == "fail"
    assert "skylight worker" in found(service)["worker"].next_step
    patient = Service(service.settings)  # rq gives a worker's connection other timeouts
    queues = list(patient.queue.queues.values())
    worker = SimpleWorker(queues, connection=patient.queue.redis, serializer=JSONSerializer)
    worker.register_birth()
    seen = found(service)["worker"]
    assert seen.state == "ok" and f"process {os.getpid()} on {socket.gethostname()}" in seen.detail
    service.queue.redis.hset(worker.key, "pid", 2**22 + 1)  # as after a kill -9
    assert found(service)["worker"].state == "fail"
    service.queue.redis.hset(worker.key, "hostname", "elsewhere")  # there, nobody can look
    assert found(service)["worker"].state == "ok"
    worker.register_death()
    assert found(service)["worker"].state == "fail"
    assert service.queue.redis.connection_pool.connection_kwargs["socket_timeout"] == REPLY_SECONDS


def test_jobs_that_nobody_takes_are_counted(service):
    service.queue.request("1.1", "ingest")
    assert found(service)["worker"].detail == "none runs; 1 jobs wait, nothing is learned"


@pytest.fixture
def tiny_checkpoint(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A published checkpoint of a few bytes."""
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    made = Checkpoint("small", "http://127.0.0.1:1/small.pth", digest, len(content), "MIT", "")
    monkeypatch.setitem(checkpoints.CHECKPOINTS, "small", made)
    return content


def test_a_checkpoint_is_verified_by_its_hash(service, tiny_checkpoint):
    small = Service(replace(service.settings, sam="small"))
    path = small.settings.home / "checkpoints" / "small.pth"
    assert found(small)["SAM"].state == "fail" and "download small" in found(small)["SAM"].next_step
    path.parent.mkdir(parents=True)
    path.write_bytes(tiny_checkpoint)
    assert found(small)["SAM"].state == "ok" and "as published" in found(small)["SAM"].detail
    path.write_bytes(tiny_checkpoint[::-1])
    os.utime(path, ns=(1, 1))
    assert found(small)["SAM"].state == "fail" and "not the published one" in found(small)["SAM"].detail
    path.write_bytes(b"cut")
    assert "bytes instead of" in found(small)["SAM"].detail


def test_the_bundled_sam_is_named_by_its_hash(service):
    digest = hashlib.sha256(machine_checks.TINY_WEIGHTS.read_bytes()).hexdigest()
    assert found(service)["SAM"].detail == f"tiny, bundled, sha256 {digest[:16]}..."


@pytest.mark.parametrize(("free", "state"), [(100e9, "ok"), (4e9, "warn"), (0.4e9, "fail")])
def test_a_disk_that_fills_up_is_named_before_it_is_full(service, monkeypatch, free, state):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free))
    seen = found(service)["disk"]
    assert seen.state == state and f"{free / 1e9:.1f} GB free" in seen.detail
    assert str(service.settings.home) in seen.detail


def test_what_embeddings_take_and_may_take_is_told(service):
    assert "; embeddings take 0.0 GB, at most 21.0 GB" in found(service)["disk"].detail
    free = Service(replace(service.settings, disk_mb=0))
    assert found(free)["disk"].detail.endswith("0.0 GB, without limit")


def test_a_home_that_cannot_be_written_is_named(service, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert found(service)["disk"].state == "fail"

"""Which workers run: told by a heartbeat of seconds, and in one way by doctor, page and /metrics."""

import os
import socket
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from skylight.backend.admin import machine_checks
from skylight.backend.admin.project_state import RecordCache
from skylight.backend.queue.allowlist import HANDLERS
from skylight.backend.queue.workers import ALIVE_SECONDS, running
from skylight.backend.service import Service
from skylight.backend.web.metrics import install
from skylight.backend.web.page.overview import project_view
from skylight.backend.worker import worker
from tests.support.label_studio_double import wait_until


@pytest.fixture
def registered(service):
    """A worker of this process that has begun, and its service, whose connection RQ has given other timeouts."""
    own = Service(service.settings)
    made = worker.Worker(list(own.queue.queues.values()), connection=own.queue.redis)
    made.service = own
    made.register_birth()
    yield made
    own.queue.redis.close()


def move_away(service: Service, name: str) -> None:
    """Have a worker be on another machine, where nobody can look for its process."""
    service.queue.redis.hset(name, "hostname", "elsewhere")


def test_a_worker_runs_from_its_birth_to_its_death(service, registered):
    (found,) = running(service.queue)
    assert (found.process, found.host, found.kinds) == (os.getpid(), socket.gethostname(), tuple(service.queue.queues))
    assert f"process {os.getpid()} on {socket.gethostname()}" in str(found) and found.age < ALIVE_SECONDS
    registered.register_death()
    assert running(service.queue) == []


def test_a_worker_of_this_machine_is_dead_as_soon_as_its_process_is(service, registered):
    service.queue.redis.hset(registered.key, "pid", 2**22 + 1)
    assert running(service.queue) == []
    move_away(service, registered.key)
    assert len(running(service.queue)) == 1


def test_a_worker_that_dies_in_a_job_of_an_hour_is_believed_for_seconds_only(service, registered):
    registered.heartbeat(3600 + 60)  # as RQ does when a job begins
    move_away(service, registered.key)
    assert 0 < service.queue.redis.ttl(registered.key) <= ALIVE_SECONDS
    service.queue.redis.expire(registered.key, 0)
    assert running(service.queue) == []


def test_one_whose_heartbeat_is_old_and_never_expires_is_dead(service, registered):
    move_away(service, registered.key)
    service.queue.redis.persist(registered.key)
    assert len(running(service.queue)) == 1
    old = datetime.now(UTC) - timedelta(seconds=ALIVE_SECONDS + 30)
    service.queue.redis.hset(registered.key, "last_heartbeat", old.isoformat())
    assert running(service.queue) == []


def test_a_clock_that_differs_makes_no_living_worker_dead(service, registered):
    move_away(service, registered.key)
    service.queue.redis.hset(registered.key, "last_heartbeat", "2020-01-01T00:00:00.000000Z")
    assert len(running(service.queue)) == 1


def test_what_redis_has_lost_of_a_worker_comes_back_with_its_next_heartbeat(service, registered):
    service.queue.redis.flushall()
    assert running(service.queue) == []
    registered.beat()
    assert [each.process for each in running(service.queue)] == [os.getpid()]


def test_doctor_page_and_metrics_count_the_same_workers(service, registered):
    def counts() -> tuple[int, int, int]:
        said = machine_checks.quick_findings(service)
        doctor = next(each.detail for each in said if each.what == "worker").count("process ")
        return doctor, project_view(service, "1.1", RecordCache(service), None).workers, _in_metrics(service)

    assert counts() == (1, 1, 1)
    other = worker.Worker([registered.service.queue.queues["train"]], connection=registered.connection)
    other.register_birth()
    assert counts() == (2, 2, 2)
    move_away(service, registered.key)
    service.queue.redis.expire(registered.key, 0)
    assert service.queue.redis.sismember(WORKERS_BY_QUEUE_KEY % "skylight-train", registered.key)
    assert counts() == (1, 1, 1)
    service.queue.redis.hset(other.key, "pid", 2**22 + 1)
    assert counts() == (0, 0, 0)


def _in_metrics(service: Service) -> int:
    app = Flask("metrics")
    app.extensions["skylight"] = service
    found = {each.name: each for each in install(app).collect()}
    return int(found["skylight_workers"].samples[0].value)


def test_a_worker_says_that_it_lives_also_while_it_does_a_job(service, work, monkeypatch):
    seen = []

    def job(project: str) -> None:
        (name,) = service.queue.redis.smembers("rq:workers")
        service.queue.redis.delete(name)  # as if Redis had lost it
        wait_until(lambda: running(service.queue))
        seen.extend(running(service.queue))

    monkeypatch.setattr("skylight.backend.queue.locks.LOCK_SECONDS", 0.3)
    monkeypatch.setitem(HANDLERS, "embed", job)
    service.queue.request("1.1", "embed")
    work()
    assert [(each.process, each.state) for each in seen] == [(os.getpid(), "busy")]
    assert running(service.queue) == []

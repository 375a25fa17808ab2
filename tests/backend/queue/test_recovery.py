"""Jobs that their worker dropped, at every point where it may die."""

import pytest
import redis

from skylight.backend.errors import Stopping
from skylight.backend.queue import locks
from skylight.backend.queue.connection import connect
from skylight.backend.queue.keys import KINDS, PROJECTS, key
from skylight.backend.queue.queue import Queue
from skylight.backend.queue.recovery import Sweep, recover, requeue_running, running
from tests.support.label_studio_double import wait_until

P = "1.1795340435"


@pytest.fixture
def queue(broker_url: str) -> Queue:
    return Queue(connect(broker_url))


def jobs(queue: Queue, kind: str) -> int:
    return queue.queues[kind].count


def die(queue: Queue, kind: str) -> object:
    """Begin a job as a worker does that is killed in it; while what this gives is kept, it does not end."""
    job = running(queue, P, kind)
    job.__enter__()
    for name in queue.redis.scan_iter(f"*{kind}-alive-*"):
        queue.redis.delete(name)  # as after `LOCK_SECONDS`
    return job


def test_a_running_job_leaves_nothing_behind(queue):
    queue.request(P, "train")
    queue.queues["train"].pop_job_id()
    with running(queue, P, "train"):
        queue.request(P, "train")  # what comes meanwhile
        assert jobs(queue, "train") == 1
        assert Sweep(queue).run() == 0
    assert not queue.running
    assert not [name for name in queue.redis.scan_iter() if b"hand" in name or b"alive" in name]
    assert Sweep(queue).run() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_whose_worker_died_in_it_is_queued_once_more_whoever_looks(queue, kind):
    queue.request(P, kind)
    queue.queues[kind].pop_job_id()
    job = die(queue, kind)
    assert jobs(queue, kind) == 0
    assert sum(Sweep(queue).run() for _ in range(3)) == 1
    assert jobs(queue, kind) == 1
    del job


def test_a_living_worker_keeps_its_job(queue, monkeypatch):
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.6)
    with running(queue, P, "train"):
        (alive,) = queue.redis.scan_iter("*train-alive-*")
        wait_until(lambda: queue.redis.pttl(alive) < 450)
        wait_until(lambda: queue.redis.pttl(alive) > 450)  # renewed
        assert Sweep(queue).run() == 0


def test_a_job_taken_by_a_worker_that_never_began_is_queued_again_at_the_second_look(queue):
    queue.request(P, "preannotate")
    queue.queues["preannotate"].pop_job_id()
    sweep = Sweep(queue)
    assert (sweep.run(), jobs(queue, "preannotate")) == (0, 0)  # it may be about to begin
    assert (sweep.run(), jobs(queue, "preannotate")) == (1, 1)
    assert sweep.run() == 0


def test_a_job_that_waits_is_left_alone(queue):
    queue.request(P, "train")
    sweep = Sweep(queue)
    assert sweep.run() + sweep.run() == 0
    assert jobs(queue, "train") == 1


def test_events_that_nobody_was_told_of_get_a_job(queue):
    queue.redis.rpush(key(P, "inbox"), "{}")
    queue.redis.sadd(PROJECTS, P)
    assert Sweep(queue).run() == 1
    assert jobs(queue, "ingest") == 1


def test_a_start_beside_a_worker_at_work_queues_nothing_twice(queue):
    queue.request(P, "embed")
    queue.request(P, "train")
    queue.queues["train"].pop_job_id()
    with running(queue, P, "train"):
        for _ in range(3):
            recover(queue)
        assert (jobs(queue, "train"), jobs(queue, "embed"), jobs(queue, "ingest")) == (0, 1, 1)


def test_a_job_that_gives_up_is_queued_again(queue):
    with running(queue, P, "train"):
        raise Stopping
    assert jobs(queue, "train") == 1
    assert Sweep(queue).run() == 0


def test_a_job_that_fails_is_not_repeated_by_itself(queue):
    with pytest.raises(ValueError, match="no"), running(queue, P, "train"):
        raise ValueError("no")
    assert (Sweep(queue).run(), jobs(queue, "train")) == (0, 0)


def test_a_job_that_loses_redis_is_taken_up_again(queue):
    queue.request(P, "train")
    queue.queues["train"].pop_job_id()
    with pytest.raises(redis.ConnectionError), running(queue, P, "train"):
        raise redis.ConnectionError
    for name in queue.redis.scan_iter("*train-alive-*"):
        queue.redis.delete(name)
    assert (Sweep(queue).run(), jobs(queue, "train")) == (1, 1)


def test_the_running_jobs_of_a_process_can_be_queued_again_from_another_thread(queue):
    with running(queue, P, "train"), running(queue, P, "embed"):
        requeue_running(queue)
        assert (jobs(queue, "train"), jobs(queue, "embed")) == (1, 1)

"""The queue over a real Valkey: nothing lost, nothing twice, and what happens when somebody dies."""

import json
import socket
import threading
import time

import pytest
import redis

from skylight.backend.queue import locks
from skylight.backend.queue.connection import TCP, connect
from skylight.backend.queue.keys import KINDS, key
from skylight.backend.queue.queue import Progress, Queue
from skylight.backend.queue.recovery import recover
from tests.support.label_studio_double import wait_until

P = "1.1795340435"


@pytest.fixture
def queue(broker_url: str) -> Queue:
    return Queue(connect(broker_url))


def event(n: int) -> dict[str, object]:
    return {"what": "annotation", "id": n}


def jobs(queue: Queue, kind: str) -> int:
    return queue.queues[kind].count


def test_nothing_is_connected_before_the_first_command():
    Queue(connect("unix:///nowhere/redis.sock"))


def test_an_accepted_event_is_in_the_inbox_counted_and_has_a_job(queue):
    queue.add_event(P, event(1))
    assert queue.inbox_length(P) == queue.dirty(P) == jobs(queue, "ingest") == 1
    assert queue.projects() == [P]
    (job,) = queue.queues["ingest"].jobs
    assert (job.func_name, list(job.args)) == ("skylight.backend.worker.jobs.ingest", [P])
    assert json.loads(job.data) == ["skylight.backend.worker.jobs.ingest", None, [P], {}]  # JSON, never a pickle


def test_an_event_that_changes_no_annotation_is_not_counted(queue):
    queue.add_event(P, event(1), dirty=False)
    assert (queue.inbox_length(P), queue.dirty(P), jobs(queue, "ingest")) == (1, 0, 1)


def test_fifty_events_queue_one_job(queue):
    for n in range(50):
        queue.add_event(P, event(n))
    assert (queue.inbox_length(P), queue.dirty(P), jobs(queue, "ingest")) == (50, 50, 1)


def test_an_event_during_a_job_queues_exactly_one_more(queue):
    queue.add_event(P, event(1))
    queue.queues["ingest"].pop_job_id()
    queue.add_event(P, event(2))
    assert jobs(queue, "ingest") == 0  # still the first one's turn
    queue.mark_begun(P, "ingest")
    queue.add_event(P, event(3))
    queue.add_event(P, event(4))
    assert jobs(queue, "ingest") == 1


def test_projects_and_kinds_do_not_stand_in_each_others_way(queue):
    for project in (P, "2.1795340436"):
        queue.add_event(project, event(1))
        queue.request(project, "train")
        queue.request(project, "train")
    assert (jobs(queue, "ingest"), jobs(queue, "train"), jobs(queue, "preannotate")) == (2, 2, 0)
    assert queue.has_waiting("train") and not queue.has_waiting("preannotate")


def test_events_accepted_by_many_threads_are_all_there_with_one_job(queue):
    def accept(start: int) -> None:
        for n in range(start, start + 50):
            queue.add_event(P, event(n))

    threads = [threading.Thread(target=accept, args=(1000 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (queue.dirty(P), jobs(queue, "ingest")) == (200, 1)
    assert {e["id"] for e in queue.take_events(P)} == {1000 * k + n for k in range(4) for n in range(50)}


def test_an_event_leaves_the_inbox_only_when_the_next_one_is_asked_for(queue):
    for n in (1, 2, 3):
        queue.add_event(P, event(n))
    inbox = queue.take_events(P)
    assert next(inbox)["id"] == 1
    assert queue.inbox_length(P) == 3
    assert next(inbox)["id"] == 2
    assert queue.inbox_length(P) == 2
    inbox.close()  # as when the worker fails at event 2
    assert [e["id"] for e in queue.take_events(P)] == [2, 3]
    assert queue.inbox_length(P) == 0


def test_an_event_that_comes_while_the_inbox_is_emptied_is_seen(queue):
    queue.add_event(P, event(1))
    seen = []
    for one in queue.take_events(P):
        seen.append(one["id"])
        if len(seen) < 3:
            queue.add_event(P, event(len(seen) + 1))
    assert seen == [1, 2, 3]


def test_what_was_trained_is_kept_apart_from_what_changed(queue):
    assert (queue.dirty(P), queue.trained(P)) == (0, 0)
    queue.mark_dirty(P)
    queue.mark_dirty(P)
    queue.set_trained(P, 1)
    assert (queue.dirty(P), queue.trained(P)) == (2, 1)


def test_the_wish_to_reconcile_is_taken_once(queue):
    assert not queue.take_reconciliation(P)
    queue.request_reconciliation(P)
    queue.request_reconciliation(P)
    assert queue.take_reconciliation(P)
    assert not queue.take_reconciliation(P)


def test_a_request_for_a_comparison_made_while_one_is_taken_is_never_lost(queue, broker_url):
    other, taken, done = Queue(connect(broker_url)), [], threading.Event()

    def take() -> None:
        while not done.is_set():
            taken.extend(filter(None, [other.take_reconciliation(P)]))

    taker = threading.Thread(target=take)
    taker.start()
    try:
        for number in range(1, 101):
            queue.request_reconciliation(P)
            wait_until(lambda count=number: len(taken) == count, 10)
    finally:
        done.set()
        taker.join()
        other.redis.close()


def test_after_a_crash_every_project_gets_a_job_again(queue):
    queue.add_event(P, event(1))
    for kind in KINDS[1:]:
        queue.request(P, kind)
    for kind in KINDS:  # a worker took them and was killed before it began
        queue.queues[kind].pop_job_id()
    queue.add_event(P, event(2))
    assert jobs(queue, "ingest") == 0
    recover(queue)
    assert jobs(queue, "ingest") == 1
    assert queue.take_reconciliation(P)
    queue.request(P, "train")
    assert jobs(queue, "train") == 1


def test_a_project_that_redis_has_forgotten_is_trained_anew(queue):
    queue.add_event(P, event(1))
    recover(queue, [P, "2.1795340436"])
    assert (queue.dirty(P), queue.dirty("2.1795340436")) == (1, 1)
    assert "2.1795340436" in queue.projects()
    recover(queue, [P, "2.1795340436"])
    assert queue.dirty("2.1795340436") == 1


def test_a_lock_is_held_by_one_and_free_afterwards(queue, monkeypatch):
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.3)
    with queue.lock(P, "train") as first, queue.lock(P, "train") as second, queue.lock(P, "ingest") as other:
        assert (first, second, other) == (True, False, True)
    with queue.lock(P, "train") as again:
        assert again


def test_a_living_owner_keeps_its_lock_however_long_it_takes(queue, monkeypatch):
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.3)
    held = threading.Event()

    def own() -> None:
        with queue.lock(P, "train") as mine:
            assert mine
            held.set()
            time.sleep(2.0)  # six times as long as the lock lives by itself

    owner = threading.Thread(target=own)
    owner.start()
    held.wait()
    with queue.lock(P, "train") as mine:  # waits 1.3 s
        assert not mine
    owner.join()


def test_the_lock_of_a_dead_owner_is_taken_over(queue, monkeypatch):
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.4)
    queue.redis.set(key(P, "lock-train"), "whoever", px=400)  # as a killed process leaves it
    began = time.monotonic()
    with queue.lock(P, "train") as mine:
        assert mine
    assert 0.2 < time.monotonic() - began < 1.4


def test_a_lock_lost_meanwhile_is_reported_and_not_taken_from_its_new_owner(queue, caplog):
    with queue.lock(P, "train"):
        queue.redis.set(key(P, "lock-train"), "another")
    assert "was lost" in caplog.text
    assert queue.redis.get(key(P, "lock-train")) == b"another"


def test_a_redis_that_does_not_answer_is_given_up_within_the_second_that_label_studio_waits():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(redis.RedisError):
            Queue(connect(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")).add_event(P, event(1))
        assert time.monotonic() - began < 0.9


def test_a_connection_that_redis_dropped_is_made_again(queue):
    queue.add_event(P, event(1))
    with redis.Redis.from_url(f"unix://{queue.redis.connection_pool.connection_kwargs['path']}") as other:
        other.client_kill_filter(_type="normal", skipme=True)
    queue.add_event(P, event(2))
    assert queue.inbox_length(P) == 2


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has it")
def test_a_connection_whose_other_end_has_vanished_is_given_up(broker_port):
    with connect(f"redis://127.0.0.1:{broker_port}/0") as connection:
        connection.ping()
        held = connection.connection_pool.get_connection()
        found = {name: held._sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in TCP}
        assert held._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1 and found == TCP
        connection.connection_pool.release(held)


def test_a_request_for_training_stays_until_it_is_done(queue):
    assert queue.newest_training_request(P) == 0
    queue.mark_training_done(P, 0)
    queue.request_training(P)
    first = queue.newest_training_request(P)
    queue.request_training(P)  # while the first is being done
    queue.mark_training_done(P, first)
    assert queue.newest_training_request(P) > first > 0
    queue.mark_training_done(P, queue.newest_training_request(P))
    assert queue.newest_training_request(P) == 0


def test_the_progress_of_pre_annotation_is_what_was_noted_last(queue):
    assert queue.progress(P) is None
    for done in (0, 3):
        queue.set_progress(P, Progress("skylight-2", done, 5))
    assert queue.progress(P) == Progress("skylight-2", 3, 5)

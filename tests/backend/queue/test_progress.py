"""What the page may say of the workers."""

import functools
import signal

import pytest
import redis
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from skylight.backend.queue.connection import connect
from skylight.backend.queue.keys import KINDS, job_id
from skylight.backend.queue.progress import JobState, job_states, reporter
from skylight.backend.queue.queue import Queue

P, OTHER = "1.1795340401", "11.1795340401"


@pytest.fixture
def queue(broker_url):
    queue = Queue(connect(broker_url))
    yield queue
    queue.redis.close()


def state(queue, kind) -> JobState:
    return next(each for each in job_states(queue, P) if each.kind == kind)


def test_nothing_runs_and_nothing_waits_at_first(queue):
    assert job_states(queue, P) == [JobState(kind, False, False, 0) for kind in KINDS]


def test_a_job_is_queued_until_it_begins_and_runs_while_it_holds_its_lock(queue):
    queue.request(P, "train")
    assert state(queue, "train") == JobState("train", False, True, 0)
    queue.mark_begun(P, "train")
    with queue.lock(P, "train"):
        assert state(queue, "train") == JobState("train", True, False, 0)
    assert state(queue, "train") == JobState("train", False, False, 0)


def test_a_job_says_how_far_it_is_and_nothing_once_it_is_over(queue):
    with queue.lock(P, "train"):
        report = reporter(queue, P, "train")
        report(40, 600)
        report(41, 600)  # within a second: not said
        found = state(queue, "train")
        assert (found.done, found.total) == (40, 600)
        assert (state(queue, "preannotate").done, state(queue, "preannotate").total) == (0, 0)
    assert state(queue, "train").total == 0


def test_a_job_that_says_how_fast_it_is_is_believed_while_it_runs(queue):
    report = reporter(queue, P, "embed")
    with queue.lock(P, "embed"):
        report(3, 40, 2.5)
        assert state(queue, "embed") == JobState("embed", True, False, 0, 3, 40, 2.5)
    assert state(queue, "embed").rate == 0


def test_telling_ones_progress_never_ends_a_job(tmp_path):
    away = Queue(redis.Redis(unix_socket_path=str(tmp_path / "none")))
    reporter(away, P, "train")(1, 2)


def fail() -> None:
    raise RuntimeError("no disk")


def test_failed_jobs_are_counted_for_their_own_project(queue):
    for project, generation in ((P, 1), (P, 2), (OTHER, 1)):
        queue.queues["train"].enqueue_call(
            f"{__name__}.fail", (), job_id=job_id(project, "train", generation), failure_ttl=60
        )
    worker = SimpleWorker([queue.queues["train"]], connection=queue.redis, serializer=JSONSerializer)
    work = functools.partial(worker.work, burst=True, logging_level="CRITICAL")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    work()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert state(queue, "train").failed == 2
    assert state(queue, "ingest").failed == 0

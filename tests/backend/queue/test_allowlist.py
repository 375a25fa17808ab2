"""What a message in Redis cannot make a worker do. Real jobs in a real queue, written as somebody hostile would."""

import json
import logging
import pickle
import sys

import pytest
from rq import Callback, Queue, SimpleWorker, Webhook
from rq.job import Job
from rq.serializers import DefaultSerializer, JSONSerializer

from skylight.backend.queue.allowlist import FIELDS, NAMES, AllowedJob
from skylight.backend.queue.keys import KINDS
from skylight.backend.service import Service
from skylight.backend.web.app import create_app
from skylight.backend.worker import jobs

P = "1.1795340401"
DONE: list[str] = []  # what hostile jobs got done


def called(*_args: object) -> None:
    """What a job must not be able to call, though it could be imported."""
    DONE.append("called")


class Pickled:
    """What runs as soon as it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return called, ()


@pytest.fixture
def hostile(service: Service) -> Queue:
    """The queue of ingest jobs as RQ itself knows it, without any of our precautions."""
    DONE.clear()
    return Queue("skylight-ingest", connection=service.queue.redis, serializer=JSONSerializer)


def failed(service: Service, job: Job) -> str:
    """Why a job failed."""
    assert job.id in service.queue.queues["ingest"].failed_job_registry.get_job_ids(cleanup=False)
    found = AllowedJob.fetch(job.id, service.queue.redis).latest_result()
    return str(found.exc_string)


def test_the_list_is_that_of_the_kinds_of_jobs() -> None:
    assert NAMES == KINDS
    assert all(callable(getattr(jobs, name)) for name in NAMES)


NOT_ALLOWED = (  # name, arguments, named arguments
    ("os.system", ["true"], {}),
    ("antigravity.fly", [P], {}),  # a module that nobody has imported
    ("tests.backend.queue.test_allowlist.called", [P], {}),
    ("skylight.backend.worker.jobs.Service", [P], {}),
    ("skylight.backend.worker.jobs.ahead.want", [P], {}),
    ("skylight.backend.worker.jobs.ingest", [], {}),
    ("skylight.backend.worker.jobs.ingest", [P, P], {}),
    ("skylight.backend.worker.jobs.ingest", ["../../etc"], {}),
    ("skylight.backend.worker.jobs.ingest", ["1" * 101], {}),
    ("skylight.backend.worker.jobs.ingest", [[P]], {}),
    ("skylight.backend.worker.jobs.ingest", [P], {"x": 1}),
    ("skylight.backend.worker.jobs.ingest", [], {"project": P}),
)
NO_JOBS = (["format", "{0.__class__}", [P], {}], [["x"], None, [P], {}], [1, 2], "x", {"a": 1})


def test_what_is_not_on_the_list_fails_with_a_sentence_and_is_never_imported(service, hostile, work):
    made = [hostile.enqueue_call(name, tuple(args), kwargs) for name, args, kwargs in NOT_ALLOWED]
    work()
    assert all("which no worker does" in failed(service, job) for job in made)
    assert not DONE
    assert "antigravity" not in sys.modules


def test_data_of_another_shape_fails(service, hostile, work):
    made = [hostile.enqueue_call("skylight.backend.worker.jobs.ingest", (P,)) for _ in NO_JOBS]
    for job, data in zip(made, NO_JOBS, strict=True):
        service.queue.redis.hset(job.key, "data", json.dumps(data))
    work()
    assert all(failed(service, job) for job in made)


def test_callbacks_webhooks_and_repetitions_of_a_job_are_not_read(service, hostile, work, caplog):
    hook = Webhook("http://127.0.0.1:9/", "finished")
    spy = Callback("tests.backend.queue.test_allowlist.called")
    hostile.enqueue_call(
        "skylight.backend.worker.jobs.ingest",
        (P,),
        on_success=spy,
        on_failure=spy,
        on_stopped=spy,
        webhooks=[hook],
        meta={"a": 1},
    )
    hostile.enqueue_call("os.getcwd", (), on_failure=spy)
    work()
    assert not DONE
    first = next(record.getMessage() for record in caplog.records if "not read of it" in record.getMessage())
    assert all(name in first for name in ("b'success_callback_name'", "b'webhooks'", "b'meta'"))
    assert "Failed to send webhook" not in caplog.text


def test_rqs_own_worker_would_have_called_all_of_them(service, hostile, work):
    """The `work` fixture puts the signal handlers back."""
    own = Queue("skylight-ingest", connection=service.queue.redis, serializer=DefaultSerializer)
    own.enqueue_call(
        "tests.backend.queue.test_allowlist.called",
        (P,),
        on_success=Callback("tests.backend.queue.test_allowlist.called"),
    )
    own.enqueue_call("os.getcwd", (), meta={"x": Pickled()})
    SimpleWorker([own], connection=service.queue.redis).work(burst=True, logging_level="WARNING")
    assert len(DONE) >= 3


def test_a_pickle_in_a_job_is_not_unpickled(service, hostile, work):
    for field in ("data", "meta", "result"):
        job = hostile.enqueue_call("skylight.backend.worker.jobs.ingest", (P,))
        service.queue.redis.hset(job.key, field, pickle.dumps(Pickled()))
    work()
    assert not DONE


def test_a_pickle_in_a_job_that_the_dashboard_shows_is_not_unpickled(service, hostile):
    pytest.importorskip("rq_dashboard", reason="the extra `dashboard` is not installed")
    client = create_app(service.settings, service).test_client()
    own = Queue("skylight-ingest", connection=service.queue.redis, serializer=DefaultSerializer)
    job = own.enqueue_call("skylight.backend.worker.jobs.ingest", (P,), meta={"x": Pickled()})
    for path in ("/0/view/job/{}", "/0/data/job/{}.json", "/0/data/jobs/skylight-ingest/queued/8/asc/1.json"):
        client.get("/queues" + path.format(job.id))
    client.get("/queues/0/data/workers.json")
    assert not DONE


ODD_FIELDS = (("status", "x"), ("timeout", "x"), ("ttl", "1e9"), ("created_at", "yesterday"), ("origin", b"\xff"))


def test_a_job_that_cannot_be_read_is_left_out_and_the_next_one_is_done(service, hostile, work, caplog):
    for field in ODD_FIELDS:
        job = hostile.enqueue_call("skylight.backend.worker.jobs.ingest", (P,))
        service.queue.redis.hset(job.key, *field)
    good = hostile.enqueue_call("skylight.backend.worker.jobs.ingest", (P,), result_ttl=60)
    work()
    assert caplog.text.count("it is left out") == len(ODD_FIELDS)
    assert AllowedJob.fetch(good.id, service.queue.redis).get_status() == "finished"


def test_an_id_that_is_none_and_a_key_of_another_type_do_not_stop_a_worker(service, hostile, work, caplog):
    service.queue.redis.set("rq:job:odd", "text")
    service.queue.redis.rpush(hostile.key, "a b/../c", "odd", "gone")
    good = hostile.enqueue_call("skylight.backend.worker.jobs.ingest", (P,), result_ttl=60)
    work()
    assert "in the queue is not a job" in caplog.text
    assert AllowedJob.fetch(good.id, service.queue.redis).get_status() == "finished"


def test_our_own_jobs_need_no_field_that_is_not_read(service, caplog):
    caplog.set_level(logging.WARNING)
    for kind in KINDS:
        service.queue.request(P, kind)
        (job,) = service.queue.queues[kind].jobs
        assert isinstance(job, AllowedJob) and job.func is getattr(jobs, kind)
        held = service.queue.redis.hgetall(job.key)
        assert {name for name, value in held.items() if value} <= FIELDS
    assert not caplog.records

"""Time slices: projects that wait for the same kind of work take turns."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

from skylight.backend.admin import machine_checks
from skylight.backend.cli import main
from skylight.backend.labelstudio.events import webhook_events
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.learning.ingest import ingest_inbox
from skylight.backend.learning.preannotate_tasks import preannotate
from skylight.backend.queue.connection import connect
from skylight.backend.queue.counters import backlog
from skylight.backend.queue.inbox import accept
from skylight.backend.queue.keys import key
from skylight.backend.queue.queue import JOB_SECONDS, Queue
from skylight.backend.queue.time_slice import SLICE_SECONDS, TimeSlice
from skylight.backend.worker import jobs, worker
from skylight.backend.worker.jobs import CURRENT_SERVICE
from tests.backend.learning.test_preannotate_tasks import promote
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import brush, png, square

BIG, SMALL = "1.1795340435", "2.1795340436"
LABELING = parse_config(CONFIG)


class Clock:
    """Counts by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def queue(broker_url: str) -> Queue:
    return Queue(connect(broker_url))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every slice is over once its work has begun and it was asked for the second time: after one thing was done."""

    def is_over(time_slice: TimeSlice) -> bool:
        time_slice.asked = getattr(time_slice, "asked", 0) + (time_slice._until < float("inf"))
        return time_slice.asked > 1 and time_slice.queue.has_waiting(time_slice.kind)

    monkeypatch.setattr(TimeSlice, "is_over", property(is_over))


@pytest.fixture
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every slice is over after one thing or two, whoever waits."""

    def is_over(time_slice: TimeSlice) -> bool:
        time_slice.asked = getattr(time_slice, "asked", 0) + (time_slice._until < float("inf"))
        return time_slice.asked > 1

    monkeypatch.setattr(TimeSlice, "is_over", property(is_over))


def test_a_turn_ends_only_if_another_project_waits(queue, clock):
    time_slice = TimeSlice(queue, "embed", 15, clock)
    time_slice.start_work()
    clock.now = 16
    assert not time_slice.is_over
    queue.request(SMALL, "preannotate")
    assert not time_slice.is_over  # another kind: that is a question of priority
    queue.request(SMALL, "embed")
    assert time_slice.is_over


def test_a_turn_is_not_over_before_some_work_was_done(queue, clock):
    queue.request(SMALL, "embed")
    time_slice = TimeSlice(queue, "embed", 15, clock)
    clock.now = 100  # it takes so long to list a hundred thousand tasks
    assert not time_slice.is_over
    time_slice.start_work()
    clock.now = 199
    assert not time_slice.is_over
    clock.now = 201
    assert time_slice.is_over


def test_a_job_does_not_give_way_to_what_its_worker_does_not_do(queue):
    queue.request(SMALL, "ingest")
    queue.request(SMALL, "embed")
    queue.worker_kinds = ("embed", "train")
    assert not queue.has_waiting("ingest", "train", "preannotate") and queue.has_waiting("embed")


def test_a_small_project_is_embedded_long_before_a_big_one_is_done(planted, studio, work, short_turns, monkeypatch):
    projects = [studio.add_project() for _ in range(2)]
    for project, count in zip(projects, (12, 2), strict=True):
        planted.store.save_config(project, CONFIG)
        for seed in range(count):
            studio.add_task(project, png(square(100 * projects.index(project) + seed)[0]))
    order: list[str] = []
    inner = planted.embedder.embedding
    monkeypatch.setattr(planted.embedder, "embedding", lambda url: (order.append(url), inner(url))[1])
    for project in projects:
        planted.prefetch_requests.request_all(project)
    work()
    assert len(order) == 14
    small = {task.data["image"] for task in planted.labelstudio.tasks(int(projects[1].partition(".")[0]))}
    assert [url in small for url in order[:5]].count(True) == 2


def test_open_tasks_of_two_projects_are_pre_annotated_in_turns(planted, studio, client, work, short_turns, monkeypatch):
    projects = [studio.add_project() for _ in range(2)]
    for project in projects:
        for seed in range(3):
            image, mask = square(seed)
            annotation = studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)])
            client.post("/webhook", json=studio.webhook("ANNOTATION_CREATED", project, annotation))
    work()
    assert all(planted.versions.current(project) for project in projects)
    for project, count in zip(projects, (8, 2), strict=True):
        for seed in range(count):
            studio.add_task(project, png(square(10 + seed)[0]))
        planted.queue.request(project, "preannotate")
    sent: list[int] = []
    inner = planted.labelstudio.create_prediction
    monkeypatch.setattr(
        planted.labelstudio, "create_prediction", lambda number, *rest: (sent.append(number), inner(number, *rest))[1]
    )
    work()
    small = int(projects[1].partition(".")[0])
    assert len(sent) == 10 and sent[:5].count(small) == 2


def test_a_long_inbox_gives_way_and_is_finished_later(planted, studio, client, work, short_turns):
    projects = [studio.add_project() for _ in range(2)]
    for seed in range(4):
        for project in projects:
            image, mask = square(seed)
            annotation = studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)])
            client.post("/webhook", json=studio.webhook("ANNOTATION_CREATED", project, annotation))
    work()
    assert [planted.store.count(project) for project in projects] == [4, 4]
    assert [planted.queue.inbox_length(project) for project in projects] == [0, 0]


def test_a_worker_for_some_queues_leaves_the_others_alone_and_the_doctor_says_so(planted, studio):
    project = studio.add_project()
    for kind in ("ingest", "train", "preannotate", "embed"):
        planted.queue.request(project, kind)
    gpu = worker.start(planted, ("embed", "train"))
    assert [queue.name for queue in gpu.queues] == ["skylight-embed", "skylight-train"]
    gpu.register_birth()
    (finding,) = [each for each in machine_checks.findings(planted) if each.what == "worker"]
    assert finding.state == "fail" and "for train, embed only; none takes ingest, preannotate" in finding.detail
    assert finding.next_step.endswith("skylight worker --queues ingest,preannotate")
    gpu.register_death()


def test_what_waits_is_told_kind_by_kind(queue):
    queue.request(BIG, "embed")
    queue.request(SMALL, "embed")
    told = {each.kind: each for each in backlog(queue)}
    assert (told["embed"].jobs, told["train"].jobs) == (2, 0)
    assert 0 <= told["embed"].seconds < 60 and told["train"].seconds == 0


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ("embed,train", ("embed", "train")),
        ("", ("ingest", "train", "preannotate", "embed")),
        ("train,train", ("train",)),
    ],
)
def test_the_command_line_says_which_queues_and_in_which_order(given, kinds, monkeypatch):
    taken: list[object] = []
    monkeypatch.setenv("REDIS_URL", "redis://nowhere")
    monkeypatch.setattr(worker, "run", lambda settings, kinds: taken.append(kinds))
    monkeypatch.setattr("os.nice", lambda by: 0)
    assert CliRunner().invoke(main.cli, ["worker", "--queues", given]).exit_code == 0
    assert taken == [kinds]


def test_a_queue_that_is_none_is_refused_by_name():
    found = CliRunner().invoke(main.cli, ["worker", "--queues", "embed,trian"])
    assert found.exit_code == 2 and "no queue 'trian', only ingest, train, preannotate, embed" in found.output


def test_a_turn_ends_after_a_slice_whoever_waits(queue, clock):
    time_slice = TimeSlice(queue, "ingest", 15, clock)
    time_slice.start_work()
    clock.now = SLICE_SECONDS
    assert not time_slice.is_over
    clock.now += 1
    assert time_slice.is_over
    assert 3 * SLICE_SECONDS < JOB_SECONDS  # of an ingest job: the inbox, what was set aside, the comparison


def test_where_to_find_out_takes_a_slice_some_work_is_done_all_the_same(queue, clock):
    time_slice = TimeSlice(queue, "preannotate", 15, clock)
    clock.now = SLICE_SECONDS + 10
    time_slice.start_work()
    clock.now += SLICE_SECONDS
    assert not time_slice.is_over
    clock.now += 11
    assert time_slice.is_over


def annotated(studio, project: str, count: int) -> None:
    """Make tasks of a project, each with an annotation that no webhook told of."""
    for seed in range(count):
        image, truth = square(seed)
        studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, truth)])


def test_a_big_import_is_ingested_in_slices_and_no_annotation_is_blamed(planted, studio, short_slices):
    project = studio.add_project()
    planted.store.save_config(project, CONFIG)
    annotated(studio, project, 5)
    CURRENT_SERVICE.set(planted)
    planted.queue.request_reconciliation(project)
    counts = []
    for _ in range(3):
        planted.queue.mark_begun(project, "ingest")
        planted.queue.queues["ingest"].empty()
        jobs.ingest(project)
        counts.append(planted.store.count(project))
    assert counts == [2, 4, 5]
    assert not planted.queue.has_waiting("ingest")
    assert planted.quarantine.of(project) == [] and planted.failures.of(project) == []


def test_many_events_are_ingested_in_slices(planted, studio, short_slices, work):
    project = studio.add_project()
    planted.store.save_config(project, CONFIG)
    for seed in range(4):
        image, truth = square(seed)
        annotation = studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, truth)])
        accept(
            planted.queue,
            planted.spool,
            project,
            list(webhook_events(studio.webhook("ANNOTATION_CREATED", project, annotation))),
        )
    assert ingest_inbox(planted, project) == 2
    assert planted.queue.inbox_length(project) == 3  # the second, to be found done
    planted.settings = replace(planted.settings, min_annotations=4)
    work()
    assert planted.queue.inbox_length(project) == 0 and planted.store.count(project) == 4
    assert planted.versions.numbers(project)  # with what there is, when all of it is there
    assert len(planted.versions.card(project, 1)["annotations"]) == 4


def test_a_training_waits_for_what_a_slice_was_too_short_for(planted, studio, short_slices, work):
    project = studio.add_project()
    planted.store.save_config(project, CONFIG)
    annotated(studio, project, 4)
    planted.queue.request_training(project)
    planted.queue.request(project, "train")
    work()
    assert len(planted.versions.card(project, 1)["annotations"]) == 4
    assert not planted.queue.newest_training_request(project)


def test_open_tasks_are_pre_annotated_in_slices(planted, studio, short_slices):
    project = studio.add_project()
    planted.store.save_config(project, CONFIG)
    for seed in range(3):
        studio.add_task(project, png(square(seed)[0]))
    promote(planted, project)
    planted.queue.redis.set(key(project, "clusters"), '["skylight-1", []]')
    sent = []
    while preannotate(planted, project):
        sent.append(studio.predicted("skylight-1"))
    assert sent == [[1], [1, 2]]
    assert studio.predicted("skylight-1") == [1, 2, 3]

"""Embedding projects ahead of clicks: by jobs, and here and now."""

import threading
import time
from dataclasses import replace

import pytest

from skylight.backend.errors import LabelStudioError, Unavailable
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.learning import precompute as module
from skylight.backend.learning.precompute import EmbeddingProgress, embed_project, precompute
from skylight.backend.queue.keys import key
from skylight.backend.queue.progress import job_states
from skylight.backend.queue.retries import FIRST_PAUSE_SECONDS
from skylight.backend.service import Service
from skylight.backend.trace import CURRENT_TRACE, Trace
from skylight.backend.worker import jobs
from skylight.backend.worker.jobs import CURRENT_SERVICE
from tests.support.label_studio_double import CONFIG, wait_until
from tests.support.planted_embeddings import brush, key_point, png, square

TASKS = 12


@pytest.fixture
def project(planted, studio) -> str:
    """A project of pictures that all differ, none of them embedded."""
    made = studio.add_project()
    planted.store.save_config(made, CONFIG)
    for seed in range(TASKS):
        studio.add_task(made, png(square(seed)[0]))
    return made


@pytest.fixture
def encoded(planted) -> list[bytes]:
    """What the encoder was run on, in order."""
    seen: list[bytes] = []
    embed = planted.embedder.segmenter.embed

    def counted(image):
        seen.append(png(image))
        return embed(image)

    planted.embedder.segmenter.embed = counted
    return seen


def address(studio, task: int) -> str:
    return studio.tasks[task]["data"]["image"]


def fetched(studio) -> list[int]:
    """The tasks whose pictures were fetched, in order."""
    numbers = {address(studio, task): task for task in studio.tasks}
    return [numbers[path] for path in studio.fetched]


def state(service, project):
    return next(each for each in job_states(service.queue, project) if each.kind == "embed")


def interrupt_after(monkeypatch, service, count: int) -> None:
    """Have an ingest job come after some images."""
    embedder, left = service.embedder, [count]
    embedding = embedder.embedding

    def interrupted(url):
        left[0] -= 1
        if not left[0]:
            service.queue.request("1.1", "ingest")
        return embedding(url)

    monkeypatch.setattr(embedder, "embedding", interrupted)


def ingested(service) -> None:
    """The urgent job is done."""
    service.queue.queues["ingest"].empty()
    service.queue.mark_begun("1.1", "ingest")


def test_a_project_is_embedded_once(planted, studio, project, encoded):
    planted.prefetch_requests.request_all(project)
    assert not embed_project(planted, project)
    assert fetched(studio) == list(range(1, TASKS + 1)) and len(encoded) == TASKS
    assert planted.prefetch_requests.newest(project) == 0
    planted.prefetch_requests.request_all(project)
    planted.embedder.cache._memory.clear()
    assert not embed_project(planted, project)
    assert len(studio.fetched) == len(encoded) == TASKS


def test_several_at_once_are_embedded_in_order_and_what_fails_is_noted_of_the_job(
    planted, studio, project, encoded, monkeypatch
):
    monkeypatch.setattr(planted.embedder.segmenter, "batch", 3)
    del studio.pictures[next(iter(studio.tasks.values()))["data"]["image"]]
    planted.prefetch_requests.request_all(project)
    trace = Trace("1", "embed")
    token = CURRENT_TRACE.set(trace)
    assert not embed_project(planted, project)
    CURRENT_TRACE.reset(token)
    assert trace.causes == {"image": 1}
    assert sorted(fetched(studio)) == list(range(1, TASKS + 1)) and len(encoded) == TASKS - 1


def test_what_nobody_wants_is_not_embedded(planted, studio, project):
    assert not embed_project(planted, project)
    assert studio.fetched == []


def test_something_urgent_interrupts_it_and_it_embeds_only_what_is_missing_afterwards(
    planted, studio, project, encoded, monkeypatch
):
    interrupt_after(monkeypatch, planted, 4)
    planted.prefetch_requests.request_all(project)
    assert embed_project(planted, project)
    assert embed_project(planted, project)  # it still waits
    assert len(encoded) == 4
    ingested(planted)
    assert not embed_project(planted, project)
    assert len(set(encoded)) == len(encoded) == TASKS
    assert fetched(studio) == list(range(1, TASKS + 1))


@pytest.mark.parametrize("kind", ["ingest", "train", "preannotate"])
def test_it_gives_way_to_every_other_kind_of_job(planted, studio, project, kind):
    planted.prefetch_requests.request_all(project)
    planted.queue.request("2.1", kind)
    assert embed_project(planted, project)
    assert studio.fetched == []


def test_a_job_ends_long_before_it_would_be_ended_and_another_goes_on(planted, studio, project, encoded, monkeypatch):
    CURRENT_SERVICE.set(planted)
    monkeypatch.setattr(module, "SLICE_SECONDS", -1.0)
    planted.prefetch_requests.request_all(project)
    planted.queue.queues["embed"].empty()
    jobs.embed(project)
    assert planted.queue.queues["embed"].count == 1 and planted.prefetch_requests.newest(project)
    monkeypatch.undo()
    planted.queue.queues["embed"].empty()
    jobs.embed(project)
    assert planted.queue.queues["embed"].count == 0 and len(encoded) == TASKS


def test_pictures_that_are_away_or_broken_stop_no_other_and_are_tried_again_in_the_next_round(
    planted, studio, project, encoded, monkeypatch, caplog
):
    kept = studio.pictures.pop(address(studio, 1))
    studio.pictures[address(studio, 2)] = b"no picture"
    studio.tasks[3]["data"] = {}
    planted.prefetch_requests.request_all(project)
    interrupt_after(monkeypatch, planted, 5)
    assert embed_project(planted, project)
    ingested(planted)
    assert not embed_project(planted, project)
    assert len(encoded) == TASKS - 3
    assert (studio.fetched.count(address(studio, 1)), studio.fetched.count(address(studio, 2))) == (1, 1)
    assert "task 1: its image is not embedded" in caplog.text and "task 2: its image" in caplog.text
    studio.pictures[address(studio, 1)] = kept
    planted.prefetch_requests.request_all(project)
    embed_project(planted, project)
    assert len(encoded) == TASKS - 2


def test_every_image_that_can_be_clicked_on_is_embedded(planted, studio, project, encoded):
    studio.projects[1]["label_config"] = CONFIG.replace('value="$image"', 'valueList="$images"').replace(
        "</View>",
        '<Image name="r" value="$r"/><PolygonLabels name="p" toName="r"><Label value="Pit"/></PolygonLabels></View>',
    )
    images = [address(studio, task) for task in range(1, 6)]
    for task in range(3, TASKS + 1):
        del studio.tasks[task]
    studio.tasks[1]["data"] = {"images": images[:3], "r": images[3]}
    studio.tasks[2]["data"] = {"images": images[:1], "r": images[4]}
    planted.prefetch_requests.request_all(project)
    embed_project(planted, project)
    assert studio.fetched == [images[0], images[1], images[2], images[3], images[4]]


def test_progress_and_rate_are_told_while_it_runs(planted, project, client, monkeypatch):
    monkeypatch.setattr("skylight.backend.queue.progress.REPORT_SECONDS", 0.0)
    planted.embedder.embedding(planted.labelstudio and next(planted.labelstudio.tasks(1)).data["image"])
    CURRENT_SERVICE.set(planted)
    embed, seen = planted.embedder.segmenter.embed, []

    def watched(image):
        seen.append((state(planted, project), client.get(f"/projects/{project}").text))
        return embed(image)

    planted.embedder.segmenter.embed = watched
    planted.prefetch_requests.request_all(project)
    jobs.embed(project)
    assert [(each.done, each.total) for each, _ in seen] == [(done, TASKS) for done in range(1, TASKS)]
    assert seen[0][0].rate == 0 and all(each.rate > 0 for each, _ in seen[1:])
    assert "Embedding images" in seen[-1][1] and f"{TASKS - 1} of {TASKS}, " in seen[-1][1]
    assert " images/s" in seen[-1][1]
    assert not state(planted, project).running


def test_the_rate_counts_what_was_embedded(monkeypatch):
    monkeypatch.setattr(module.time, "monotonic", lambda: 14.0)
    tally = EmbeddingProgress(9, there=3, embedded=2, failed=[(1, "gone")], began=10.0)
    assert (tally.done, tally.rate) == (6, 0.5)
    assert (module.format_rate(0.5), module.format_rate(123.4)) == ("0.50 images/s", "123.4 images/s")


def test_what_follows_an_opened_task_goes_before_everything_else(planted, studio, project, encoded):
    studio.annotate(8, [brush(parse_config(CONFIG), square(7)[1])])
    studio.annotate(9, [], skip=True)
    planted.prefetch_requests.request_all(project)
    planted.prefetch_requests.request_next(project, 3)
    planted.prefetch_requests.request_next(project, 6)
    embed_project(planted, project)
    assert fetched(studio) == [7, 10, 11, 12, 4, 5, 6, 1, 2, 3, 8, 9]  # of 4 to 8 seven was there
    assert len(encoded) == TASKS


def test_a_task_that_is_opened_meanwhile_is_followed_at_once(planted, studio, project, monkeypatch):
    embed = planted.embedder.segmenter.embed

    def opens(image):
        if len(studio.fetched) == 2:
            planted.prefetch_requests.request_next(project, 7)
        return embed(image)

    planted.embedder.segmenter.embed = opens
    planted.prefetch_requests.request_all(project)
    embed_project(planted, project)
    assert fetched(studio) == [1, 2, 8, 9, 10, 11, 12, 3, 4, 5, 6, 7]


def test_an_opened_task_alone_has_no_more_than_the_next_ones_embedded(planted, studio, project, monkeypatch):
    planted.prefetch_requests.request_next(project, 2)
    interrupt_after(monkeypatch, planted, 3)
    assert embed_project(planted, project)
    assert planted.prefetch_requests.last_opened(project) == 2
    ingested(planted)
    assert not embed_project(planted, project)
    assert fetched(studio) == [3, 4, 5, 6, 7]
    assert planted.prefetch_requests.last_opened(project) is None


def test_two_webhooks_queue_one_job(client, planted, studio, project, work, encoded):
    CURRENT_SERVICE.set(planted)
    body = studio.webhook("TASKS_CREATED", project) | {"tasks": [{"id": 1, "total_annotations": 0}]}
    for _ in range(2):
        client.post("/webhook", json=body)
    jobs.ingest(project)
    assert planted.queue.queues["embed"].count == 1
    work()
    assert len(encoded) == TASKS and planted.queue.queues["embed"].count == 0


def test_a_project_that_has_just_been_set_up_is_embedded(client, planted, studio, work, encoded):
    made = studio.add_project()
    studio.add_task(made, png(square(0)[0]))
    client.post("/setup", json={"project": made, "schema": CONFIG})
    work()
    assert len(encoded) == 1


def test_a_configuration_that_shows_other_images_has_them_embedded(client, planted, studio, project, work, encoded):
    work()
    other = png(square(99)[0])
    studio.pictures["/data/upload/1/other.png"] = other
    for task in studio.tasks.values():
        task["data"]["other"] = "/data/upload/1/other.png"
    studio.projects[1]["label_config"] = CONFIG.replace("$image", "$other")
    client.post("/webhook", json=studio.webhook("PROJECT_UPDATED", project))
    work()
    assert len(encoded) == TASKS + 1


def test_without_label_studios_key_no_job_is_queued(client, planted, studio, project, work):
    planted.settings = replace(planted.settings, label_studio_api_key="")
    planted.prefetch_requests.enabled = Service(planted.settings).prefetch_requests.enabled
    body = studio.webhook("TASKS_CREATED", project) | {"tasks": [{"id": 1, "total_annotations": 0}]}
    assert client.post("/webhook", json=body).status_code == 202
    work()
    assert studio.fetched == [] and not planted.queue.redis.exists(key(project, "embedding-wanted"))
    assert not embed_project(planted, project)


def test_while_label_studio_is_down_no_picture_is_blamed_and_the_next_event_brings_the_rest(
    planted, studio, project, encoded, caplog
):
    CURRENT_SERVICE.set(planted)
    embed = planted.embedder.segmenter.embed

    def stops(image):
        if len(encoded) == 2:
            studio.stop()
        return embed(image)

    planted.embedder.segmenter.embed = stops
    planted.prefetch_requests.request_all(project)
    planted.queue.queues["embed"].empty()
    jobs.embed(project)
    assert "its images are not embedded" in caplog.text
    assert planted.queue.queues["embed"].count == 0  # not again and again
    studio.start()
    planted.prefetch_requests.request_next(project, 1)
    jobs.embed(project)
    assert len(encoded) == TASKS


def test_a_project_that_is_another_one_now_is_let_be(planted, studio, project):
    studio.projects[1]["created_at"] = "2026-11-22T12:00:00.000000Z"
    planted.prefetch_requests.request_all(project)
    assert not embed_project(planted, project)
    assert studio.fetched == []


def test_a_full_disk_ends_it(planted, studio, project, monkeypatch, caplog):
    monkeypatch.setattr(module, "free_bytes", lambda _: 10**8)
    planted.prefetch_requests.request_all(project)
    assert not embed_project(planted, project)
    assert "only 0.1 GB are free" in caplog.text and studio.fetched == []


def test_what_was_asked_of_another_worker_is_looked_for_by_the_one_that_embeds(planted, project, monkeypatch):
    monkeypatch.setattr("skylight.backend.queue.locks.LOCK_SECONDS", 1.0)  # a busy machine may not renew it in less
    CURRENT_SERVICE.set(planted)

    def meanwhile(service, project: str) -> bool:
        planted.prefetch_requests.request_all(project)
        planted.queue.queues["embed"].empty()
        jobs.embed(project)  # the other's, which finds this one at it
        assert planted.queue.queues["embed"].count == 0
        return False

    monkeypatch.setattr(jobs, "embed_project", meanwhile)
    jobs.embed(project)
    assert planted.queue.queues["embed"].count == 1


def test_precompute_embeds_what_is_missing_from_the_last_task_to_the_first(planted, studio, project, encoded):
    planted.embedder.embedding(address(studio, 4))
    studio.fetched.clear()
    seen = [(tally.done, tally.total) for tally in precompute(planted, 1)]
    assert seen == [(done, TASKS) for done in range(1, TASKS + 1)]
    assert fetched(studio) == [12, 11, 10, 9, 8, 7, 6, 5, 3, 2, 1] and len(encoded) == TASKS


def test_precompute_ended_early_goes_on_where_it_was(planted, studio, project, encoded):
    for tally in precompute(planted, 1):
        if tally.embedded == 5:
            break
    (*_, last) = precompute(planted, 1)
    assert (last.there, last.embedded, len(encoded)) == (5, TASKS - 5, TASKS)


def test_precompute_needs_label_studio(planted, studio, project):
    studio.stop()
    with pytest.raises(LabelStudioError, match="did not answer"):
        list(precompute(planted, 1))
    planted.settings = replace(planted.settings, label_studio_api_key="")
    with pytest.raises(Unavailable, match="set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"):
        list(precompute(planted, 1))


def opening(studio, *tasks: int) -> dict:
    """Label Studio's /predict when tasks are opened."""
    return {
        "tasks": [{"id": task, "data": studio.tasks[task]["data"]} for task in tasks],
        "project": "1.1795340401",
        "label_config": CONFIG,
        "params": {"context": None},
    }


def test_a_click_during_the_embedding_of_an_opened_task_joins_it(
    client, planted, studio, project, encoded, monkeypatch
):
    embed, begun, go_on = planted.embedder.segmenter.embed, threading.Event(), threading.Event()

    def slow(image):
        begun.set()
        assert go_on.wait(20)
        return embed(image)

    planted.embedder.segmenter.embed = slow
    asked, get = [], planted.embedder.cache.get
    monkeypatch.setattr(planted.embedder.cache, "get", lambda *given: asked.append(given) or get(*given))
    (opened,) = client.post("/predict", json=opening(studio, 5)).get_json()["results"]  # answered before it is done
    assert opened["result"] == [] and begun.wait(20)
    click = opening(studio, 5) | {"params": {"context": {"result": [key_point("point", "Pit", 20, 30, (64, 64))]}}}
    answers = []
    clicking = threading.Thread(target=lambda: answers.append(client.post("/predict", json=click).get_json()))
    clicking.start()
    wait_until(lambda: len(asked) == 2)
    clicking.join(0.2)
    assert answers == []
    go_on.set()
    clicking.join()
    assert answers[0]["results"][0]["result"] and len(encoded) == len(studio.fetched) == 1


def test_opening_a_task_has_it_and_the_next_ones_embedded(client, planted, studio, project, encoded):
    CURRENT_SERVICE.set(planted)
    client.post("/predict", json=opening(studio, 5))
    wait_until(lambda: not planted.prefetch_thread.busy)
    assert fetched(studio) == [5]
    assert planted.queue.queues["embed"].count == 1
    jobs.embed(project)
    assert fetched(studio) == [5, 6, 7, 8, 9, 10]


def test_many_tasks_at_once_have_the_project_embedded_by_a_worker(client, planted, studio, project, encoded):
    CURRENT_SERVICE.set(planted)
    client.post("/predict", json=opening(studio, 5, 6))
    assert not planted.prefetch_thread.busy and studio.fetched == []
    jobs.embed(project)
    assert len(encoded) == TASKS


def test_opening_a_task_of_an_unknown_project_queues_nothing(client, planted, studio, project):
    client.post("/predict", json=opening(studio, 5) | {"project": "9.9"})
    assert planted.queue.queues["embed"].count == 0
    assert "9.9" not in planted.queue.projects()


def test_an_error_of_label_studio_ends_no_round_for_good(planted, studio, project, encoded, work):
    planted.prefetch_requests.request_all(project)
    studio.stop()
    work()
    reasons = {failure.what: failure.reason for failure in planted.failures.of(project)}
    assert "did not answer" in reasons["embedding"] and "did not answer" in reasons["reconciliation"]
    assert not encoded and planted.queue.queues["embed"].count == 0
    studio.start()
    assert planted.retries.request_due(time.time() + FIRST_PAUSE_SECONDS + 1) == [f"embed {project}"]
    work()
    assert len(encoded) == TASKS
    assert "embedding" not in {failure.what for failure in planted.failures.of(project)}

"""Predictions for the tasks still open."""

import time
from dataclasses import replace

import numpy as np
import pytest

from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.learning.clusters import cluster_of, find_clusters
from skylight.backend.learning.preannotate_tasks import preannotate
from skylight.backend.learning.superseded_predictions import MOST_EARLIER
from skylight.backend.queue.queue import Progress
from skylight.backend.queue.retries import FIRST_PAUSE_SECONDS
from skylight.backend.service import Service
from skylight.model.decoder import network
from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from skylight.model.masks.brush_rle import decode_rle
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import brush, png, square

LABELING = parse_config(CONFIG)


def promote(service, project, labels=("Pit",)) -> None:
    """Publish and serve a version that finds its first label everywhere."""
    decoder = DomainDecoder(DecoderConfig(labels, service.embedder.segmenter.encoder_id))
    decoder.head.bias.data[:] = 0
    decoder.head.bias.data[4:8] = 1000  # of the four quarters of a cell
    service.versions.promote(project, service.versions.publish(project, lambda path: network.save(decoder, path), {}))


@pytest.fixture
def project(planted, studio) -> str:
    """Five open tasks, and a version to be brought to them."""
    key = studio.add_project()
    planted.store.save_config(key, CONFIG)
    for seed in range(5):
        studio.add_task(key, png(square(seed)[0]))
    promote(planted, key)
    return key


def test_every_open_task_gets_one_prediction(planted, studio, project):
    assert not preannotate(planted, project)
    assert studio.predicted("skylight-1") == [1, 2, 3, 4, 5]
    one = next(iter(studio.predictions.values()))
    (region,) = one["result"]
    assert one["score"] == pytest.approx(1.0)
    assert (region["from_name"], region["value"]["brushlabels"]) == ("mask", ["Pit"])
    assert (decode_rle(region["value"]["rle"], 64, 64) > 127).all()
    assert studio.projects[1]["model_version"] == "skylight-1"


def test_a_second_time_there_is_nothing_to_do_but_new_tasks(planted, studio, project):
    preannotate(planted, project)
    preannotate(planted, project)
    assert studio.predicted("skylight-1") == [1, 2, 3, 4, 5]
    studio.add_task(project, png(square(7)[0]))
    preannotate(planted, project)
    assert studio.predicted("skylight-1") == [1, 2, 3, 4, 5, 6]


def test_what_is_done_is_known_when_redis_has_lost_everything(planted, studio, project):
    preannotate(planted, project)
    planted.queue.redis.flushall()
    preannotate(planted, project)
    assert studio.predicted("skylight-1") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("limit", ["BATCH_SECONDS", "MAX_TILES"])  # of the batch; of the picture
def test_what_a_batch_had_no_time_for_follows_in_the_place_of_its_empty_prediction(
    planted, studio, project, client, monkeypatch, limit
):
    preannotate(planted, project)
    task = studio.add_task(project, png(square(9)[0]))
    body = {"tasks": [{"id": task, "data": studio.tasks[task]["data"]}], "project": project, "label_config": CONFIG}
    monkeypatch.setattr(f"skylight.backend.web.predict.{limit}", -1)
    (answer,) = client.post("/predict", json=body).json["results"]
    assert answer["result"] == [] and planted.queue.has_waiting("preannotate")
    studio.predictions[990] = {"task": task, **answer}  # as Label Studio keeps it
    preannotate(planted, project)
    (kept,) = [one for one in studio.predictions.values() if one["task"] == task]
    assert len(kept["result"]) == 1 and studio.submit(task, 990) == 201
    requested = len(studio.predictions)
    preannotate(planted, project)
    assert len(studio.predictions) == requested


def test_a_task_that_is_annotated_or_answered_meanwhile_gets_no_second_prediction(
    planted, studio, project, monkeypatch
):
    monkeypatch.setattr("skylight.backend.learning.preannotate_tasks.CHUNK", 1)

    def meanwhile() -> None:
        studio.on_predictions = lambda: None
        studio.annotate(3, [brush(LABELING, square(1)[1])])
        studio.predictions[990] = {"task": 4, "result": [], "score": 0.5, "model_version": "skylight-1"}

    studio.on_predictions = meanwhile
    assert not preannotate(planted, project)
    assert sorted(one["task"] for one in studio.predictions.values()) == [1, 2, 4, 5]
    assert planted.queue.progress(project) == Progress("skylight-1", 5, 5)


def test_annotated_and_skipped_tasks_get_none(planted, studio, project):
    studio.annotate(2, [brush(LABELING, square(1)[1])])
    studio.annotate(4, [], skip=True)
    preannotate(planted, project)
    assert studio.predicted("skylight-1") == [1, 3, 5]


def test_a_new_version_is_shown_and_what_an_editor_was_opened_with_stays(planted, studio, project):
    opened = [studio.add_prediction(1, version) for version in ("sam-tiny", "someone-elses")]
    for _ in range(4):  # a tab left open over three promotions
        preannotate(planted, project)
        opened += [number for number, one in studio.predictions.items() if one["task"] == 1 and number not in opened]
        promote(planted, project)
    preannotate(planted, project)
    assert studio.predicted("skylight-5") == [1, 2, 3, 4, 5]
    assert studio.projects[1]["model_version"] == "skylight-5"
    assert len(opened) == 6
    assert [studio.submit(1, parent) for parent in opened] == [201] * 6


def test_of_many_versions_the_newest_is_written_over_the_oldest(planted, studio, project):
    """All of a task's predictions are sent along when it is opened: there must not be one of each of many versions."""
    parent = studio.add_prediction(3, "sam-tiny", age=100.0)
    studio.tasks[3]["overlap"] = 2
    assert studio.submit(3, parent) == 201
    shown = set()
    for _ in range(9):
        preannotate(planted, project)
        shown |= set(studio.predictions)
        promote(planted, project)
    assert set(studio.predictions) == shown  # under their ids
    for task in range(1, 6):
        held = [one["model_version"] for one in studio.predictions.values() if one["task"] == task]
        assert len(held) == MOST_EARLIER + 1
        assert {"skylight-9", "skylight-8"} < set(held)
    assert studio.predictions[parent]["model_version"] == "sam-tiny"  # what an annotation was made from


def test_the_second_annotator_of_a_task_is_shown_the_newest_version_too(planted, studio, project):
    studio.tasks[2]["overlap"] = 2
    preannotate(planted, project)
    (opened,) = [number for number, one in studio.predictions.items() if one["task"] == 2]
    studio.annotate(2, [brush(LABELING, square(1)[1])])
    promote(planted, project)
    preannotate(planted, project)
    assert studio.predicted("skylight-2") == [1, 2, 3, 4, 5]
    assert studio.submit(2, opened) == 201
    promote(planted, project)
    preannotate(planted, project)
    assert studio.predicted("skylight-3") == [1, 3, 4, 5]


def test_something_urgent_interrupts_it_and_it_goes_on_afterwards(planted, studio, project):
    studio.on_predictions = lambda: planted.queue.request(project, "ingest")
    assert preannotate(planted, project)
    assert studio.predicted("skylight-1") == [1]
    assert preannotate(planted, project)  # it is still waiting
    assert studio.predicted("skylight-1") == [1]
    assert planted.queue.progress(project) == Progress("skylight-1", 1, 5)
    planted.queue.queues["ingest"].empty()
    planted.queue.mark_begun(project, "ingest")
    studio.on_predictions = lambda: None
    assert not preannotate(planted, project)
    assert studio.predicted("skylight-1") == [1, 2, 3, 4, 5]


def test_for_a_while_it_may_go_on_whatever_is_urgent(planted, studio, project):
    planted.queue.request(project, "ingest")
    assert preannotate(planted, project)
    assert not studio.predicted("skylight-1")
    assert not preannotate(planted, project, undisturbed=60.0)
    assert studio.predicted("skylight-1") == [1, 2, 3, 4, 5]


def test_a_version_promoted_meanwhile_stops_it(planted, studio, project):
    studio.on_predictions = lambda: promote(planted, project)
    assert preannotate(planted, project)
    assert studio.predicted("skylight-1") == [1]
    studio.on_predictions = lambda: None
    assert not preannotate(planted, project)
    assert studio.predicted("skylight-2") == [1, 2, 3, 4, 5]


def test_a_picture_that_cannot_be_fetched_is_tried_again_and_one_that_cannot_be_read_is_not(planted, studio, project):
    away, broken = (studio.tasks[number]["data"]["image"] for number in (1, 2))
    kept = studio.pictures.pop(away)
    studio.pictures[broken] = b"no picture"
    preannotate(planted, project)
    assert studio.predicted("skylight-1") == [3, 4, 5]
    studio.pictures[away] = kept
    studio.fetched.clear()
    preannotate(planted, project)
    assert studio.predicted("skylight-1") == [1, 3, 4, 5]
    assert studio.fetched == [away]


def test_when_no_picture_at_all_can_be_fetched_nothing_is_marked_done(planted, studio, project):
    pictures, studio.pictures = studio.pictures, {}
    assert not preannotate(planted, project)
    assert studio.projects[1]["model_version"] == ""
    studio.pictures = pictures
    preannotate(planted, project)
    assert studio.predicted("skylight-1") == [1, 2, 3, 4, 5]


def test_while_label_studio_is_down_it_says_so_and_catches_up_later(planted, studio, project, caplog):
    studio.on_predictions = lambda: 1 / 0  # type: ignore[func-returns-value]
    assert not preannotate(planted, project)
    assert "is not pre-annotated" in caplog.text
    studio.on_predictions = lambda: None
    preannotate(planted, project)
    assert studio.predicted("skylight-1") == [1, 2, 3, 4, 5]
    studio.stop()
    caplog.clear()
    assert not preannotate(planted, project)
    assert "did not answer" in caplog.text


def test_a_version_of_other_labels_predicts_nothing(planted, studio, project):
    promote(planted, project, ("Crater",))
    assert not preannotate(planted, project)
    assert studio.predictions == {}


def test_without_a_version_or_a_key_there_is_nothing_to_do(planted, studio, project):
    planted.versions.roll_back(project)
    assert not preannotate(planted, project)
    promote(planted, project)
    assert not preannotate(Service(replace(planted.settings, label_studio_api_key="")), project)
    assert studio.predictions == {}


def test_progress_says_how_far_which_version_has_come(planted, studio, project):
    assert planted.queue.progress(project) is None
    seen = []
    studio.on_predictions = lambda: seen.append(planted.queue.progress(project))
    preannotate(planted, project)
    assert seen == [Progress("skylight-1", done, 5) for done in range(5)]
    assert planted.queue.progress(project) == Progress("skylight-1", 5, 5)
    promote(planted, project)
    studio.annotate(2, [brush(LABELING, square(1)[1])])
    seen.clear()
    preannotate(planted, project)
    assert seen[0] == Progress("skylight-2", 0, 4)


def test_a_picture_that_cannot_be_fetched_is_missing_from_the_progress(planted, studio, project):
    del studio.pictures[studio.tasks[3]["data"]["image"]]
    preannotate(planted, project)
    assert planted.queue.progress(project) == Progress("skylight-1", 4, 5)


def test_a_prediction_that_label_studio_refuses_does_not_hold_up_the_others(planted, studio, project, caplog):
    calls = []

    def refuse_the_second():
        calls.append(1)
        assert len(calls) != 2

    studio.on_predictions = refuse_the_second
    assert not preannotate(planted, project)
    assert studio.predicted("skylight-1") == [1, 3, 4, 5]
    assert "task 2: its pre-annotation was refused" in caplog.text
    preannotate(planted, project)
    assert studio.predicted("skylight-1") == [1, 2, 3, 4, 5]


def test_a_task_deleted_meanwhile_is_let_go(planted, studio, project):
    studio.on_predictions = lambda: studio.tasks.pop(3, None)
    assert not preannotate(planted, project)
    assert studio.predicted("skylight-1") == [1, 2, 4, 5]


def shades(service, studio, project, *levels: int) -> None:
    """Open tasks of plain gray pictures."""
    for level in levels:
        studio.add_task(project, png(np.full((64, 64, 3), level, np.uint8)))


def clusters(studio, version) -> list[int | None]:
    """Of the predictions of a version, by task."""
    made = [one for one in studio.predictions.values() if one["model_version"] == version]
    return [one["cluster"] for one in sorted(made, key=lambda one: one["task"])]


def pictures_apart(service) -> None:
    """Have pooled embeddings tell bright pictures from dark ones: the planted ones differ in length alone."""
    embed = service.embedder.segmenter.embed

    def apart(image):
        found = embed(image)
        found.features[0] = 1 if image.mean() > 128 else -1
        return found

    service.embedder.segmenter.embed = apart


def test_predictions_carry_the_kind_of_picture(planted, studio):
    project = studio.add_project()
    planted.store.save_config(project, CONFIG)
    pictures_apart(planted)
    shades(planted, studio, project, 250, 10, 250, 10, 10)
    promote(planted, project)
    preannotate(planted, project)
    one, other = clusters(studio, "skylight-1")[:2]
    assert {one, other} == {0, 1}
    assert clusters(studio, "skylight-1") == [one, other, one, other, other]


def test_a_clusters_number_means_the_same_in_all_predictions_of_a_version(planted, studio, project, monkeypatch):
    preannotate(planted, project)
    monkeypatch.setattr("skylight.backend.learning.clusters.cluster_centres", lambda *_: 1 / 0)
    studio.add_task(project, png(square(3)[0]))  # like the fourth
    preannotate(planted, project)
    assert clusters(studio, "skylight-1")[5] == clusters(studio, "skylight-1")[3]
    promote(planted, project)
    with pytest.raises(ZeroDivisionError):
        preannotate(planted, project)


def test_too_few_tasks_have_no_clusters(planted, studio):
    project = studio.add_project()
    planted.store.save_config(project, CONFIG)
    shades(planted, studio, project, 20, 30, 40)
    promote(planted, project)
    preannotate(planted, project)
    assert clusters(studio, "skylight-1") == [None, None, None]


def test_many_tasks_are_clustered_by_a_sample(planted, studio, project, monkeypatch):
    pictures_apart(planted)
    shades(planted, studio, project, 250)
    monkeypatch.setattr("skylight.backend.learning.clusters.SAMPLE", 5)
    urls = {number: task["data"]["image"] for number, task in studio.tasks.items()}
    centres = find_clusters(planted, project, "skylight-1", urls, lambda: False)
    assert len(centres) == 2 and len(studio.fetched) == 5
    assert {cluster_of(planted, centres, url) for url in urls.values()} <= {0, 1}


def test_clustering_gives_way_to_something_urgent(planted, studio, project):
    planted.queue.request(project, "train")
    assert preannotate(planted, project)
    assert studio.fetched == [] and studio.predictions == {}


def test_another_project_under_the_same_id_is_left_alone(planted, studio, project, caplog):
    preannotate(planted, project)
    before = {number: dict(one) for number, one in studio.predictions.items()}
    foreign = studio.add_prediction(1, "sam-tiny")
    studio.projects[1].update(created_at="2026-11-23T09:40:01.831122Z", model_version="their-own")
    promote(planted, project)
    assert not preannotate(planted, project)
    assert {number for number in studio.predictions} == {*before, foreign}
    assert studio.projects[1]["model_version"] == "their-own"
    assert "Label Studio's project 1 is another one now" in caplog.text
    (failure,) = planted.failures.of(project)
    assert "another one now" in failure.reason


def test_what_label_studio_refuses_is_tried_again_by_itself(planted, studio, project):
    studio.on_predictions = lambda: 1 / 0
    assert not preannotate(planted, project)
    assert planted.failures.of(project)[0].what == "pre-annotation"
    studio.on_predictions = lambda: None
    assert planted.retries.request_due(time.time() + FIRST_PAUSE_SECONDS + 1) == [f"preannotate {project}"]


def test_a_model_version_that_label_studio_refuses_is_noted(planted, studio, project, monkeypatch):
    monkeypatch.setattr(planted.labelstudio, "model_versions", lambda _: {"skylight-1": 5})
    for number in range(1, 6):
        del studio.pictures[studio.tasks[number]["data"]["image"]]
    assert not preannotate(planted, project)
    (failure,) = planted.failures.of(project)
    assert "400 to PATCH /api/projects/1/: Model version doesn't exist" in failure.reason

"""What a person can do to a project, and what follows from it."""

import pytest

from skylight.backend.admin import actions
from skylight.backend.errors import BadRequest
from skylight.backend.queue.keys import key
from skylight.model.decoder import network
from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import Planted, png, square


def publish(service, project, labels=("Pit",), encoder_id=Planted.encoder_id) -> int:
    decoder = DomainDecoder(DecoderConfig(labels, encoder_id))
    card = {"labels": list(labels), "encoder_id": encoder_id}
    return service.versions.publish(project, lambda path: network.save(decoder, path), card)


@pytest.fixture
def project(planted, studio) -> str:
    name = studio.add_project()
    planted.store.save_config(name, CONFIG)
    return name


def waits(service, kind) -> bool:
    return service.queue.has_waiting(kind)


def test_a_promoted_version_is_served_and_brought_to_the_open_tasks(planted, project):
    publish(planted, project)
    actions.promote(planted, project, 1)
    assert planted.version_name(project) == "skylight-1"
    assert waits(planted, "preannotate") and not waits(planted, "train")


def test_a_version_served_again_is_brought_to_the_open_tasks_again(planted, studio, project, work):
    task = studio.add_task(project, png(square(0)[0]))
    for number in (1, 2):
        publish(planted, project)
        actions.promote(planted, project, number)
        work()
    assert (studio.predicted("skylight-1"), studio.predicted("skylight-2")) == ([task], [task])
    assert actions.roll_back(planted, project) == 1
    work()
    assert (studio.predicted("skylight-1"), studio.predicted("skylight-2")) == ([task, task], [])
    assert studio.projects[1]["model_version"] == "skylight-1"
    actions.promote(planted, project, 2)
    work()
    assert studio.projects[1]["model_version"] == "skylight-2" and task in studio.predicted("skylight-2")
    assert planted.failures.of(project) == []  # what Skylight wrote over itself nobody deleted


def test_rolled_back_to_sam_alone_nothing_of_the_decoder_is_shown_any_more(planted, studio, project, work):
    tasks = [studio.add_task(project, png(square(seed)[0])) for seed in range(3)]
    studio.tasks[3]["overlap"] = 2
    for number in (1, 2):
        publish(planted, project)
        actions.promote(planted, project, number)
        work()
    opened = {number: one["task"] for number, one in studio.predictions.items()}
    parent = next(number for number, task in opened.items() if task == 3)
    assert studio.submit(3, parent) == 201
    planted.versions._serve(project, 2, 0)  # before it there was none
    assert actions.roll_back(planted, project) == 0
    assert planted.version_name(project) == "sam-tiny"
    work()
    assert studio.projects[1]["model_version"] == "sam-tiny"
    assert set(studio.predicted("sam-tiny")) == set(tasks)
    assert all(not one["result"] for one in studio.predictions.values() if one["model_version"] == "sam-tiny")
    left = [number for number, one in studio.predictions.items() if one["model_version"].startswith("skylight-")]
    assert left == [parent]  # what an annotation was made from
    assert [studio.submit(task, number) for number, task in opened.items()] == [201] * 6
    requested = dict(studio.predictions)
    planted.queue.request(project, "preannotate")
    work()
    assert studio.predictions == requested


def test_what_was_rolled_back_is_hidden_at_once_though_its_predictions_are_many(planted, studio, project, work):
    for seed in range(3):
        studio.add_task(project, png(square(seed)[0]))
    publish(planted, project)
    actions.promote(planted, project, 1)
    work()
    seen = []
    studio.on_predictions = lambda: seen.append(studio.projects[1]["model_version"])
    actions.roll_back(planted, project)
    work()
    assert seen == [""] * 3
    assert studio.projects[1]["model_version"] == "sam-tiny"


def test_a_version_that_was_damaged_is_hidden_as_one_that_was_rolled_back(planted, studio, project, work):
    task = studio.add_task(project, png(square(0)[0]))
    for number in (1, 2):
        publish(planted, project)
        actions.promote(planted, project, number)
        work()
    planted.versions.quarantine(project, 2, "no decoder")
    work()
    assert planted.version_name(project) == "skylight-1"
    assert studio.projects[1]["model_version"] == "skylight-1"
    assert set(studio.predicted("skylight-1")) == {task} and not studio.predicted("skylight-2")


@pytest.mark.parametrize(
    ("made", "reason"),
    [({"labels": ("Crater",)}, "it knows the labels Crater"), ({"encoder_id": "other"}, "embeddings of other")],
)
def test_a_version_for_other_labels_or_another_sam_is_not_promoted(planted, project, made, reason):
    publish(planted, project, **made)
    with pytest.raises(BadRequest, match=reason):
        actions.promote(planted, project, 1)
    assert planted.versions.current(project) == 0


def test_a_version_of_another_release_is_not_promoted(planted, project, monkeypatch):
    publish(planted, project)
    monkeypatch.setattr(planted, "decoder_of_version", lambda *_: None)
    with pytest.raises(BadRequest, match="another release"):
        actions.promote(planted, project, 1)
    assert planted.versions.current(project) == 0


def test_a_version_that_is_not_there_is_named(planted, project):
    with pytest.raises(BadRequest, match="no version 9"):
        actions.promote(planted, project, 9)


def test_training_can_be_asked_for_and_is_queued_once(planted, project):
    actions.train_now(planted, project)
    actions.train_now(planted, project)
    assert planted.queue.queues["train"].count == 1
    assert planted.queue.redis.exists(key(project, "train-queued"))

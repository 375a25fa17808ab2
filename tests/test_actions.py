"""What a person can do to a project, and what follows from it."""

import pytest

from backend import actions
from backend.errors import BadRequest
from backend.queue import key
from model import decoder as decoders
from model.decoder import DecoderConfig, DomainDecoder

from .planted import Planted, png, square
from .studio import CONFIG


def publish(service, project, labels=("Pit",), encoder_id=Planted.encoder_id) -> int:
    decoder = DomainDecoder(DecoderConfig(labels, encoder_id))
    card = {"labels": list(labels), "encoder_id": encoder_id}
    return service.versions.publish(project, lambda path: decoders.save(decoder, path), card)


@pytest.fixture
def project(planted, studio) -> str:
    name = studio.add_project()
    planted.store.save_config(name, CONFIG)
    return name


def waits(service, kind) -> bool:
    return service.queue.waiting(kind)


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
    assert (studio.predicted("skylight-1"), studio.predicted("skylight-2")) == ([], [task])
    assert actions.roll_back(planted, project) == 1
    work()
    assert (studio.predicted("skylight-1"), studio.predicted("skylight-2")) == ([task], [])
    assert studio.projects[1]["model_version"] == "skylight-1"


def test_before_the_first_version_there_is_sam_alone(planted, project):
    publish(planted, project)
    actions.promote(planted, project, 1)
    planted.queue.begin(project, "preannotate")
    planted.queue.queues["preannotate"].empty()
    assert actions.roll_back(planted, project) == 0
    assert planted.version_name(project) == "sam-tiny"
    assert not waits(planted, "preannotate")


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
    monkeypatch.setattr(planted, "decoder_of", lambda *_: None)
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

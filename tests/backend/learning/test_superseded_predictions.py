"""Predictions of versions that are not served any more: how long they stay in Label Studio."""

import time
from dataclasses import replace

import pytest

from skylight.backend.learning.preannotate_tasks import preannotate
from skylight.backend.learning.superseded_predictions import DELETED, HOUR, delete_superseded, number_of
from skylight.backend.queue.keys import key
from skylight.backend.worker.maintenance import CLEARING, Maintenance
from tests.backend.learning.test_preannotate_tasks import promote
from tests.support.label_studio_double import CONFIG, stamp
from tests.support.planted_embeddings import png, square

LATER = 25 * HOUR  # s, more than is kept


@pytest.fixture
def project(planted, studio) -> str:
    """Three open tasks with predictions of two versions, of which the newer is served and shown."""
    name = studio.add_project()
    planted.store.save_config(name, CONFIG)
    for seed in range(3):
        studio.add_task(name, png(square(seed)[0]))
    for _ in range(2):
        promote(planted, name)
        preannotate(planted, name)
    assert (studio.predicted("skylight-1"), studio.predicted("skylight-2")) == ([1, 2, 3], [1, 2, 3])
    return name


def opened(studio, task: int, version: str = "skylight-1") -> int:
    """The prediction that an editor was opened with."""
    return next(
        number for number, one in studio.predictions.items() if (one["task"], one["model_version"]) == (task, version)
    )


def after(planted, project, seconds: float, slice_seconds: float = 60.0) -> bool:
    return delete_superseded(planted, project, slice_seconds, time.time() + seconds)


def test_they_go_a_day_after_another_version_took_their_place(planted, studio, project):
    parents = [opened(studio, task) for task in (1, 2)]
    assert not after(planted, project, 23 * HOUR)
    assert studio.submit(1, parents[0]) == 201
    assert not after(planted, project, LATER)
    assert studio.predicted("skylight-1") == [1]  # what an annotation was made from
    assert studio.predicted("skylight-2") == [1, 2, 3]
    assert studio.submit(2, parents[1]) == 400


def test_the_day_begins_when_they_are_superseded_and_not_when_they_were_made(planted, studio, project):
    for one in studio.predictions.values():
        one["updated_at"] = stamp(100 * HOUR)
    promote(planted, project)
    preannotate(planted, project)
    assert not after(planted, project, 0.0)
    assert studio.predicted("skylight-1") == studio.predicted("skylight-2") == [1, 2, 3]
    planted.queue.redis.flushall()  # then it begins anew
    assert not after(planted, project, LATER)
    assert studio.predicted("skylight-1") == [1, 2, 3]
    assert not after(planted, project, 2 * LATER)
    assert studio.predicted("skylight-1") == []


def test_an_annotation_can_be_updated_by_whoever_reviews_it_however_late(planted, studio, project):
    parent = opened(studio, 1)
    assert studio.submit(1, parent) == 201
    for days in (2, 3):
        after(planted, project, days * LATER)
    (annotation,) = studio.tasks[1]["annotations"]
    assert studio.submit(1, parent, annotation["id"]) == 200


def test_where_drafts_are_saved_an_editor_is_open(planted, studio, project):
    studio.drafts = [{"task": 2, "updated_at": stamp(-LATER + 60)}, {"task": 3, "updated_at": stamp()}]
    assert not after(planted, project, LATER)
    assert studio.predicted("skylight-1") == [2]
    assert studio.submit(2, opened(studio, 2)) == 201


def test_what_label_studio_stored_late_is_kept_as_long(planted, studio, project):
    late = studio.add_prediction(2, "skylight-1", age=-LATER + 60)
    assert not after(planted, project, LATER)
    assert [number for number, one in studio.predictions.items() if one["model_version"] == "skylight-1"] == [late]


def test_what_is_served_shown_or_somebody_else_s_stays(planted, studio, project):
    studio.add_prediction(1, "sam-of-somebody-else", age=100 * HOUR)
    studio.projects[1]["model_version"] = "skylight-1"  # as before the round of the second is at its end
    for days in (1, 2):
        after(planted, project, days * LATER)
    assert studio.predicted("skylight-1") == studio.predicted("skylight-2") == [1, 2, 3]
    assert studio.predicted("sam-of-somebody-else") == [1]


def test_what_is_served_again_is_not_deleted(planted, studio, project):
    after(planted, project, 0.0)
    planted.versions.roll_back(project)
    assert not after(planted, project, LATER)
    assert studio.predicted("skylight-1") == [1, 2, 3]


def test_many_are_deleted_in_slices(planted, studio, project):
    left = []
    while after(planted, project, LATER, slice_seconds=-1.0):
        left.append(studio.predicted("skylight-1"))
    assert left == [[2, 3], [3], []]
    assert studio.predicted("skylight-2") == [1, 2, 3]


def test_what_must_stay_is_not_looked_through_again_and_again(planted, studio, project, monkeypatch):
    for task in (1, 2, 3):
        studio.submit(task, opened(studio, task))
    assert not after(planted, project, LATER)
    assert studio.predicted("skylight-1") == [1, 2, 3]
    monkeypatch.setattr(planted.labelstudio, "references", lambda *_: 1 / 0)
    assert not after(planted, project, 2 * LATER)


def test_a_version_whose_predictions_somebody_deleted_before_their_time_is_named(planted, studio, project):
    for number in [number for number, one in studio.predictions.items() if one["model_version"] == "skylight-1"]:
        del studio.predictions[number]
    after(planted, project, HOUR)
    (failure,) = planted.failures.of(project)
    assert failure.what == DELETED
    assert "the predictions of skylight-1 were deleted in Label Studio, and not by Skylight" in failure.reason


def test_what_skylight_itself_has_written_over_or_deleted_is_not_called_deleted_by_somebody(planted, studio, project):
    for _ in range(8):
        promote(planted, project)
        preannotate(planted, project)
    assert studio.predicted("skylight-1") == []
    for days in (1, 2):
        after(planted, project, days * LATER)
    assert {one["model_version"] for one in studio.predictions.values()} == {"skylight-10"}
    assert planted.failures.of(project) == []


def test_nothing_is_deleted_of_another_project_with_the_same_id(planted, studio, project):
    after(planted, project, 0.0)
    studio.projects[1]["created_at"] = "2026-11-23T09:40:01.831122Z"
    assert not after(planted, project, LATER)
    del studio.projects[1]
    assert not after(planted, project, LATER)
    assert studio.predicted("skylight-1") == [1, 2, 3]


def test_the_upkeep_of_one_worker_does_it(planted, studio, project):
    planted.settings = replace(planted.settings, keep_predictions=0)
    for _ in range(2):
        Maintenance(planted, sweep=True).run_once()
    assert studio.predicted("skylight-1") == []
    assert studio.predicted("skylight-2") == [1, 2, 3]


def test_a_refusal_to_delete_is_noted_until_it_goes_well(planted, studio, project, monkeypatch):
    planted.settings = replace(planted.settings, keep_predictions=0)
    label_studio = studio.predictions
    studio.predictions = None
    Maintenance(planted, sweep=True).run_once()
    (failure,) = planted.failures.of(project)
    assert failure.what == CLEARING and "500" in failure.reason
    studio.predictions = label_studio
    planted.queue.redis.delete(key(project, "superseded-looked"))
    Maintenance(planted, sweep=True).run_once()
    assert planted.failures.of(project) == []


@pytest.mark.parametrize(
    ("name", "number"), [("skylight-12", 12), ("skylight-", 0), ("sam-tiny", 0), ("skylight-x", 0), ("", 0)]
)
def test_the_number_of_a_version(name, number):
    assert number_of(name) == number

"""What Label Studio holds against what the store holds."""

from dataclasses import replace

import pytest

from skylight.backend.labelstudio.events import webhook_events
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.learning.ingest import apply_event
from skylight.backend.learning.reconcile import reconcile
from skylight.backend.service import Service
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import brush, key_point, png, square

LABELING = parse_config(CONFIG)


@pytest.fixture
def project(planted, studio) -> str:
    return studio.add_project()


def submit(studio, project, seed=0, **options):
    image, mask = square(seed)
    return studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)], **options)


def ids(service, project) -> list[int]:
    return [record.annotation for record in service.store.samples(project)]


def test_annotations_of_which_no_word_came_are_ingested(planted, studio, project):
    one, other = submit(studio, project, 0), submit(studio, project, 1)
    submit(studio, project, 2, skip=True)
    assert reconcile(planted, project) == 2
    assert ids(planted, project) == [one["id"], other["id"]]
    assert planted.store.config(project) == CONFIG
    assert reconcile(planted, project) == 0
    assert len(studio.fetched) == 2


def test_what_was_already_told_is_not_taken_again(planted, studio, project):
    known = submit(studio, project)
    apply_event(planted, project, next(webhook_events(studio.webhook("ANNOTATION_CREATED", project, known))))
    assert reconcile(planted, project) == 0
    assert len(studio.fetched) == 1


def test_a_changed_annotation_is_taken_anew(planted, studio, project):
    known = submit(studio, project)
    reconcile(planted, project)
    _, mask = square(5)
    studio.update(known, [brush(LABELING, mask)])
    assert reconcile(planted, project) == 1
    (record,) = planted.store.samples(project)
    assert (planted.store.label_map(project, record) == mask).all()


def test_what_vanished_or_was_skipped_is_removed(planted, studio, project):
    gone, skipped, stays = (submit(studio, project, seed) for seed in range(3))
    reconcile(planted, project)
    studio.delete(gone)
    studio.update(skipped, skipped["result"], skip=True)
    assert reconcile(planted, project) == 2
    assert ids(planted, project) == [stays["id"]]


def test_an_annotation_without_masks_counts_as_no_change(planted, studio, project):
    task = studio.add_task(project, png(square(0)[0]))
    studio.annotate(task, [key_point("point", "Pit", 9, 9, (64, 64))])
    assert reconcile(planted, project) == 0
    assert ids(planted, project) == []


def test_another_project_under_the_same_number_is_left_alone(planted, studio, project, caplog):
    submit(studio, project)
    reconcile(planted, project)
    studio.projects[1]["created_at"] = "2027-01-01T00:00:00.000000Z"  # deleted and made anew
    studio.tasks.clear()
    assert reconcile(planted, project) == 0
    assert len(ids(planted, project)) == 1
    assert "another one now" in caplog.text


def test_a_project_that_is_gone_changes_nothing(planted, studio, project, caplog):
    submit(studio, project)
    reconcile(planted, project)
    studio.projects.clear()
    assert reconcile(planted, project) == 0
    assert len(ids(planted, project)) == 1
    assert "not in Label Studio any more" in caplog.text and "no project 1" in caplog.text


def test_while_label_studio_is_down_nothing_changes_and_the_log_says_so(planted, studio, project, caplog):
    submit(studio, project)
    reconcile(planted, project)
    studio.stop()
    assert reconcile(planted, project) == 0
    assert len(ids(planted, project)) == 1
    assert "did not answer" in caplog.text


def test_without_a_key_nothing_changes_and_the_log_says_what_to_set(planted, project, caplog):
    blind = Service(replace(planted.settings, label_studio_api_key=""))
    assert reconcile(blind, project) == 0
    assert "LABEL_STUDIO_API_KEY" in caplog.text


def test_one_image_that_is_gone_does_not_stop_the_others(planted, studio, project):
    bad, good = submit(studio, project, 0), submit(studio, project, 1)
    del studio.pictures[studio.tasks[bad["task"]]["data"]["image"]]
    assert reconcile(planted, project) == 1
    assert ids(planted, project) == [good["id"]]


def test_a_mark_that_changed_without_a_word_is_taken_over(planted, studio, project):
    one, other = submit(studio, project, 0), submit(studio, project, 1)
    one["ground_truth"] = True
    reconcile(planted, project)
    marks = {record.annotation: record.ground_truth for record in planted.store.samples(project)}
    assert marks == {one["id"]: True, other["id"]: False}
    one["ground_truth"], other["last_action"] = False, "accepted"
    assert reconcile(planted, project) == 2
    marks = {record.annotation: (record.ground_truth, record.reviewed) for record in planted.store.samples(project)}
    assert marks == {one["id"]: (False, False), other["id"]: (False, True)}
    assert reconcile(planted, project) == 0


def test_a_glance_looks_closer_only_if_something_changed(planted, studio, project, monkeypatch):
    submit(studio, project, 0)
    assert reconcile(planted, project, glance=True) == 1
    asked = []
    summaries = planted.labelstudio.annotation_summaries
    monkeypatch.setattr(planted.labelstudio, "annotation_summaries", lambda n: asked.append(n) or summaries(n))
    assert reconcile(planted, project, glance=True) == 0
    assert not asked
    known = submit(studio, project, 1)
    assert reconcile(planted, project, glance=True) == 1
    studio.update(known, known["result"])
    assert reconcile(planted, project, glance=True) == 1
    studio.delete(known)
    assert reconcile(planted, project, glance=True) == 1
    assert len(asked) == 3


def test_a_glance_sees_what_should_not_be_in_the_store(planted, studio, project):
    submit(studio, project, 0)
    late = submit(studio, project, 1)
    event = next(webhook_events(studio.webhook("ANNOTATION_UPDATED", project, late)))
    reconcile(planted, project)
    studio.delete(late)
    reconcile(planted, project)
    apply_event(planted, project, event)  # overtaken by the deletion
    assert len(ids(planted, project)) == 2
    assert reconcile(planted, project, glance=True) == 1
    assert len(ids(planted, project)) == 1

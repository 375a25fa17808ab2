"""From events to samples."""

import hashlib
import logging
from dataclasses import replace

import numpy as np
import pytest

from skylight.backend.labelstudio.events import annotation_event, project_key, webhook_events
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.learning.ingest import apply_event, ingest_inbox, save_config
from tests.support.label_studio_double import CONFIG, capture
from tests.support.planted_embeddings import brush, key_point, png, square

LABELING = parse_config(CONFIG)
TWO = CONFIG.replace('<Label value="Pit"', '<Label value="Crater"/><Label value="Pit"')


@pytest.fixture
def project(planted, studio) -> str:
    key = studio.add_project()
    planted.store.save_config(key, CONFIG)
    return key


@pytest.fixture
def submitted(studio, project):
    """An annotation of one bright square, as it is in Label Studio."""
    image, mask = square(0)
    return studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)])


def apply(service, studio, project, action, annotation) -> bool:
    (event,) = webhook_events(studio.webhook(action, project, annotation))
    return apply_event(service, project, event)


def create(service, studio, project, annotation) -> bool:
    return apply(service, studio, project, "ANNOTATION_CREATED", annotation)


def test_an_accepted_annotation_becomes_a_sample(planted, studio, project, submitted):
    assert create(planted, studio, project, submitted)
    (record,) = planted.store.samples(project)
    image, mask = square(0)
    assert (record.annotation, record.task, record.regions) == (submitted["id"], submitted["task"], 1)
    assert (record.size, record.labels) == ((64, 64), ("Pit",))
    assert record.image == hashlib.sha256(png(image)).hexdigest()
    assert (planted.store.label_map(project, record) == mask).all()
    assert len(list((planted.settings.home / "embeddings").rglob("*.safetensors"))) == 1


def test_an_annotation_that_began_with_a_pre_annotation_keeps_how_far_the_two_agree(planted, studio, project):
    image, mask = square(0)
    task, half = studio.add_task(project, png(image)), mask.copy()
    half[:, np.flatnonzero(mask.any(axis=0))[:12]] = False
    shown = {"task": task, "model_version": "skylight-3", "score": 0.5, "result": [brush(LABELING, half)]}
    studio.predictions[1] = shown
    studio.projects[1]["model_version"] = "skylight-3"
    annotation = studio.annotate(task, [brush(LABELING, mask)])
    del studio.predictions[1]  # as when the next version is promoted
    create(planted, studio, project, annotation)
    (record,) = planted.store.samples(project)
    assert (record.shown, record.agreement) == ("skylight-3", 0.5)
    studio.update(annotation, [brush(LABELING, half)])
    apply(planted, studio, project, "ANNOTATION_UPDATED", annotation)
    (record,) = planted.store.samples(project)
    assert (record.shown, record.agreement) == ("skylight-3", 1.0)


def test_an_annotation_made_from_nothing_agrees_with_nothing(planted, studio, project, submitted):
    create(planted, studio, project, submitted)
    (record,) = planted.store.samples(project)
    assert (record.shown, record.agreement) == ("", None)


def test_touching_objects_are_told_apart_and_those_drawn_as_one_region_are_not(planted, studio, project):
    one, other = np.zeros((2, 64, 64), bool)
    one[10:20, 10:20], other[10:20, 20:40] = True, True
    both = np.roll(one, 40, 0) | np.roll(other, (40, 20), (0, 1))
    regions = [brush(LABELING, mask) for mask in (one, other, both)]
    create(planted, studio, project, studio.annotate(studio.add_task(project, png(square(0)[0])), regions))
    (record,) = planted.store.samples(project)
    found = planted.store.objects(project, record)
    assert (found == one + 2 * other).all()
    assert (planted.store.label_map(project, record) == (one | other | both)).all()


def test_the_same_event_again_changes_nothing(planted, studio, project, submitted):
    assert create(planted, studio, project, submitted)
    assert not create(planted, studio, project, submitted)
    assert len(studio.fetched) == 1


def test_an_older_event_does_not_overwrite_a_newer_one(planted, studio, project, submitted):
    late = studio.webhook("ANNOTATION_CREATED", project, submitted)
    _, mask = square(1)
    studio.update(submitted, [brush(LABELING, mask)])
    assert apply(planted, studio, project, "ANNOTATION_UPDATED", submitted)
    assert not apply_event(planted, project, next(webhook_events(late)))
    (record,) = planted.store.samples(project)
    assert (planted.store.label_map(project, record) == mask).all()


def test_an_update_takes_the_place_of_what_was_there(planted, studio, project, submitted):
    create(planted, studio, project, submitted)
    _, mask = square(1)
    studio.update(submitted, [brush(LABELING, mask)])
    assert apply(planted, studio, project, "ANNOTATION_UPDATED", submitted)
    (record,) = planted.store.samples(project)
    assert record.updated_at == submitted["updated_at"]
    assert (planted.store.label_map(project, record) == mask).all()


def test_skipping_removes_the_sample_and_submitting_brings_it_back(planted, studio, project, submitted):
    result = submitted["result"]
    create(planted, studio, project, submitted)
    studio.update(submitted, result, skip=True)
    assert apply(planted, studio, project, "ANNOTATION_UPDATED", submitted)
    assert planted.store.samples(project) == []
    studio.update(submitted, result)
    assert apply(planted, studio, project, "ANNOTATION_UPDATED", submitted)
    assert len(planted.store.samples(project)) == 1


def test_a_task_skipped_without_an_annotation_is_no_sample(planted, studio, project):
    skipped = studio.annotate(studio.add_task(project, b""), [], skip=True)
    assert not create(planted, studio, project, skipped)
    assert studio.fetched == []


def test_deleting_the_annotation_removes_the_sample(planted, studio, project, submitted):
    create(planted, studio, project, submitted)
    assert apply(planted, studio, project, "ANNOTATIONS_DELETED", submitted)
    assert not apply(planted, studio, project, "ANNOTATIONS_DELETED", submitted)
    assert planted.store.samples(project) == []


def test_deleting_the_task_removes_its_samples(planted, studio, project, submitted):
    create(planted, studio, project, submitted)
    body = studio.webhook("TASKS_DELETED", project) | {"tasks": [{"id": submitted["task"]}, {"id": 99}]}
    assert apply_event(planted, project, next(webhook_events(body)))
    assert planted.store.samples(project) == []


def test_prompts_without_a_mask_are_not_learned_from(planted, studio, project, caplog):
    task = studio.add_task(project, png(square(0)[0]))
    asked = studio.annotate(task, [key_point("point", "Pit", 9, 9, (64, 64))])
    assert not create(planted, studio, project, asked)
    assert planted.store.samples(project) == []
    assert "prompts but no mask" in caplog.text


def test_a_mask_taken_back_for_a_prompt_removes_the_sample(planted, studio, project, submitted):
    create(planted, studio, project, submitted)
    studio.update(submitted, [key_point("point", "Pit", 9, 9, (64, 64))])
    assert apply(planted, studio, project, "ANNOTATION_UPDATED", submitted)
    assert planted.store.samples(project) == []


def test_a_deliberately_empty_annotation_is_a_sample_of_background(planted, studio, project):
    empty = studio.annotate(studio.add_task(project, png(square(0)[0])), [])
    assert create(planted, studio, project, empty)
    (record,) = planted.store.samples(project)
    assert record.regions == 0
    assert not planted.store.label_map(project, record).any()


@pytest.mark.parametrize(("number", "regions"), [("21", 1), ("22", 2), ("23", 1), ("25", 3)])
def test_recorded_submissions_become_samples(planted, studio, number, regions):
    body = capture(number)
    width, height = (body["annotation"]["result"][0][f"original_{side}"] for side in ("width", "height"))
    studio.pictures[body["task"]["data"]["image"]] = png(np.full((height, width, 3), 90, np.uint8))
    key = project_key(body["project"])
    assert apply_event(planted, key, next(webhook_events(body)))
    (record,) = planted.store.samples(key)
    assert record.size == (height, width)
    assert record.regions >= regions
    found = planted.store.label_map(key, record)
    assert found.shape == (height, width) and 0 < np.count_nonzero(found) < found.size


def test_a_region_whose_label_is_gone_is_left_out(planted, studio, project, caplog):
    caplog.set_level(logging.INFO)
    image, mask = square(0)
    regions = [brush(parse_config(TWO), mask, "Crater"), brush(LABELING, np.roll(mask, 20, 0))]
    create(planted, studio, project, studio.annotate(studio.add_task(project, png(image)), regions))
    (record,) = planted.store.samples(project)
    assert record.regions == 1
    assert "label 'Crater' is not in the configuration" in caplog.text


def accept(service, studio, project, annotation) -> None:
    (event,) = webhook_events(studio.webhook("ANNOTATION_CREATED", project, annotation))
    service.queue.add_event(project, event)


@pytest.mark.parametrize("trouble", ["no image", "not an image", "another size", "nonsense", "no data"])
def test_an_event_that_cannot_be_used_is_logged_and_holds_up_nothing(planted, studio, project, trouble, caplog):
    image, mask = square(0)
    task = studio.add_task(project, b"GIF89a" if trouble == "not an image" else png(image))
    region = brush(LABELING, np.ones((10, 10), bool) if trouble == "another size" else mask)
    if trouble == "no image":
        studio.pictures.clear()
    if trouble == "nonsense":
        region["type"] = ["brushlabels"]
    if trouble == "no data":
        studio.tasks[task]["data"] = ["?"]
    accept(planted, studio, project, studio.annotate(task, [region]))
    good = studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)])
    accept(planted, studio, project, good)
    ingest_inbox(planted, project)
    assert [record.annotation for record in planted.store.samples(project)] == [good["id"]]
    assert planted.queue.inbox_length(project) == 0
    assert "annotation 101" in caplog.text


def test_an_event_that_the_machine_cannot_take_stays_in_the_inbox(planted, studio, project, submitted, caplog):
    accept(planted, studio, project, submitted)
    folder = planted.files.path(planted.store.folder(project)) / "samples"
    folder.write_text("in the way")
    with pytest.raises(OSError):
        ingest_inbox(planted, project)
    assert planted.queue.inbox_length(project) == 1
    folder.unlink()
    ingest_inbox(planted, project)
    assert planted.queue.inbox_length(project) == 0
    assert len(planted.store.samples(project)) == 1
    assert "the worker ended" not in caplog.text


def test_while_another_worker_empties_the_inbox_this_one_keeps_off(planted, studio, project, submitted, monkeypatch):
    monkeypatch.setattr("skylight.backend.queue.locks.LOCK_SECONDS", 0.2)
    accept(planted, studio, project, submitted)
    with planted.queue.lock(project, "ingest"):
        ingest_inbox(planted, project)
        assert planted.queue.inbox_length(project) == 1


def test_new_labels_call_for_a_training_and_new_colours_do_not(planted, project):
    save_config(planted, project, CONFIG.replace("#e4572e", "#000000"))
    assert planted.queue.dirty(project) == 0
    save_config(planted, project, TWO)
    assert planted.queue.dirty(project) == 1
    save_config(planted, project, TWO)
    assert planted.queue.dirty(project) == 1


def test_a_configuration_that_cannot_be_used_is_kept_and_reported(planted, project, caplog):
    save_config(planted, project, "<View/>")
    assert planted.store.config(project) == "<View/>"
    assert "no Image" in caplog.text


def test_an_import_with_annotations_asks_for_a_reconciliation(planted, project):
    (event,) = webhook_events(capture("36"))
    assert not apply_event(planted, project, event)
    assert planted.queue.take_reconciliation(project)


def test_an_event_of_a_list_is_read_like_any_other(planted, studio, project, submitted):
    task = {"id": submitted["task"], "data": studio.tasks[submitted["task"]]["data"]}
    assert apply_event(planted, project, annotation_event(submitted, task, CONFIG))


def test_marks_are_kept_and_news_of_them_is_news(planted, studio, project, submitted):
    create(planted, studio, project, submitted)
    submitted.update(ground_truth=True, last_action="accepted", updated_at=studio.now())
    assert apply(planted, studio, project, "ANNOTATION_UPDATED", submitted)
    (record,) = planted.store.samples(project)
    assert record.ground_truth and record.reviewed
    submitted["ground_truth"] = False  # taken by another annotation: `updated_at` stays
    assert apply(planted, studio, project, "ANNOTATION_UPDATED", submitted)
    (record,) = planted.store.samples(project)
    assert (record.ground_truth, record.reviewed) == (False, True)
    assert not apply(planted, studio, project, "ANNOTATION_UPDATED", submitted)


def test_an_earlier_state_of_an_annotation_is_no_news_whatever_its_marks(planted, studio, project, submitted):
    create(planted, studio, project, submitted | {"updated_at": studio.now()})
    assert not create(planted, studio, project, submitted | {"ground_truth": True})


def test_a_start_of_training_is_a_wish_for_it(planted, studio, project):
    (event,) = webhook_events(studio.webhook("START_TRAINING", project))
    assert not apply_event(planted, project, event)
    assert planted.queue.newest_training_request(project)


def test_annotations_that_are_too_much_are_named_in_the_log_and_hold_up_no_other(
    planted, studio, project, caplog, monkeypatch
):
    """With lower limits than those of tests/backend/test_limits.py, as it is about what comes of them."""
    monkeypatch.setattr("skylight.model.masks.brush_rle.MAX_BYTES", 2**14)
    monkeypatch.setattr("skylight.model.masks.rasterize.MAX_VERTICES", 1000)
    monkeypatch.setattr("skylight.backend.labelstudio.label_map.MAX_REGIONS", 100)
    image, mask = square(0)
    good = brush(LABELING, mask)
    bad = [
        [good | {"value": good["value"] | {"rle": [0] * (2**14 + 1)}}],
        [good | {"value": good["value"] | {"rle": [255] * 9000}}],
        [good | {"type": "bitmasklabels", "value": good["value"] | {"imageDataURL": "data:image/png;base64,AAAA"}}],
        [good | {"type": "polygonlabels", "value": {"points": [["1", "2"]] * 3, "polygonlabels": ["Pit"]}}],
        [good | {"type": "polygonlabels", "value": {"points": [[0, 1]] * 2000, "polygonlabels": ["Pit"]}}],
        [good | {"type": {}, "value": []}],
        [good | {"original_width": 10**400}],
        [good] * 101,
    ]
    annotations = [studio.annotate(studio.add_task(project, png(image)), result) for result in [*bad, [good]]]
    for annotation in annotations:
        for event in webhook_events(studio.webhook("ANNOTATION_CREATED", project, annotation)):
            planted.queue.add_event(project, event)
    ingest_inbox(planted, project)
    assert [record.annotation for record in planted.store.samples(project)] == [annotations[-1]["id"]]
    assert planted.queue.inbox_length(project) == 0
    assert "did not foresee" not in caplog.text and "Traceback" not in caplog.text
    for annotation in annotations[:-1]:
        assert f"annotation {annotation['id']} " in caplog.text


ELLIPSES = CONFIG.replace(
    "</View>", '<EllipseLabels name="ell" toName="image"><Label value="Pit"/></EllipseLabels></View>'
)


@pytest.mark.parametrize("config", [CONFIG, ELLIPSES])
def test_a_sample_of_a_release_that_took_ellipses_for_background_is_made_again(planted, studio, project, config):
    studio.projects[1]["label_config"] = config
    task = studio.add_task(project, png(square(0)[0]))
    ellipse = key_point("ell", "Pit", 0, 0, (64, 64)) | {"type": "ellipselabels"}
    ellipse["value"] = {"x": 50, "y": 50, "radiusX": 20, "radiusY": 20, "ellipselabels": ["Pit"]}
    annotation = studio.annotate(task, [ellipse])
    create(planted, studio, project, annotation)
    (record,) = planted.store.samples(project)
    assert planted.store.label_map(project, record)[32, 32] == 1
    planted.store.put(project, replace(record, reading=0), np.zeros((64, 64), np.uint8))
    assert create(planted, studio, project, annotation) == (config == ELLIPSES)
    (record,) = planted.store.samples(project)
    assert planted.store.label_map(project, record)[32, 32] == (config == ELLIPSES)
    assert not create(planted, studio, project, annotation)


def test_an_annotation_with_a_shape_that_was_never_drawn_is_learned_from_and_the_log_names_it(
    planted, studio, project, caplog
):
    image, mask = square(0)
    slip = {**brush(LABELING, mask), "id": "slip", "type": "polygonlabels", "from_name": "poly"}
    slip["value"] = {"points": [[1, 1], [9, 9]], "polygonlabels": ["Pit"]}
    task = studio.add_task(project, png(image))
    with caplog.at_level(logging.INFO):
        assert create(planted, studio, project, studio.annotate(task, [brush(LABELING, mask), slip]))
    (record,) = planted.store.samples(project)
    assert record.regions == 1 and (planted.store.label_map(project, record) == mask).all()
    assert "region 'slip' covers nothing: a polygon needs at least 3 points, not 2; it is left out" in caplog.text


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ("$meta.url", lambda path: {"meta": {"url": path}}),
        ("$images[0].url", lambda path: {"images": [{"url": path}]}),
        ("$image", lambda path: {"image": f"\t{path}\r\n"}),
        ("$image", lambda path: {"$undefined$": path}),
    ],
)
def test_a_picture_is_found_wherever_the_data_has_its_address(planted, studio, project, value, data):
    studio.projects[1]["label_config"] = CONFIG.replace('value="$image"', f'value="{value}"')
    image, mask = square(0)
    task = studio.add_task(project, png(image))
    path = studio.tasks[task]["data"]["image"]
    studio.tasks[task]["data"] = data(path)
    assert create(planted, studio, project, studio.annotate(task, [brush(LABELING, mask)]))
    (record,) = planted.store.samples(project)
    assert record.url == path

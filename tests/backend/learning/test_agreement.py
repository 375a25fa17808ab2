"""Learning curves from versions' cards, and agreement with what was pre-annotated."""

import numpy as np
import pytest

from skylight.backend.labelstudio.events import shown_prediction
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.labelstudio.label_map import label_map
from skylight.backend.learning.agreement import agreement, agreements, learning_curve, moment, running_mean, summarize
from skylight.backend.store.samples import SampleRecord
from tests.support.label_studio_double import CONFIG, capture
from tests.support.planted_embeddings import brush

LABELING = parse_config(CONFIG)
SIZE = (40, 50)


def box(rows: slice, columns: slice = slice(None)) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[rows, columns] = True
    return mask


def accepted(*masks):
    return label_map([brush(LABELING, mask) for mask in masks], LABELING, SIZE)


def shown(*masks):
    return {"version": "skylight-1", "result": [brush(LABELING, mask) for mask in masks]}


def record(annotation, updated_at="2026-11-22T10:00:00Z", **change):
    fields = {"task": 7, "url": "/a.png", "image": "0" * 64, "size": SIZE, "labels": ("Pit",), "regions": 1}
    return SampleRecord(annotation=annotation, updated_at=updated_at, **fields | change)


def test_agreement_is_the_iou_of_what_was_accepted_with_what_was_shown():
    assert agreement(shown(box(slice(0, 10))), accepted(box(slice(0, 10))), LABELING) == 1
    assert agreement(shown(box(slice(0, 10))), accepted(box(slice(5, 10))), LABELING) == 0.5
    assert agreement(shown(box(slice(0, 10))), accepted(box(slice(20, 30))), LABELING) == 0


def test_an_empty_pre_annotation_agrees_with_an_empty_annotation_only():
    assert agreement(shown(), accepted(), LABELING) == 1
    assert agreement(shown(), accepted(box(slice(0, 10))), LABELING) == 0


def test_agreement_is_not_known_where_nothing_was_shown_or_it_cannot_be_read():
    assert agreement(None, accepted(), LABELING) is None
    other_size = brush(LABELING, np.ones((8, 8), bool))
    assert agreement({"version": "skylight-1", "result": [other_size]}, accepted(), LABELING) is None
    broken = brush(LABELING, box(slice(0, 3)))
    broken["value"]["rle"] = {"not": "a list"}
    for odd in ([1], [broken]):
        assert agreement({"version": "skylight-1", "result": odd}, accepted(), LABELING) is None


@pytest.mark.parametrize("number", ["21", "22", "26"])
def test_recorded_annotations_without_a_copy_of_a_prediction_began_with_none(number):
    assert capture(number)["annotation"]["prediction"] == {}
    assert shown_prediction(capture(number)["annotation"]) is None


def test_only_skylights_own_predictions_count():
    result = [brush(LABELING, box(slice(0, 3)))]
    copy = {"id": 3, "model_version": "skylight-4", "score": 0.5, "result": result}
    assert shown_prediction({"prediction": copy}) == {"version": "skylight-4", "result": result}
    for other in ({"model_version": "someone-else"}, {"model_version": None}, {"result": None}):
        assert shown_prediction({"prediction": copy | other}) is None
    assert shown_prediction({"prediction": None}) is None
    opened_with_it = {"prediction": copy | {"id": 7}, "parent_prediction": 7}
    assert shown_prediction(opened_with_it) == {"version": "skylight-4", "result": result}
    assert shown_prediction(opened_with_it | {"parent_prediction": 6}) is None  # with one of before a promotion


def test_agreements_are_those_that_are_known_the_oldest_first():
    records = [
        record(1, "2026-11-22T12:00:00Z", shown="skylight-2", agreement=0.5),
        record(2),
        record(3, "2026-11-22T13:00:00+02:00", shown="skylight-1", agreement=0.25),
    ]
    found = agreements(records)
    assert [(one.annotation, one.version, one.iou) for one in found] == [
        (3, "skylight-1", 0.25),
        (1, "skylight-2", 0.5),
    ]


def test_the_learning_curve_leaves_out_what_was_not_measured():
    figures = {"mean_iou": 0.5, "iou": {"Pit": 0.5}}
    cards = [
        {"version": 1, "annotations": {"1": ""}, "validation": None, "promoted": True},
        {"version": 2, "annotations": dict.fromkeys("123456"), "validation": figures},
        {"version": 3, "annotations": dict.fromkeys("123"), "validation": {"mean_iou": 0.4}, "promoted": True},
        {"version": 4},
    ]
    found = learning_curve(map(summarize, cards))
    assert [(each.number, each.annotations, each.mean_iou, each.promoted) for each in found] == [
        (3, 3, 0.4, True),
        (2, 6, 0.5, False),
    ]
    assert found[1].per_label == {"Pit": 0.5}


def test_a_card_with_nothing_in_it_is_a_version_all_the_same():
    found = summarize({"version": 3})
    assert (found.number, found.mean_iou, found.per_label, found.validated, found.labels) == (3, None, {}, 0, ())


def test_the_running_mean_looks_back_only():
    assert running_mean([1.0, 0.0, 0.5, 0.5], window=2) == [1.0, 0.5, 0.25, 0.5]
    assert running_mean([], window=2) == []


def test_a_time_that_is_none_sorts_first_and_is_no_error():
    assert moment("2026-11-22T10:00:00").isoformat() == "2026-11-22T10:00:00+00:00"
    assert moment("2026-11-22T10:00:00+02:00").hour == 8
    assert moment(None).year == moment("soon").year == 1

"""The part of a mask that was clicked, and what stays of the mask on the screen after a further click."""

import numpy as np
import pytest

from skylight.backend.inference.click import click as answer_to
from skylight.backend.labelstudio.label_config import parse_config
from skylight.model.datasets import synthetic_scenes
from skylight.model.evaluation.metrics import iou
from skylight.model.evaluation.simulated_clicks import any_point, correction_click
from skylight.model.masks.brush_rle import decode_rle
from skylight.model.masks.clicked_parts import clicked_parts, corrected
from skylight.model.masks.contours import find_components
from skylight.model.masks.geometry import interior_point
from skylight.model.sam.types import Prompt
from tests.support.editor import CONFIG, point
from tests.support.planted_embeddings import png

NO_POINTS = np.zeros((0, 2), np.float32)


def mask_of(*boxes, size=(20, 30)):
    mask = np.zeros(size, bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


def points(*places):
    return np.array(places, np.float32).reshape(-1, 2)


ONE, OTHER, SPECK = (2, 2, 10, 10), (2, 15, 10, 25), (15, 28, 16, 29)


def test_only_the_parts_that_were_clicked_are_kept():
    whole = mask_of(ONE, OTHER, SPECK)
    assert (clicked_parts(whole, points((3, 3))) == mask_of(ONE)).all()
    assert (clicked_parts(whole, points((3.9, 3.9), (20, 5))) == mask_of(ONE, OTHER)).all()
    assert (clicked_parts(whole, points((28.5, 15.5))) == mask_of(SPECK)).all()
    assert (clicked_parts(whole, NO_POINTS) == whole).all()  # a box
    assert not clicked_parts(mask_of(), points((3, 3))).any()


def test_a_click_just_outside_keeps_the_nearest_part():
    whole = mask_of(ONE, OTHER, SPECK)
    assert (clicked_parts(whole, points((26, 5))) == mask_of(OTHER)).all()
    assert (clicked_parts(whole, points((26, 5), (0, 19))) == mask_of(OTHER)).all()
    assert (clicked_parts(whole, points((100, -5), (3, 3))) == mask_of(ONE)).all()


def test_pixels_that_touch_by_a_corner_are_one_part():
    assert clicked_parts(np.eye(9, dtype=bool), points((0, 0))).sum() == 9


def test_a_click_that_agrees_with_the_mask_on_the_screen_leaves_it():
    before, answer = mask_of(ONE), mask_of(OTHER)
    for places, positive in (([(3, 3), (5, 5)], [True, True]), ([(3, 3), (20, 5)], [True, False])):
        assert (corrected(before, answer, points(*places), np.array(positive)) == before).all()


def test_a_correction_is_the_answer_but_where_it_breaks_an_earlier_click():
    before, positive = mask_of((2, 2, 10, 14)), np.array([True, True, False])
    clicks = points((3, 3), (8, 3), (12, 3))  # the last one is a correction
    good = mask_of((0, 0, 10, 11))
    assert (corrected(before, good, clicks, positive) == good).all()
    bad = mask_of((2, 2, 10, 7))  # right at the last click, but it has lost the one at x 8
    assert (corrected(before, bad, clicks, positive) == before).all()  # one change, which is undone
    two_changes = mask_of((2, 2, 10, 7), (2, 9, 10, 12))
    assert (corrected(before, two_changes, clicks, positive) == mask_of((2, 2, 10, 12))).all()


def test_no_answer_has_parts_that_were_not_clicked(segmenter):
    counted = 0
    for seed in range(3):
        drawn = synthetic_scenes.scene(90_000 + seed)
        embedding = segmenter.embed(drawn.image)
        rng = np.random.default_rng(seed)
        for item in [each for each in drawn.objects if each.kind == "pit"][:3]:
            click = interior_point(item.mask, rng, central=True)
            for mask in segmenter.segment(embedding, Prompt.of([(*click, True)])).masks:
                assert len(find_components(mask)) <= 1
                counted += 1
    assert counted >= 9


@pytest.fixture
def asked_about(service, studio):
    """Asks the service for a mask of a scene by clicks, (id, x, y px, positive)."""
    drawn = synthetic_scenes.scene(90_002)
    studio.pictures["/data/upload/1/scene.png"] = png(drawn.image)
    labeling = parse_config(CONFIG)
    height, width = drawn.image.shape[:2]

    def ask(*clicks):
        items = [point(100 * x / width, 100 * y / height, id=id, is_positive=yes) for id, x, y, yes in clicks]
        items = [{**each, "original_width": width, "original_height": height} for each in items]
        task = {"id": 1, "data": {"image": "/data/upload/1/scene.png"}}
        (region,), _ = answer_to(service, labeling, task, {"result": items})
        return decode_rle(region["value"]["rle"], height, width) > 127

    return ask, max((each.mask for each in drawn.objects if each.kind == "pit"), key=np.count_nonzero)


def test_a_click_that_agrees_leaves_the_mask_and_a_correction_changes_it(asked_about):
    ask, truth = asked_about
    rng = np.random.default_rng(0)
    first = ("a", *interior_point(truth, rng, central=True), True)
    shown = ask(first)
    before = iou(shown, truth)
    assert before > 0.4
    for number in range(4):
        inside, outside = any_point(shown & truth, rng), any_point(~shown & ~truth, rng)
        assert (ask(first, (f"in{number}", *inside, True)) == shown).all()
        assert (ask(first, (f"out{number}", *outside, False)) == shown).all()
    wrong = correction_click(shown, truth, rng)
    assert wrong is not None and (ask(first, ("b", *wrong)) != shown).any()

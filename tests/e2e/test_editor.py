"""The loop as an annotator sees it: Label Studio's own editor in Chromium, clicks, pictures of masks, corrections."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests

from skylight.backend.demo.demo import COLORS
from skylight.model.evaluation.metrics import iou
from tests.e2e.annotator import Mask, region_mask
from tests.e2e.browsing import Editor, is_click, sign_up
from tests.e2e.conftest import BUILD, Rows, Stack
from tests.e2e.scenes import beside, make_project, middle, stored_masks, union, wait

SEED = 50_500
SCENES = 7
OTHER = ("second@example.com", "second-annotator-1")


@pytest.fixture
def editor(browser: Any, stack: Stack) -> Iterator[Editor]:
    opened = Editor(browser, stack.client.url)
    opened.log_in(*stack.login)
    yield opened
    opened.page.context.close()


def test_clicks_become_masks_a_version_and_predictions_to_correct(stack: Stack, editor: Editor, rows: Rows) -> None:
    project = make_project(stack, "Seen in the editor", SEED, SCENES)
    number, tasks, pits = project.number, project.tasks, project.pits
    editor.open(number, tasks[0])
    assert editor.regions() == [] and not editor.painted(COLORS[0]).any()
    first = pits[0][0]
    assert editor.click("Pit", *middle(first)) == 1
    drawn = iou(editor.painted(COLORS[0]), first)
    rows.add("editor: drawn mask after one click", drawn, "IoU", ">= 0.7", drawn >= 0.7)
    assert drawn >= 0.7
    with editor.page.expect_request(is_click) as coming:
        assert editor.click("Pit", *beside(first, pits[0]), positive=False) == 1
    prompts = json.loads(coming.value.post_data)["context"]["result"]
    assert [prompt["is_positive"] for prompt in prompts] == [True, False]
    refined = iou(editor.painted(COLORS[0]), first)
    rows.add("editor: drawn mask after a negative click too", refined, "IoU", ">= 0.7", refined >= 0.7)
    assert refined >= 0.7
    editor.page.screenshot(path=BUILD / "editor-clicked.png")
    editor.accept()
    assert editor.regions() == ["brushlabels"]
    for pit in pits[0][1:]:
        editor.click("Pit", *middle(pit))
        editor.accept()
    (mask, *_) = stored_masks(editor.submit())
    assert iou(mask, first) >= 0.7

    for task, objects in zip(tasks[1:3], pits[1:3], strict=True):
        editor.open(number, task)
        for pit in objects:
            assert editor.click("Pit", *middle(pit)) == 1
            editor.accept()
        assert len(stored_masks(editor.submit())) == len(objects)
    wait(lambda: str(stack.client.project(number)["model_version"]).startswith("skylight-"))
    wait(lambda: all(task.predictions for task in stack.client.tasks(number) if task.id in tasks[3:]))

    shown = next(i for i in range(3, SCENES) if predicted(stack, tasks[i]))
    editor.open(number, tasks[shown])
    foreseen = union(predicted(stack, tasks[shown]))
    painted = editor.painted(COLORS[0])
    editor.page.screenshot(path=BUILD / "editor-preannotated.png")
    rows.add("editor: pre-annotation drawn as predicted", iou(painted, foreseen), "IoU", ">= 0.9")
    rows.add("editor: pre-annotation after 3 tasks, with the truth", iou(painted, union(pits[shown])), "IoU")
    assert iou(painted, foreseen) >= 0.9

    regions = len(editor.regions())
    editor.click("Pit", *middle(project.distractors[shown] & ~foreseen))
    editor.accept()
    corrected = editor.submit()
    assert len(stored_masks(corrected)) == regions + 1
    editor.open(number, tasks[shown])
    editor.remove(*middle(stored_masks(corrected)[-1]))
    updated = editor.submit()
    assert updated["id"] == corrected["id"] and len(stored_masks(updated)) == regions
    wait(lambda: learned(stack, number) == 4)
    assert editor.errors == []


def predicted(stack: Stack, task: int) -> list[Mask]:
    found = stack.client.predictions(task)
    newest = max(found, key=lambda prediction: prediction["id"])
    return stored_masks(newest)


def learned(stack: Stack, number: int) -> int:
    """How many annotations the project's newest version knows, once it is up to date."""
    status = requests.get(f"{stack.skylight}/status", timeout=30).json()
    mine = next(value for name, value in status.items() if name.startswith(f"{number}."))
    return int(mine["annotations"]) if mine["up_to_date"] else 0


def test_two_annotators_click_on_two_images_at_the_same_time(stack: Stack, editor: Editor, browser: Any) -> None:
    project = make_project(stack, "Two at work", SEED + 100, 2)
    sign_up(stack.client.url, *OTHER)
    second = Editor(browser, stack.client.url)
    second.log_in(*OTHER)
    places = [(editor, 0), (second, 1)]
    for each, task in places:
        each.open(project.number, project.tasks[task])
    for shift in (0, 0.4, -0.4):  # of the pit's radius: a click on an earlier point would select that
        with (
            editor.page.expect_response(is_click) as ours,
            second.page.expect_response(is_click) as theirs,
        ):
            for each, task in places:
                x, y = middle(project.pits[task][0])
                each.press("Pit", x + shift * np.sqrt(project.pits[task][0].sum() / np.pi), y)
        for answer, (_, task) in zip((ours, theirs), places, strict=True):
            (region,) = answer.value.json()["data"]["result"]
            assert iou(region_mask(region), project.pits[task][0]) >= 0.7
    for each, task in places:
        each.page.wait_for_timeout(500)
        assert iou(each.painted(COLORS[0]), project.pits[task][0]) >= 0.7
        each.accept()
        (mask,) = stored_masks(each.submit())
        assert iou(mask, project.pits[task][0]) >= 0.7
    assert len({annotation["completed_by"] for annotation in stack.client.annotations(project.number)}) == 2
    second.page.context.close()

"""The loop as an annotator sees it: Label Studio's own editor in Chromium, clicks, pictures of masks, corrections."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from backend.connect import connect
from backend.demo import COLOURS, label_config, png
from model import synthetic
from model.evaluate import interior_point, iou

from .annotator import Mask, region_mask
from .browsing import Editor, is_click
from .conftest import BUILD, Rows, Stack

SEED = 50_500
SMALLEST = 700  # px
SCENES = 7
RNG = np.random.default_rng(0)
OTHER = ("second@example.com", "second-annotator-1")
TRAINING_SECONDS = 600


@dataclass(frozen=True)
class Project:
    """Scenes with one or two pits each, as tasks of a project connected to Skylight, and the biggest other object."""

    number: int
    tasks: list[int]
    pits: list[list[Mask]]
    distractors: list[Mask]


def make_project(stack: Stack, title: str, seed: int, count: int) -> Project:
    """Scenes from a seed on, each with one or two pits that are not tiny."""
    scenes: list[synthetic.Scene] = []
    pits: list[list[Mask]] = []
    distractors: list[Mask] = []
    while len(scenes) < count:
        scene = synthetic.scene(seed)
        found = [each.mask for each in scene.objects if each.kind == "pit"]
        others = [each.mask for each in scene.objects if each.kind != "pit"]
        if len(found) in (1, 2) and min(mask.sum() for mask in found) > SMALLEST and others:
            scenes.append(scene)
            pits.append(found)
            distractors.append(max(others, key=lambda mask: int(mask.sum())))
        seed += 1
    number = int(stack.client.create_project(title, label_config(["Pit"]))["id"])
    connect(stack.client, stack.secret, number, stack.skylight)
    stack.client.import_files(number, {f"{i}.png": png(Image.fromarray(scene.image)) for i, scene in enumerate(scenes)})
    by_name = {str(task.data["image"])[-5:]: task.id for task in stack.client.tasks(number)}
    return Project(number, [by_name[f"{i}.png"] for i in range(count)], pits, distractors)


@pytest.fixture
def editor(browser: Any, stack: Stack) -> Iterator[Editor]:
    opened = Editor(browser, stack.client.url)
    opened.log_in(*stack.login)
    yield opened
    opened.page.context.close()


def wait(done: Any, seconds: float = TRAINING_SECONDS) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"still not so after {seconds:.0f} s"
        time.sleep(0.5)


def middle(mask: Mask) -> tuple[float, float]:
    return interior_point(mask, RNG, central=True)


def beside(mask: Mask, others: list[Mask]) -> tuple[float, float]:
    """A place well outside of every object, to the side of this one, xy px."""
    rows, columns = np.nonzero(mask)
    x, y, away = columns.mean(), rows.mean(), 0.9 * np.ptp(columns)
    for dx, dy in ((away, 0), (-away, 0), (0, away), (0, -away)):
        column, row = int(x + dx), int(y + dy)
        inside = 0 <= column < mask.shape[1] and 0 <= row < mask.shape[0]
        if inside and not any(each[row, column] for each in others):
            return float(column), float(row)
    raise AssertionError("the object fills the image")


def stored_masks(annotation: dict[str, Any]) -> list[Mask]:
    return [region_mask(region) for region in annotation["result"] if region["type"] == "brushlabels"]


def union(masks: list[Mask]) -> Mask:
    found: Mask = np.any(masks, axis=0)
    return found


def test_clicks_become_masks_a_version_and_predictions_to_correct(stack: Stack, editor: Editor, rows: Rows) -> None:
    project = make_project(stack, "Seen in the editor", SEED, SCENES)
    number, tasks, pits = project.number, project.tasks, project.pits
    editor.open(number, tasks[0])
    assert editor.regions() == [] and not editor.painted(COLOURS[0]).any()
    first = pits[0][0]
    assert editor.click("Pit", *middle(first)) == 1
    drawn = iou(editor.painted(COLOURS[0]), first)
    rows.add("editor: drawn mask after one click", drawn, "IoU", ">= 0.7", drawn >= 0.7)
    assert drawn >= 0.7
    with editor.page.expect_request(is_click) as coming:
        assert editor.click("Pit", *beside(first, pits[0]), positive=False) == 1
    prompts = json.loads(coming.value.post_data)["context"]["result"]
    assert [prompt["is_positive"] for prompt in prompts] == [True, False]
    refined = iou(editor.painted(COLOURS[0]), first)
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
    painted = editor.painted(COLOURS[0])
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
    sign_up(stack.client.url)
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
        assert iou(each.painted(COLOURS[0]), project.pits[task][0]) >= 0.7
        each.accept()
        (mask,) = stored_masks(each.submit())
        assert iou(mask, project.pits[task][0]) >= 0.7
    assert len({annotation["completed_by"] for annotation in stack.client.annotations(project.number)}) == 2
    second.page.context.close()


def sign_up(url: str) -> None:
    """The second annotator makes an account, as the sign-up page does."""
    with requests.Session() as session:
        session.get(f"{url}/user/signup/", timeout=30)
        form = {"email": OTHER[0], "password": OTHER[1], "csrfmiddlewaretoken": session.cookies["csrftoken"]}
        session.post(f"{url}/user/signup/", data=form, headers={"Referer": url}, timeout=30).raise_for_status()

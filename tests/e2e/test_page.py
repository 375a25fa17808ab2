"""The page in a real Chromium, over a real Label Studio: looked at, pressed, refreshed."""

import json
import time
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from skylight.backend.admin.connect import connect
from skylight.backend.demo.demo import label_config, png
from skylight.backend.labelstudio.label_config import parse_config
from skylight.model.datasets import synthetic_scenes
from tests.e2e.conftest import BUILD, Stack
from tests.support.regions import make_region

SEED = 40_000
CONFIG = label_config(["Pit"])
TRAINING_SECONDS = 600


@pytest.fixture(scope="module")
def project(stack: Stack) -> tuple[int, list[int], list[synthetic_scenes.Scene]]:
    """Six scenes, three of them annotated and learned from; gives its id, the tasks, and the scenes."""
    scenes = [synthetic_scenes.scene(SEED + i) for i in range(6)]
    made = int(stack.client.create_project("Pits & skylights", CONFIG)["id"])
    connect(stack.client, stack.secret, made, stack.skylight)
    files = {f"{i}.png": png(Image.fromarray(scene.image)) for i, scene in enumerate(scenes)}
    stack.client.import_files(made, files)
    tasks = [task.id for task in stack.client.tasks(made)]
    for task, scene in zip(tasks[:3], scenes[:3], strict=True):
        annotate(stack, task, scene)
    wait(lambda: stack.client.project(made)["model_version"] == "skylight-1")
    wait(lambda: all(task.predictions for task in list(stack.client.tasks(made))[3:]))
    return made, tasks, scenes


def annotate(stack: Stack, task: int, scene: synthetic_scenes.Scene, shift: int = 0) -> None:
    """Submit the true pits, moved to the right by some pixels."""
    labeling = parse_config(CONFIG)
    masks = [np.roll(each.mask, shift, axis=1) for each in scene.objects if each.kind == "pit"]
    regions = [make_region(labeling, mask, "Pit", 1.0, f"r{i}") for i, mask in enumerate(masks) if mask.any()]
    stack.client.create_annotation(task, regions)


def wait(done: Any, seconds: float = TRAINING_SECONDS) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"still not so after {seconds:.0f} s"
        time.sleep(0.5)


def path(stack: Stack, number: int) -> str:
    """Where the page shows a project."""
    names = requests.get(f"{stack.skylight}/status", timeout=30).json()
    return f"{stack.skylight}/projects/{next(name for name in names if name.startswith(f'{number}.'))}"


def opened(browser: Any, problems: list[str], width: int = 1200, scheme: str = "light", scripts: bool = True) -> Any:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(request.url))
    return page


@pytest.mark.parametrize(
    ("name", "width", "scheme"), [("light", 1200, "light"), ("dark", 1200, "dark"), ("phone", 390, "dark")]
)
def test_the_page_is_whole_in_every_width_and_scheme(
    stack: Stack, browser: Any, project: Any, name, width, scheme
) -> None:
    problems: list[str] = []
    page = opened(browser, problems, width, scheme)
    page.goto(path(stack, project[0]))
    page.wait_for_selector("h1:has-text('Pits & skylights')")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.get_by_role("img", name="Learning curve").bounding_box()["width"] > 250
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    light = sum(map(int, background.strip("rgb()").split(","))) > 3 * 128
    assert light == (scheme == "light")
    page.screenshot(path=BUILD / f"page-{name}.png", full_page=True)
    page.get_by_role("link", name="Images of version 1").click()
    page.wait_for_selector("main img")  # else the page before, which has none, or one still empty is looked at
    drawn = "[...document.querySelectorAll('main img')].every(each => each.complete && each.naturalWidth > 500)"
    wait(lambda: page.evaluate(drawn), 60)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=BUILD / f"page-{name}-images.png", full_page=True)
    assert problems == []


def test_a_correction_appears_by_itself(stack: Stack, browser: Any, project: Any) -> None:
    number, tasks, scenes = project
    problems: list[str] = []
    page = opened(browser, problems)
    page.goto(path(stack, number))
    assert "nothing pre-annotated was accepted yet" in page.inner_text("main")
    page.evaluate("window.stays = true")
    annotate(stack, tasks[3], scenes[3])
    wait(lambda: "with what was shown, last 1" in page.inner_text("main"), 120)
    assert page.evaluate("window.stays")  # the page was not loaded anew
    shown = float(page.inner_text("dl.tiles .card:nth-child(3) .big").split()[0])
    assert 0 <= shown <= 1
    print(f"\nagreement of the true pits with the pre-annotation: {shown}")
    assert problems == []


@pytest.mark.parametrize("scripts", [True, False])
def test_the_buttons_work_with_and_without_scripts(stack: Stack, browser: Any, project: Any, scripts: bool) -> None:
    problems: list[str] = []
    page = opened(browser, problems, scripts=scripts)
    page.goto(path(stack, project[0]))
    page.get_by_role("button", name="Train now").click()
    page.wait_for_selector("text=Training is queued")
    assert problems == []
    page.goto(path(stack, project[0]))
    page.get_by_role("button", name="Roll back").click()
    page.wait_for_selector("text=The version before is served again.")
    page.get_by_role("button", name="Promote version 1").click()
    page.wait_for_selector("text=That version is served now")
    status = requests.get(f"{stack.skylight}/status", timeout=30).json()
    assert (
        next(value for name, value in status.items() if name.startswith(f"{project[0]}."))["model_version"]
        == "skylight-1"
    )


def test_another_site_cannot_press_them(stack: Stack, browser: Any, project: Any) -> None:
    address = path(stack, project[0])
    page = opened(browser, [])
    page.goto(address)  # so that the browser has the cookie
    token = page.locator("input[name=token]").first.get_attribute("value")
    page.goto(f"{stack.client.url}/user/login/")  # another port of this machine is another origin
    form = json.dumps({"address": f"{address}/train", "token": token})
    page.evaluate(
        """(text) => { const {address, token} = JSON.parse(text); const form = document.createElement('form');
        form.method = 'post'; form.action = address; form.innerHTML = '<input name=token>';
        form.firstChild.value = token; document.body.append(form); form.submit(); }""",
        form,
    )
    page.wait_for_selector("text=this request came from another site")

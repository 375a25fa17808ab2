"""Annotators at a human pace: they look, correct what a version foresaw, look again, and submit."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skylight.model.masks.geometry import interior_point
from tests.e2e.annotator import Mask
from tests.e2e.browsing import Editor
from tests.e2e.conftest import BUILD
from tests.e2e.scenes import masks_of, union
from tests.support.annotator_pace import look_seconds

SHARE_MADE_ANEW = 0.4  # of the pre-annotated tasks: a region is deleted, and clicked anew
SELECTABLE = 300  # px of a region that a click on the image selects: on those of 208 and less it was seen not to
OPEN_SHARE = 0.5  # of an object that no region covers, for it to be clicked on

Regions = list[dict[str, Any]]


@dataclass
class Work:
    """What came of one annotator's work."""

    submitted: dict[int, Regions] = field(default_factory=dict)  # by annotation: what the screen showed
    corrected: set[int] = field(default_factory=set)  # annotations that differ from what a version foresaw
    refused: list[str] = field(default_factory=list)  # annotations and drafts that Label Studio did not take
    lost: int = 0  # tasks whose annotation Label Studio did not take
    alarms: list[str] = field(default_factory=list)  # what the page said of errors
    errors: list[str] = field(default_factory=list)  # exceptions in the page
    seconds: list[float] = field(default_factory=list)  # that each task was looked at


@dataclass
class Person:
    """An annotator with a browser window and a label stream of a project."""

    editor: Editor
    project: int
    truths: Mapping[int, Sequence[Mask]]  # the pits of each task
    rng: random.Random
    work: Work = field(default_factory=Work)

    def annotate(self, count: int, breaks: Mapping[int, Callable[[], None]]) -> Work:
        """Work through so many tasks of the label stream; `breaks` are taken before a task's submit, by its place."""
        self.editor.open_stream(self.project)
        while len(self.work.submitted) < count:
            task, pause = self.editor.task, breaks.get(len(self.work.submitted))
            if self.do_task(pause):
                self.editor.await_task_after(task)
            else:
                self.editor.open_stream(self.project)  # what is refused is refused for ever
        self.note()
        return self.work

    def do_task(self, pause: Callable[[], None] | None = None) -> bool:
        """Look at the open task, correct it, perhaps pause, and submit; gives whether Label Studio took it."""
        editor, seconds = self.editor, look_seconds(self.rng)
        self.work.seconds.append(seconds)
        look(editor, seconds / 2)
        foreseen = editor.prediction is not None and bool(editor.regions())
        corrected = correct(editor, self.truths[editor.task], self.rng)
        if pause:
            pause()
        look(editor, seconds / 2)
        shown = editor.on_screen()
        answer = editor.press_submit()
        if not answer.ok:
            self.work.lost += 1
            editor.page.wait_for_timeout(1000)  # so that the page can say so
            return False
        number = int(answer.json()["id"])
        self.work.submitted[number] = shown
        if corrected and foreseen:
            self.work.corrected.add(number)
        return True

    def note(self) -> None:
        """Take down what the window has seen of errors."""
        work, editor = self.work, self.editor
        work.refused, work.alarms, work.errors = editor.refused, editor.alarms, editor.errors


def look(editor: Editor, seconds: float) -> None:
    """Do nothing for so long, while the page lives on: it saves drafts meanwhile."""
    editor.page.wait_for_timeout(1000 * seconds)


def correct(editor: Editor, pits: Sequence[Mask], rng: random.Random, anew: float = SHARE_MADE_ANEW) -> bool:
    """Bring the regions on the screen nearer to the truth; gives whether anything was changed.

    `anew`: how often one of them is deleted, to be clicked anew where it was a pit.
    """
    masks = masks_of(editor.on_screen())
    changed = False
    if rng.random() < anew:
        for chosen in rng.sample(range(len(masks)), len(masks)):
            others = [mask for i, mask in enumerate(masks) if i != chosen]
            if masks[chosen].sum() >= SELECTABLE and (place := inside(masks[chosen], others, rng)):
                editor.remove(*place)
                masks, changed = others, True
                break
    for pit in pits:
        if place := inside(pit, masks, rng):
            if not editor.take_in("Pit", *place):
                editor.page.screenshot(path=BUILD / f"click-without-answer-{editor.task}.png")
                continue
            masks, changed = masks_of(editor.on_screen()), True
    return changed


def inside(mask: Mask, others: Sequence[Mask], rng: random.Random) -> tuple[float, float] | None:
    """A place in a mask, xy px, and in none of the others, where a click would select those; None if they cover it."""
    free = mask & ~union([np.zeros_like(mask), *others])
    if not mask.any() or free.sum() < OPEN_SHARE * mask.sum():
        return None
    return interior_point(free, np.random.default_rng(rng.getrandbits(32)), central=True)


def differing(shown: Regions, stored: Regions) -> bool:
    """Whether what is stored is not what the screen showed."""
    return essence(shown) != essence(stored)


def essence(regions: Regions) -> dict[str, Any]:
    """What makes regions what they are, by their ids."""
    return {each["id"]: (each["type"], each["from_name"], each["value"]) for each in regions}

"""Annotators at work while versions are promoted: what is on their screens is taken, whatever is promoted meanwhile."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import requests

from skylight.backend.demo.demo import label_config
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.store.samples import SampleStore
from skylight.model.storage.file_store import FolderStore
from tests.e2e.annotator import Mask
from tests.e2e.browsing import STREAM_WIDTH, Editor, is_draft, sign_up
from tests.e2e.conftest import Rows, Stack, chromium
from tests.e2e.people import Person, Regions, Work, correct, differing
from tests.e2e.scenes import Project, make_project, masks_of, middle, union, wait
from tests.support.planted_embeddings import brush

SEED = 80_000
SIDE = 320  # px of the scenes
PEOPLE, EACH = 3, 20  # annotators, tasks of each
SPARE = 6  # tasks more than one needs
# Label Studio gives people the same task before it has as many annotations as it is to have, but a lock to so many of
# them only: the submit of one who has none may be refused (409). So everybody may annotate each.
ANNOTATORS_OF_A_TASK = PEOPLE + 2
PAUSE_AT = (4, 6, 8)  # the task, counted from 0, at which each pauses until the next promotion
OPEN_PROMOTIONS = 3  # that the tab which is left open sees
PASSWORD = "an-annotator-1"
CONFIG = label_config(["Pit"])


@dataclass(frozen=True)
class Watched:
    """A project, and one more annotator of it, who uses the API and keeps its versions coming."""

    stack: Stack
    project: Project
    annotation: int  # of the one more annotator
    over: threading.Event  # something went wrong: nobody is to wait any longer

    @property
    def status(self) -> dict[str, Any]:
        """Where Skylight says that the project stands."""
        status = requests.get(f"{self.stack.skylight}/status", timeout=60).json()
        mine: dict[str, Any] = status[self.key]
        return mine

    @property
    def key(self) -> str:
        """The project's name in Skylight."""
        made = SampleStore(FolderStore(self.stack.home)).projects()
        return next(name for name in made if name.startswith(f"{self.project.number}."))

    def promotions(self) -> int:
        """How many versions have been promoted until now."""
        return sum(str(each["verdict"]).startswith("promoted") for each in self.status["versions"])

    def shown(self) -> str:
        """The version whose predictions Label Studio shows."""
        return str(self.stack.client.project(self.project.number)["model_version"])

    def settled(self) -> bool:
        """Whether everything is learned from, and the version that is served is brought to all open tasks."""
        status = self.status
        at_work = any(job["running"] or job["queued"] for job in status["jobs"].values())
        return status["up_to_date"] and not at_work and self.shown() == status["model_version"]

    def nudge(self) -> None:
        """Change an annotation, if nothing is left to learn: the next training begins."""
        if self.settled():
            self.change()

    def change(self) -> None:
        """Submit the annotation anew, a little otherwise than before."""
        path = f"/api/annotations/{self.annotation}/"
        mask = union(masks_of(self.stack.client.request("GET", path)["result"]))
        self.stack.client.request("PATCH", path, json={"result": [region(np.roll(mask, 1, axis=1))]})

    def promote(self) -> None:
        """Have a new version promoted and brought to all open tasks."""
        before = self.promotions()

        def done() -> bool:
            if not self.settled():
                return False
            if self.promotions() > before:
                return True
            self.change()  # also after a version that was kept back
            return False

        wait(done)


def region(mask: Mask) -> dict[str, Any]:
    return brush(parse_config(CONFIG), mask)


def watched(stack: Stack, title: str, seed: int, count: int, **options: Any) -> Watched:
    """A project of so many tasks, the last of which is annotated through the API."""
    project = make_project(stack, title, seed, count, SIDE, **options)
    wait(lambda: any(name.startswith(f"{project.number}.") for name in SampleStore(FolderStore(stack.home)).projects()))
    made = stack.client.create_annotation(project.tasks[-1], [region(union(project.pits[-1]))])
    return Watched(stack, project, int(made["id"]), threading.Event())


def emails(name: str) -> list[str]:
    return [f"{name}{i}@example.com" for i in range(1, PEOPLE + 2)]


def test_no_annotator_is_refused_while_versions_are_promoted(stack: Stack, browser: Any, rows: Rows) -> None:
    seen = watched(stack, "People at work", SEED, EACH + SPARE, maximum_annotations=ANNOTATORS_OF_A_TASK)
    for place in (-3, -2):
        stack.client.create_annotation(seen.project.tasks[place], [region(union(seen.project.pits[place]))])
    accounts = emails("person")
    for email in accounts:
        sign_up(stack.client.url, email, PASSWORD)
    wait(lambda: seen.shown().startswith("skylight-"))
    began, before = time.monotonic(), seen.promotions()
    with ThreadPoolExecutor(PEOPLE) as pool:
        working = [pool.submit(work, seen, accounts[i], i) for i in range(PEOPLE)]
        try:
            away, held = leave_open(seen, browser, accounts[-1], working)
            until_done(seen, working)
        finally:
            seen.over.set()
    everything = [*(each.result() for each in working), away]
    seconds = time.monotonic() - began
    wait(seen.settled)
    report(rows, seen, everything, seconds)
    promoted = seen.promotions() - before
    rows.add("people: versions promoted meanwhile", promoted, "", f">= {OPEN_PROMOTIONS}", promoted >= OPEN_PROMOTIONS)
    rows.add("people: of these while a tab was open", held, "", f">= {OPEN_PROMOTIONS}", held >= OPEN_PROMOTIONS)
    assert promoted >= held >= OPEN_PROMOTIONS
    assert [len(each.submitted) for each in everything] == [*[EACH] * PEOPLE, 1]
    assert sum(len(each.corrected) for each in everything) >= PEOPLE * EACH / 4


def work(seen: Watched, email: str, number: int) -> Work:
    """One annotator's day, in a browser of his own."""
    truths = dict(zip(seen.project.tasks, seen.project.pits, strict=True))
    with chromium() as browser:
        editor = Editor(browser, seen.stack.client.url, STREAM_WIDTH)
        editor.log_in(email, PASSWORD)
        person = Person(editor, seen.project.number, truths, random.Random(number))
        return person.annotate(EACH, {PAUSE_AT[number]: partial(sit_out, editor, seen, 1)})


def sit_out(editor: Editor, seen: Watched, promotions: int) -> None:
    """Leave the tab open until so many more versions are promoted."""
    before = seen.promotions()

    def promoted() -> bool:
        assert not seen.over.is_set(), "another annotator has met an error"
        return seen.promotions() >= before + promotions

    wait_in(editor, promoted)


def leave_open(seen: Watched, browser: Any, email: str, working: list[Future[Work]]) -> tuple[Work, int]:
    """A tab with a pre-annotated task of the label stream, open over promotions, only then corrected and submitted.

    Gives what came of it, and how many promotions that were.
    """
    editor = Editor(browser, seen.stack.client.url, STREAM_WIDTH)
    editor.log_in(email, PASSWORD)
    editor.open_stream(seen.project.number)
    assert editor.prediction is not None
    before, shown = seen.promotions(), seen.shown()

    def enough() -> bool:
        check(working)
        seen.nudge()
        return seen.promotions() >= before + OPEN_PROMOTIONS and seen.shown() != shown

    wait_in(editor, enough)
    held = seen.promotions() - before
    truths = dict(zip(seen.project.tasks, seen.project.pits, strict=True))
    person = Person(editor, seen.project.number, truths, random.Random(PEOPLE))
    task = editor.task
    if person.do_task():
        editor.await_task_after(task)  # so that nobody waits for the answer to a window that is gone
    person.note()
    editor.page.context.close()
    return person.work, held


def wait_in(editor: Editor, done: Callable[[], bool], seconds: float = 900) -> None:
    """As `wait`, while the page lives on."""
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"still not so after {seconds:.0f} s"
        editor.page.wait_for_timeout(1000)


def until_done(seen: Watched, working: list[Future[Work]]) -> None:
    """Keep versions coming until everybody is done; somebody may wait for one."""
    while not all(each.done() for each in working):
        check(working)
        seen.nudge()
        time.sleep(1)


def check(working: list[Future[Work]]) -> None:
    """Raise what went wrong for an annotator."""
    for each in working:
        if each.done():
            each.result()


def report(rows: Rows, seen: Watched, everything: list[Work], seconds: float) -> None:
    """Write down what came of the work, and assert that nothing was refused, lost or alarming."""
    held = {one["id"]: one for one in seen.stack.client.annotations(seen.project.number)}
    submitted: dict[int, Regions] = {}
    for each in everything:
        submitted |= each.submitted
    refused = [said for each in everything for said in each.refused]
    alarms = [said for each in everything for said in each.alarms]
    errors = [said for each in everything for said in each.errors]
    lost = sum(each.lost for each in everything)
    lost += sum(number not in held or differing(shown, held[number]["result"]) for number, shown in submitted.items())
    unlearned = sum(not is_learned(seen, held[number]) for number in submitted if number in held)
    for what in (refused, alarms, errors):
        print("".join(f"    {said}\n" for said in what[:5]), end="")
    rows.add("people: seconds", seconds, "s")
    rows.add("people: seconds that a task is looked at", mean([s for each in everything for s in each.seconds]), "s")
    rows.add("people: annotations submitted", len(submitted), "")
    rows.add("people: pre-annotations corrected", sum(len(each.corrected) for each in everything), "")
    zero(rows, "people: submits and drafts refused", len(refused))
    zero(rows, "people: corrections lost", lost)
    zero(rows, "people: corrections not learned from", unlearned)
    zero(rows, "people: errors shown in the page", len(alarms))
    assert (refused, alarms, errors, lost, unlearned) == ([], [], [], 0, 0)


def is_learned(seen: Watched, annotation: dict[str, Any]) -> bool:
    """Whether Skylight's store holds an annotation's last state, pixel by pixel."""
    store = SampleStore(FolderStore(seen.stack.home))
    record = next((each for each in store.samples(seen.key) if each.annotation == annotation["id"]), None)
    if record is None or record.updated_at != annotation["updated_at"]:
        return False
    drawn = union([np.zeros(record.size, bool), *masks_of(annotation["result"])])
    return bool(np.array_equal(store.label_map(seen.key, record) == 1, drawn))


def mean(values: list[float]) -> float:
    return float(np.mean(values))


def zero(rows: Rows, what: str, measured: int) -> None:
    """A row about what must not happen."""
    rows.add(what, measured, "", "0", measured == 0)


@dataclass
class Tab:
    """An editor and the annotation that is open in it."""

    editor: Editor
    rng: random.Random

    def correct(self, seen: Watched) -> None:
        """Make one of the open task's regions anew, or else put one in where there is most room."""
        place = seen.project.tasks.index(self.editor.task)
        if not correct(self.editor, seen.project.pits[place], self.rng, anew=1):
            free = ~union([np.zeros((SIDE, SIDE), bool), *masks_of(self.editor.on_screen())])
            self.editor.click("Pit", *middle(free))
            self.editor.accept()

    def submit(self, seen: Watched) -> int:
        """Submit what is on the screen; gives the annotation, which holds just that."""
        shown = self.editor.on_screen()
        stored = self.editor.submit()
        assert not differing(shown, stored["result"])
        assert not differing(shown, seen.stack.client.request("GET", f"/api/annotations/{stored['id']}/")["result"])
        return int(stored["id"])


def test_open_tasks_outlast_a_promotion(stack: Stack, browser: Any, rows: Rows) -> None:
    """In the quick view, with a draft, in the label stream, of two annotators on a task, of a submitted annotation."""
    seen = watched(stack, "Open over a promotion", SEED + 1000, 9, maximum_annotations=2)
    for place in (-3, -3, -2, -2, -1):  # by two, so that the label stream does not want more of them
        stack.client.create_annotation(seen.project.tasks[place], [region(union(seen.project.pits[place]))])
    wait(lambda: seen.promotions() and seen.settled())
    accounts = emails("tab")[:2]
    for email in accounts:
        sign_up(stack.client.url, email, PASSWORD)
    with tabs(seen, browser, accounts) as (quick, other, draft, again, stream, update):
        number = seen.project.number
        stream.editor.open_stream(number)
        assert shown_version(seen, stream.editor) == seen.shown()
        tasks = [task for task in seen.project.tasks if task != stream.editor.task]
        for tab, task in (
            (quick, tasks[0]),
            (other, tasks[0]),
            (draft, tasks[1]),
            (again, tasks[2]),
            (update, tasks[3]),
        ):
            tab.editor.open(number, task)
            assert shown_version(seen, tab.editor) == seen.shown()
        update.submit(seen)
        save_draft(seen, draft)
        save_draft(seen, again)
        seen.promote()
        quick.correct(seen)
        made = [quick.submit(seen)]
        seen.promote()
        again.editor.open(number, tasks[2])  # the draft is there again
        for tab in (other, stream, update):
            tab.correct(seen)
        made += [tab.submit(seen) for tab in (other, draft, again, stream, update)]
        fresh = next(task.id for task in stack.client.tasks(number) if not task.annotations)
        quick.editor.open(number, fresh)
        assert shown_version(seen, quick.editor) == seen.shown()
        everybody = [tab.editor for tab in (quick, other, draft, again, stream, update)]
        refused = [said for editor in everybody for said in editor.refused]
        alarms = [said for editor in everybody for said in editor.alarms]
        zero(rows, "open tasks over two promotions: refused", len(refused))
        zero(rows, "open tasks over two promotions: errors shown", len(alarms))
        assert (refused, alarms, [said for editor in everybody for said in editor.errors]) == ([], [], [])
    wait(seen.settled)
    held = {one["id"]: one for one in stack.client.annotations(number)}
    assert len(set(made)) == 6 and all(is_learned(seen, held[each]) for each in made)


@contextmanager
def tabs(seen: Watched, browser: Any, accounts: list[str]) -> Iterator[tuple[Tab, ...]]:
    """Six tabs, of the two accounts by turns."""
    opened = []
    for i in range(6):
        editor = Editor(browser, seen.stack.client.url, STREAM_WIDTH)
        editor.log_in(accounts[i % 2], PASSWORD)
        opened.append(Tab(editor, random.Random(i)))
    try:
        yield tuple(opened)
    finally:
        for tab in opened:
            tab.editor.page.context.close()


def shown_version(seen: Watched, editor: Editor) -> str:
    """The version whose prediction the open annotation began as."""
    found = seen.stack.client.predictions(editor.task)
    return str(next(each["model_version"] for each in found if each["id"] == editor.prediction))


def save_draft(seen: Watched, tab: Tab) -> None:
    """Correct the open task, and wait for the draft that the editor saves by itself."""
    with tab.editor.page.expect_response(is_draft) as coming:
        tab.correct(seen)
    assert coming.value.ok

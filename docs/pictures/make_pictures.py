"""Make the pictures of the README and the docs from the demo, in Chromium. `make pictures` runs this.

It starts `skylight demo` with a home of its own (`build/pictures`), annotates in Label Studio's editor, and writes:
loop.webp (animated: click, accept, submit, and the next task already carries masks), click.webp (a mask that waits to
be accepted), editor.webp (a task that opens with masks) and page.webp (Skylight's page of the project).
"""

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import requests
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFont
from playwright.sync_api import sync_playwright
from skimage.measure import label as connected_components

from skylight.backend.demo.demo import COLORS, LABEL, SCENES, TITLE, DemoUser, step
from skylight.backend.labelstudio.client import LabelStudio
from skylight.model.evaluation.metrics import iou
from skylight.model.experiments.simulated_annotator import SMALLEST
from skylight.model.masks.geometry import interior_point
from tests.e2e.annotator import Log, annotate
from tests.e2e.browsing import FRAME, LABELS, LOADED, NEXT, SMART, SUBMIT, SUGGESTED, TASK, TOOL, Editor
from tests.e2e.conftest import CHROMIUM, FLAGS

Mask = NDArray[np.bool_]

ROOT = Path(__file__).parents[2]
OUT = Path(__file__).parent
HOME = ROOT / "build" / "pictures"
PORT = 8580  # Label Studio's; away from those of `make demo` and `make e2e`
START_SECONDS, TRAINING_SECONDS, PAGE_SECONDS = 1800.0, 1800.0, 300.0  # at most; a busy machine takes minutes
LEARNED = (3, 5, 8, 10, 12, 14, 16)  # submitted tasks after which a version is waited for
LEARNED_AT_LEAST = 10  # submitted tasks after which the animation goes on: those of the README's figures
WIDTH, HEIGHT = 1160, 920  # of the window, CSS px: narrower, Label Studio's bottom bar breaks its texts into lines
SCALE = 1.25  # px of a picture for one CSS px
CAPTION_HEIGHT = 46  # CSS px
FRAME_MS = 50
LOOP_BYTES, STILL_BYTES = 3_000_000, 300_000
GOOD_IOU = 0.7  # of the clicked masks on the screen with the truth; pictures of worse ones are not written
SHOWN_IOU = 0.85  # of the masks of the next task
AUTO_ANNOTATION = "label:has([data-testid=bottombar-auto-annotation-toggle])"
ACCEPT = "[data-testid=bottombar-accept-suggestions-button]"
COLLAPSE_PANELS = ".lsf-tabs-panel__toggle"
POINTER = ((0, 0), (0, 25), (6, 19.5), (10, 28.5), (14, 26.7), (10, 18), (18, 18))  # an arrow, CSS px


@dataclass(frozen=True)
class Demo:
    """A running demo."""

    client: LabelStudio
    user: DemoUser
    project: int
    skylight: str

    def scenes(self) -> dict[int, int]:
        """The number of the scene that each task shows."""
        return {
            task.id: int(re.findall(r"scene-(\d+)\.png", str(task.data["image"]))[0])
            for task in self.client.tasks(self.project)
        }

    def open_tasks(self) -> list[int]:
        """Tasks without annotation, by rising id."""
        return [task.id for task in self.client.tasks(self.project) if not task.annotations]

    def status(self) -> dict[str, Any]:
        """What Skylight says of the project."""
        projects = requests.get(f"{self.skylight}/status", timeout=30).json()
        return next(value for name, value in projects.items() if name.startswith(f"{self.project}."))

    def await_version(self, annotations: int) -> None:
        """Wait until a version has learned from so many annotations, and all open tasks carry its masks."""

        def current() -> bool:
            status = self.status()
            return (
                status["up_to_date"]
                and status["annotations"] == annotations
                and all(
                    task.annotations or status["model_version"] in task.model_versions
                    for task in self.client.tasks(self.project)
                )
            )

        wait(current, TRAINING_SECONDS, f"a version of {annotations} annotations")


@contextlib.contextmanager
def running_demo(label_studio: Path) -> Iterator[Demo]:
    """`skylight demo` with an empty home; all its processes end with the context."""
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    log = HOME / "demo.log"
    foreign = ("SKYLIGHT_", "LABEL_STUDIO_", "REDIS_URL")  # settings of another Skylight
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environ |= {"SKYLIGHT_HOME": str(HOME), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "skylight.backend.cli.main", "demo"]
    command += ["--label-studio", str(label_studio), "--port", str(PORT)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environ, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:

        def ready() -> bool:
            if process.poll() is not None:
                raise SystemExit(f"the demo ended with {process.returncode}:\n{log.read_text()[-2000:]}")
            return "Ctrl-C ends everything" in log.read_text()

        wait(ready, START_SECONDS, "the demo")
        text = log.read_text()
        (url, project), *_ = re.findall(r"Label Studio +(http\S+)/projects/(\d+)", text)
        skylight, *_ = re.findall(r"Skylight +(http\S+)/", text)
        user = DemoUser.load_or_create(HOME / "demo" / "login.json")
        yield Demo(LabelStudio(url, user.token), user, int(project), skylight)
    finally:
        process.send_signal(signal.SIGTERM)  # it ends its children, and kills those that do not
        process.wait()


def wait(done: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something is true. Ends the program if it takes longer."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            raise SystemExit(f"gave up waiting for {what} after {seconds:.0f} s; see {HOME / 'demo.log'}")
        time.sleep(0.2)


def pits(scene: int) -> list[Mask]:
    """The true masks of a scene's pits, (H, W) bool, large ones first, without those too small to be clicked on."""
    truth = np.asarray(Image.open(HOME / "demo" / "truth" / f"scene-{scene:02d}.png").convert("L")) > 0
    numbers = connected_components(truth)
    masks = [numbers == number for number in range(1, numbers.max() + 1)]
    return sorted((mask for mask in masks if mask.sum() >= SMALLEST), key=lambda mask: -int(mask.sum()))


class Film:
    """Frames of a browser's window with a drawn pointer and a caption, as a person would see them.

    A page is photographed only after it has changed; between, only the pointer moves.
    """

    def __init__(self, page: Any) -> None:
        self.page = page
        self.frames: list[Image.Image] = []
        self.durations: list[int] = []  # ms
        self.caption = ""
        self.rolling = True  # while it is not, no frame is taken
        self.pointer = (WIDTH * 0.62, HEIGHT * 0.6)  # CSS px
        self.window = Image.new("RGB", (round(WIDTH * SCALE), round(HEIGHT * SCALE)))
        self.font = ImageFont.load_default(round(20 * SCALE))

    def look(self) -> None:
        """Photograph the page as soon as nothing in it moves."""
        self.window = photograph(self.page)

    def hold(self, seconds: float) -> None:
        """Show what there is for some time."""
        self._add(self._draw(), round(1000 * seconds))

    def move(self, x: float, y: float) -> None:
        """Move the pointer to x, y CSS px, slower at both ends of the way."""
        (x0, y0), distance = self.pointer, float(np.hypot(x - self.pointer[0], y - self.pointer[1]))
        steps = round((250 + 0.45 * distance) / FRAME_MS)
        for i in range(1, steps + 1):
            eased = (1 - np.cos(np.pi * i / steps)) / 2
            self.pointer = (x0 + eased * (x - x0), y0 + eased * (y - y0))
            self.hold(FRAME_MS / 1000)
        self.page.mouse.move(x, y)
        self.look()

    def press(self, x: float, y: float, done: Callable[[], object] = lambda: None) -> None:
        """Move to x, y CSS px and click; `done` waits for what follows."""
        self.move(x, y)
        self.hold(0.15)
        for radius in (5, 9, 13, 17):
            self._add(self._draw(radius), FRAME_MS)
        self.page.mouse.click(x, y)
        done()
        self.look()

    def press_on(self, locator: Any, done: Callable[[], object] = lambda: None, across: float = 0.5) -> None:
        """Click an element, at this part of its width."""
        box = locator.bounding_box()
        self.press(box["x"] + box["width"] * across, box["y"] + box["height"] / 2, done)

    def save(self, path: Path) -> None:
        """Write an animated WebP that begins again at its end."""
        first, *others = self.frames
        first.save(
            path, save_all=True, append_images=others, duration=self.durations, loop=0,
            quality=90, method=4, kmin=10_000, kmax=10_001,  # hardly ever a whole picture where little has changed
        )  # fmt: skip

    def _draw(self, ripple: int = 0) -> Image.Image:
        """The window with the pointer, around it a circle of `ripple` CSS px while it clicks, and the caption."""
        frame = Image.new("RGB", (self.window.width, self.window.height + round(CAPTION_HEIGHT * SCALE)), "#1f2430")
        frame.paste(self.window)
        canvas = ImageDraw.Draw(frame)
        middle = self.window.height + CAPTION_HEIGHT * SCALE / 2
        canvas.text((16 * SCALE, middle), self.caption, "white", self.font, anchor="lm")
        side, fine = 64, 4  # of the pointer's picture, CSS px; drawn so much larger, for smooth edges
        zoom = SCALE * fine
        over = Image.new("RGBA", (round(side * zoom), round(side * zoom)))
        canvas = ImageDraw.Draw(over)
        centre = side / 2 * zoom
        if ripple:
            radius = ripple * zoom
            box = (centre - radius, centre - radius, centre + radius, centre + radius)
            canvas.ellipse(box, (255, 255, 255, 70), (37, 99, 235, 255), round(2.5 * zoom))
        shape = [(centre + x * zoom, centre + y * zoom) for x, y in POINTER]
        canvas.polygon(shape, "black")
        canvas.line([*shape, shape[0], shape[1]], "white", round(1.3 * zoom), joint="curve")
        over = over.resize((round(side * SCALE), round(side * SCALE)), Image.Resampling.LANCZOS)
        corner = (round((self.pointer[0] - side / 2) * SCALE), round((self.pointer[1] - side / 2) * SCALE))
        frame.paste(over, corner, over)
        return frame

    def _add(self, frame: Image.Image, ms: int) -> None:
        if not self.rolling:
            return
        if self.frames and same(self.frames[-1], frame):
            self.durations[-1] += ms
        else:
            self.frames.append(frame)
            self.durations.append(ms)


def same(one: Image.Image, other: Image.Image) -> bool:
    """Whether two pictures of one size are equal."""
    return ImageChops.difference(one, other).getbbox() is None


def photograph(page: Any, **options: Any) -> Image.Image:
    """The window of a page, once two pictures in a row are equal: Label Studio moves its switches and panels."""
    before = None
    for _ in range(50):
        now = Image.open(io.BytesIO(page.screenshot(**options))).convert("RGB")
        if before is not None and before.size == now.size and same(before, now):
            break
        before = now
    return now


class Annotator:
    """A person in Label Studio's label stream, filmed."""

    def __init__(self, editor: Editor, film: Film) -> None:
        self.editor, self.film, self.page = editor, film, editor.page
        self.rng = np.random.default_rng(0)

    def open_stream(self, project: int) -> None:
        """The label stream at its next task."""
        self.page.goto(f"{self.editor.url}/projects/{project}/data?labeling=1")
        self.page.wait_for_selector(".lsf-toolbar")
        self.page.wait_for_function(LOADED)
        photograph(self.page)

    def choose(self) -> None:
        """Choose the label of the smart key points and their tool, where the editor has forgotten them."""
        at = self.page.evaluate(LABELS).index("keypointlabels")
        chosen = self.page.locator(".lsf-labels").nth(at).locator(".lsf-label", has_text=LABEL).first
        if "lsf-label_selected" not in (chosen.get_attribute("class") or ""):
            self.film.press_on(chosen)
        if self.page.evaluate(TOOL) != ["KeyPointTool", True]:
            self.film.press_on(self.page.locator(SMART).first)
        if self.page.evaluate(TOOL) != ["KeyPointTool", True]:
            raise SystemExit(f"the smart key point cannot be chosen; the tool is {self.page.evaluate(TOOL)}")

    def click(self, pit: Mask, before: Mask) -> None:
        """Click the middle of a pit and wait until its mask is drawn, beside those that were drawn `before`."""
        x, y = interior_point(pit, self.rng, central=True)
        left, top, wide, high, columns, rows = self.page.evaluate(FRAME)

        def drawn() -> None:
            self.page.wait_for_function(f"() => ({SUGGESTED})() > 0")
            wait(lambda: self.agreement(pit | before) >= GOOD_IOU, PAGE_SECONDS, f"a good mask at {x:.0f}, {y:.0f}")

        self.film.press(left + (x + 0.5) * wide / columns, top + (y + 0.5) * high / rows, drawn)

    def accept(self) -> None:
        """The suggestion becomes a region."""
        self.film.press_on(
            self.page.locator(ACCEPT),
            lambda: self.page.wait_for_function("() => !Htx.annotationStore.selected.suggestions.size"),
        )

    def submit(self) -> None:
        """Submit, and wait for the next task."""
        before = self.page.evaluate(TASK)
        self.film.press_on(self.page.locator(SUBMIT).first, lambda: self.page.wait_for_function(NEXT, arg=before))

    def agreement(self, truth: Mask) -> float:
        """The IoU of what is drawn over the image with the truth."""
        return iou(self.editor.painted(COLORS[0]), truth)


def film_first_task(annotator: Annotator, objects: list[Mask]) -> None:
    """Switch on Auto-Annotation, click on all pits of the open task, accept their masks, and submit."""
    film = annotator.film
    film.look()
    film.caption = f"{SCENES} images, none annotated yet: where are the pits?"
    film.hold(1.2)
    film.caption = "Switch on Auto-Annotation"
    film.press_on(film.page.locator(AUTO_ANNOTATION).first, across=0.13)  # its switch, left of its text
    done = np.zeros_like(objects[0])
    for i, pit in enumerate(objects):
        if i == 0:
            film.caption = "Choose the label and the Auto-Detect tool"
        elif i == 1:
            film.caption = "The next one"
        else:
            film.caption = "... and the others"
            film.rolling = False
        annotator.choose()
        if i == 0:
            film.caption = "Click a pit: Segment Anything answers with its mask"
        annotator.click(pit, done)
        done = done | pit
        film.hold(1.0 if i == 0 else 0.3)
        if i == 0:
            still(film.window, "click")
            film.caption = "Accept the mask"
        annotator.accept()
        film.rolling = True
        film.hold(0.3)
    film.caption = "Submit: Skylight learns from it"
    annotator.submit()
    film.hold(0.8)


def film_next_tasks(annotator: Annotator, submitted: int) -> None:
    """Submit the pre-annotated task that is open, and look at the one after it."""
    film = annotator.film
    film.caption = f"{submitted} tasks later the next one already carries masks, of a decoder trained on yours"
    film.look()
    still(film.window, "editor")
    film.hold(2.8)
    film.caption = "Check, submit: the task that it is least certain of comes next"
    annotator.submit()
    film.hold(2.8)


def film_loop(demo: Demo, editor: Editor) -> None:
    """Write loop.webp, and on the way click.webp and editor.webp."""
    film = Film(editor.page)
    annotator = Annotator(editor, film)
    annotator.open_stream(demo.project)
    editor.page.locator(COLLAPSE_PANELS).first.click()
    film_first_task(annotator, pits(demo.scenes()[editor.task]))
    following = editor.task
    truth = np.any(pits(demo.scenes()[following]), axis=0)
    for count in LEARNED:
        teach(demo, count, spare=following)
        if count >= LEARNED_AT_LEAST:
            annotator.open_stream(demo.project)
            if editor.task != following:
                raise SystemExit(f"Label Studio opens task {editor.task}, not {following}, which was left open")
            drawn = annotator.agreement(truth)
            step(f"masks of the next task, with the truth: IoU {drawn:.2f}")
            if drawn >= SHOWN_IOU:
                break
    else:
        raise SystemExit(f"the masks of the next task stayed below an IoU of {SHOWN_IOU}")
    film_next_tasks(annotator, count)
    film.save(OUT / "loop.webp")


def teach(demo: Demo, count: int, spare: int = 0) -> None:
    """Annotate tasks but `spare` by clicks until `count` are submitted, and wait until all is learned from."""
    (backend, *_), rng = demo.client.ml_backends(demo.project), np.random.default_rng(1)
    scenes, unlabeled = demo.scenes(), demo.open_tasks()
    missing = count - (len(scenes) - len(unlabeled))
    for task in [task for task in unlabeled if task != spare][:missing]:
        annotate(demo.client, backend["id"], task, pits(scenes[task]), LABEL, Log(), rng)
    step(f"{count} tasks are submitted")
    demo.await_version(count)


def picture_page(demo: Demo, browser: Any) -> None:
    """Write page.webp: Skylight's page of the project."""
    page = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE).new_page()
    page.set_default_timeout(1000 * PAGE_SECONDS)
    name, *_ = requests.get(f"{demo.skylight}/status", timeout=30).json()
    page.goto(f"{demo.skylight}/projects/{name}")
    page.get_by_role("heading", name=TITLE).wait_for()
    page.wait_for_function("() => !document.querySelector('main').innerText.includes('counting')")
    below = page.get_by_role("heading", name="At work").bounding_box()["y"]
    charts = {"x": 0, "y": 0, "width": WIDTH, "height": below - 28}  # and what stands over them
    still(photograph(page, clip=charts), "page")


def still(picture: Image.Image, name: str) -> None:
    """Write a picture as WebP."""
    picture.save(OUT / f"{name}.webp", quality=80, method=6)


@click.command()
@click.option("--label-studio", type=click.Path(path_type=Path), required=True, help="Its program file.")
def main(label_studio: Path) -> None:
    """Make the pictures of the README and the docs."""
    if not CHROMIUM:
        raise SystemExit("there is no chromium")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # not before the demo has been ended
    began = time.monotonic()
    step("Starting the demo")
    with running_demo(label_studio) as demo, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        editor = Editor(browser, demo.client.url, WIDTH, HEIGHT, SCALE)
        editor.page.set_default_timeout(1000 * PAGE_SECONDS)
        editor.log_in(demo.user.email, demo.user.password)
        step("Filming")
        film_loop(demo, editor)
        teach(demo, len(demo.scenes()) - len(demo.open_tasks()) + 2)
        picture_page(demo, browser)
        browser.close()
    for path in sorted(OUT.glob("*.webp")):
        size, most = path.stat().st_size, LOOP_BYTES if path.stem == "loop" else STILL_BYTES
        click.echo(f"{path.relative_to(ROOT)}  {size / 1000:.0f} kB")
        if size > most:
            raise SystemExit(f"{path} has {size} bytes, more than {most}")
    click.echo(f"made in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()

"""Label Studio's editor driven in a real Chromium, as an annotator does: pick, click, accept, submit."""

import base64
import json
import re
import threading
from typing import Any

import numpy as np
import requests

from tests.e2e.annotator import Mask

LOADED = """() => window.Htx?.annotationStore?.selected && [...Htx.annotationStore.selected.names.values()]
  .find(each => each.type === 'image').currentImageEntity.imageLoaded"""
# The next task of the label stream has come, with its image.
NEXT = """before => { const task = window.Htx?.task, names = window.Htx?.annotationStore?.selected?.names;
  return !!task && !!names && task.id !== before && !!task.id
    && !![...names.values()].find(each => each.type === 'image')?.currentImageEntity?.imageLoaded }"""
TASK = "() => window.Htx?.task?.id"
ON_SCREEN = "() => JSON.stringify(Htx.annotationStore.selected.serializeAnnotation())"
PREDICTION = "() => Htx.annotationStore.selected.parent_prediction"
# Whatever Label Studio shows in red: a toast, or the box of an error.
ALARMS = """() => { const seen = new WeakMap();
  const red = '[class*=toast_error], [class*=toast_alertError], .ls-error-message';
  const look = () => { for (const each of document.querySelectorAll(red))
    if (each.innerText && seen.get(each) !== each.innerText) {
      seen.set(each, each.innerText); window.noteAlarm(each.innerText) } };
  new MutationObserver(look).observe(document, {subtree: true, childList: true, attributeFilter: ['class']}) }"""
TOOL = """() => { const image = [...Htx.annotationStore.selected.names.values()].find(each => each.type === 'image');
  const tool = image.getToolsManager().findSelectedTool(); return tool ? [tool.toolName, !!tool.dynamic] : null }"""
LABELS = """() => [...Htx.annotationStore.selected.names.values()].filter(each => each.type.endsWith('labels'))
  .map(each => each.type)"""
REGIONS = "() => Htx.annotationStore.selected.serializeAnnotation().map(each => each.type)"
SELECTED = "() => Htx.annotationStore.selected.regionStore.selection.size"
SUGGESTED = "() => Htx.annotationStore.selected.suggestions.size"
FRAME = """() => { const image = document.querySelector('img[alt=image]'), at = image.getBoundingClientRect();
  return [at.x, at.y, at.width, at.height, image.naturalWidth, image.naturalHeight] }"""
# One byte for each pixel of the picture: whether a canvas shows a label's colour over its middle.
PAINTED = """colour => { const image = document.querySelector('img[alt=image]'), at = image.getBoundingClientRect();
  const wide = image.naturalWidth, high = image.naturalHeight, found = new Uint8Array(wide * high);
  for (const canvas of document.querySelectorAll('.konvajs-content canvas')) {
    const box = canvas.getBoundingClientRect(), data = canvas.getContext('2d').getImageData(
      0, 0, canvas.width, canvas.height).data;
    for (let y = 0; y < high; y++) for (let x = 0; x < wide; x++) {
      const column = Math.floor((at.x + (x + .5) * at.width / wide - box.x) * canvas.width / box.width);
      const row = Math.floor((at.y + (y + .5) * at.height / high - box.y) * canvas.height / box.height);
      if (column < 0 || row < 0 || column >= canvas.width || row >= canvas.height) continue;
      const i = 4 * (row * canvas.width + column), far = colour.map((c, k) => Math.abs(data[i + k] - c));
      if (Math.max(...far) < 30 && data[i + 3] > 127) found[y * wide + x] = 1 } }
  let text = '';
  for (let i = 0; i < found.length; i += 4096) text += String.fromCharCode(...found.subarray(i, i + 4096));
  return btoa(text) }"""
SMART = ".lsf-toolbar__group > button.lsf-tool_smart"
SUBMIT = "[data-testid=bottombar-submit-button], [data-testid=bottombar-update-button]"
STREAM_WIDTH = 1300
# Label Studio gives one task to two people who ask for their next at the same moment, and refuses the second's submit
# (409): so that what is refused is never that, the windows of this process ask one after the other. Each waits for so
# long at most, s: a window that is closed while it asks never says that it is done.
NEXT_TASK = re.compile("[?&]id=next_task")
ASKING, ASKING_SECONDS = threading.Lock(), 10.0
SETTLE_MS = 400  # the editor draws an answer in the frames after it came


class Editor:
    """One annotator's browser window."""

    def __init__(self, browser: Any, url: str, width: int = 1500, height: int = 1300, scale: float = 1) -> None:
        """`width`, `height`: of the window, px; in the label stream a square image fills it, and the labels below are
        to be seen with it up to `STREAM_WIDTH`. `scale`: px of a screenshot for one px of the window.
        """
        self.url = url
        size = {"width": width, "height": height}
        self.page = browser.new_context(viewport=size, device_scale_factor=scale).new_page()
        self.page.set_default_timeout(60_000)
        self.errors: list[str] = []  # what went wrong in the page, but for answers that the server refused
        self.refused: list[str] = []  # annotations and drafts that Label Studio did not take
        self.alarms: list[str] = []  # what the page said of errors
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("response", self._note_answer)
        self.page.route(NEXT_TASK, _ask_alone)
        self.page.expose_function("noteAlarm", lambda text: self.alarms.append(text))
        self.page.add_init_script(f"({ALARMS})()")

    def log_in(self, email: str, password: str) -> None:
        """As a user whom Label Studio knows."""
        self.page.goto(f"{self.url}/user/login/")
        self.page.fill("input[name=email]", email)
        self.page.fill("input[name=password]", password)
        self.page.click("button[type=submit]")
        self.page.wait_for_url(lambda address: "/login" not in address)

    def open(self, project: int, task: int) -> None:
        """A task in the quick view, with Auto-Annotation switched on."""
        self._go(f"{self.url}/projects/{project}/data?task={task}")

    def open_stream(self, project: int) -> None:
        """The label stream at its next task, with Auto-Annotation switched on."""
        self._go(f"{self.url}/projects/{project}/data?labeling=1")

    def _go(self, address: str) -> None:
        self.page.goto(address)
        self.page.wait_for_selector(".lsf-toolbar")
        self.page.wait_for_function(LOADED)
        self._settle()

    def await_task_after(self, before: int) -> None:
        """Wait for the label stream's task after this one."""
        self.page.wait_for_function(NEXT, arg=before)
        self._settle()

    def _settle(self) -> None:
        self.page.wait_for_timeout(1200)  # it lays itself out after the image has come
        toggle = "[data-testid=bottombar-auto-annotation-toggle]"
        if not self.page.locator(toggle).is_checked():
            self.page.locator(f"label:has({toggle})").first.click()
        self.page.wait_for_timeout(SETTLE_MS)

    def click(self, label: str, x: float, y: float, positive: bool = True) -> int:
        """A smart key point at x, y px of the image; gives how many regions came back."""
        with self.page.expect_response(is_click) as coming:
            self.press(label, x, y, positive)
        answer = coming.value.json()
        assert not answer.get("errors"), answer
        self.page.wait_for_timeout(SETTLE_MS)
        return len(answer["data"]["result"])

    def take_in(self, label: str, x: float, y: float, seconds: float = 30) -> bool:
        """Click at x, y px of the image and accept the answer; gives False if none came, as after a click that hit
        something which lies over the image.
        """
        self.press(label, x, y)
        for _ in range(round(2 * seconds)):
            if self.page.evaluate(SUGGESTED):
                self.page.wait_for_timeout(SETTLE_MS)
                self.accept()
                return True
            self.page.wait_for_timeout(500)
        self.page.keyboard.press("Escape")
        return False

    def press(self, label: str, x: float, y: float, positive: bool = True) -> None:
        """The same, without waiting for the answer."""
        self._pick(label)
        self._withdraw()
        if not positive:
            self.page.keyboard.down("Alt")
        self._mouse(x, y)
        if not positive:
            self.page.keyboard.up("Alt")

    def remove(self, x: float, y: float) -> None:
        """Select the region at x, y px, and delete it."""
        before = len(self.regions())
        for _ in range(60):  # a mask can be hit once its picture is drawn, some time after the image
            self.page.keyboard.press("Escape")
            if self.page.evaluate(TOOL) != ["MoveTool", False]:  # the button puts it away, too
                self.page.locator("[aria-label=move-tool]").first.click()
            self._mouse(x, y)
            self.page.wait_for_timeout(SETTLE_MS)
            if self.page.evaluate(SELECTED) == 1:
                break
        else:
            raise AssertionError(f"no region can be selected at {x}, {y}; these are there: {self.regions()}")
        self.page.keyboard.press("Backspace")
        self.page.wait_for_timeout(SETTLE_MS)
        assert len(self.regions()) == before - 1

    def _withdraw(self) -> None:
        """Take the mouse away from the toolbar: the tools that fold out there lie over the image."""
        left, top, _, high, *_ = self.page.evaluate(FRAME)
        self.page.mouse.move(left - 3, top + high / 2)
        self.page.wait_for_timeout(SETTLE_MS)

    def _mouse(self, x: float, y: float) -> None:
        """Click at the middle of a pixel of the image."""
        left, top, wide, high, columns, rows = self.page.evaluate(FRAME)
        self.page.mouse.click(left + (x + 0.5) * wide / columns, top + (y + 0.5) * high / rows)

    def _pick(self, label: str) -> None:
        """The label of the smart key points, and their tool; the editor forgets both after each click."""
        at = self.page.evaluate(LABELS).index("keypointlabels")
        chosen = self.page.locator(".lsf-labels").nth(at).locator(".lsf-label", has_text=label).first
        for _ in range(6):
            if "lsf-label_selected" not in (chosen.get_attribute("class") or ""):
                chosen.click()
                self.page.wait_for_timeout(150)
            if self.page.evaluate(TOOL) == ["KeyPointTool", True]:
                return
            self.page.locator(SMART).first.click()
            self.page.wait_for_timeout(200)
        raise AssertionError(f"the smart key point cannot be chosen; the tool is {self.page.evaluate(TOOL)}")

    def painted(self, colour: str) -> Mask:
        """Where masks of a label with this colour, "#rrggbb", are drawn over the image, (H, W) bool."""
        *_, wide, _ = self.page.evaluate(FRAME)
        drawn = self.page.evaluate(PAINTED, list(bytes.fromhex(colour[1:])))
        return np.frombuffer(base64.b64decode(drawn), np.uint8).reshape(-1, wide) > 0

    def regions(self) -> list[str]:
        """The types of the regions that would be submitted."""
        found: list[str] = self.page.evaluate(REGIONS)
        return found

    def accept(self) -> None:
        """The suggestion becomes a region, the key points go."""
        assert self.page.evaluate(SUGGESTED) > 0
        self.page.locator("[data-testid=bottombar-accept-suggestions-button]").click()
        self.page.wait_for_function("() => !Htx.annotationStore.selected.suggestions.size")
        self.page.wait_for_timeout(SETTLE_MS)

    def on_screen(self) -> list[dict[str, Any]]:
        """The regions that would be submitted, whole."""
        found: list[dict[str, Any]] = json.loads(self.page.evaluate(ON_SCREEN))
        return found

    @property
    def task(self) -> int:
        """The task that is open."""
        return int(self.page.evaluate(TASK))

    @property
    def prediction(self) -> int | None:
        """The prediction that the open annotation began as."""
        number = self.page.evaluate(PREDICTION)
        return None if number is None else int(number)

    def submit(self) -> dict[str, Any]:
        """Press Submit or Update; gives the annotation that Label Studio has stored."""
        answer = self.press_submit()
        stored: dict[str, Any] = answer.json()
        assert answer.ok, stored
        self.page.wait_for_timeout(1000)
        return stored

    def press_submit(self) -> Any:
        """The same, without a look at Label Studio's answer, which it gives."""
        with self.page.expect_response(_is_annotation) as coming:
            self.page.locator(SUBMIT).first.click()
        return coming.value

    def _note_answer(self, answer: Any) -> None:
        if answer.status >= 400 and (_is_annotation(answer) or is_draft(answer)):
            self.refused.append(f"{answer.status} to {answer.request.method} {answer.url}")


def is_click(answer: Any) -> bool:
    """Whether a response, or a request, of the page is of a smart prompt."""
    return "/interactive-annotating" in answer.url


def _is_annotation(answer: Any) -> bool:
    return "/annotations" in answer.url and answer.request.method in ("POST", "PATCH") and "draft" not in answer.url


def _ask_alone(route: Any) -> None:
    alone = ASKING.acquire(timeout=ASKING_SECONDS)
    try:
        route.fulfill(response=route.fetch(timeout=60_000))
    finally:
        if alone:
            ASKING.release()


def is_draft(answer: Any) -> bool:
    return "/drafts" in answer.url and answer.request.method in ("POST", "PATCH")


def sign_up(url: str, email: str, password: str) -> None:
    """A further annotator makes an account, as the sign-up page does."""
    with requests.Session() as session:
        session.get(f"{url}/user/signup/", timeout=30)
        form = {"email": email, "password": password, "csrfmiddlewaretoken": session.cookies["csrftoken"]}
        session.post(f"{url}/user/signup/", data=form, headers={"Referer": url}, timeout=30).raise_for_status()

"""Eight annotators, who click, look, click again and submit, and three at a human pace, as the editor lets them work:
they take the next task with its prediction, look at it, correct it, and submit it with the prediction's id.

They run in a process of their own.
"""

import random
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import requests

from tests.support.annotator_pace import look_seconds
from tests.support.label_studio_double import CONFIG, KEY
from tests.support.planted_embeddings import key_point

ANNOTATORS = 8
PEOPLE = 3  # at a human pace
CORRECTED = 0.5  # share of their tasks in which they click on an object before they submit
PAUSE_EVERY = 5  # tasks, at each of which they leave the tab open until another version is shown
PAUSE = (0.5, 2.0)  # s between an annotator's clicks
CLICKS = (1, 4)  # on an object before it is submitted
STRAY = 4.0  # px by which a click misses the middle


class Place(NamedTuple):
    """An object to click on: its task, the path of the picture, its middle, the picture's side in px."""

    task: int
    path: str
    x: float
    y: float
    side: int


@dataclass
class Said:
    """What an annotator tells: how long his clicks took, what went wrong, and what he submits."""

    task: int
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    result: list[dict[str, Any]] = field(default_factory=list)
    annotation: int = 0  # which Label Studio has taken already
    refused: bool = False  # by Label Studio, at the submit
    done: bool = False


class Site(NamedTuple):
    """Where they work: Label Studio's and Skylight's addresses, and the project's key."""

    studio: str
    url: str
    project: str


def work(
    site: Site, places: Sequence[Place], open_places: Sequence[Place], seconds: float, submit: bool, news: Any
) -> None:
    """All annotators at once, each on tasks of his own, for so many seconds; `news` is a queue of what they say.

    Those at a human pace, who have the label stream's tasks, are there only if work is submitted.
    """
    until = time.monotonic() + seconds
    options = [(site.url, site.project, places[i::ANNOTATORS], until, submit, news, i) for i in range(ANNOTATORS)]
    threads = [threading.Thread(target=annotate, args=each) for each in options]
    for number in range(PEOPLE if submit else 0):
        person = Person(
            site, {each.task: each for each in (*places, *open_places)}, until, news, random.Random(100 + number)
        )
        threads.append(threading.Thread(target=person.run))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def annotate(url: str, project: str, places: Sequence[Place], until: float, submit: bool, news: Any, seed: int) -> None:
    """One annotator."""
    rng, round = random.Random(seed), 0
    with requests.Session() as session:
        while time.monotonic() < until:
            place = places[round % len(places)]
            said, points = Said(place.task), []
            for _ in range(rng.randint(*CLICKS)):
                time.sleep(rng.uniform(*PAUSE))
                x, y = (at + rng.uniform(-STRAY, STRAY) for at in (place.x, place.y))
                points.append(key_point("point", "Pit", x, y, (place.side, place.side)) | {"id": uuid.uuid4().hex[:10]})
                began = time.perf_counter()
                try:
                    result = click(session, url, project, place, points)
                except (requests.RequestException, ValueError, LookupError) as error:
                    said.errors.append(f"task {place.task}: {type(error).__name__}: {error}")
                    continue
                finally:
                    said.seconds.append(time.perf_counter() - began)
                if submit:
                    said.result = result
            news.put(said)
            round += 1
    news.put(Said(0, done=True))


def click(
    session: requests.Session, url: str, project: str, place: Place, points: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The regions that answer these points. Raises ValueError if there are none."""
    body = {
        "tasks": [{"id": place.task, "data": {"image": place.path}}],
        "project": project,
        "label_config": CONFIG,
        "params": {"context": {"result": points}, "login": None, "password": None},
    }
    answer = session.post(f"{url}/predict", data=orjson.dumps(body), timeout=60)
    answer.raise_for_status()
    (found,) = orjson.loads(answer.content)["results"]
    if not found["result"]:
        raise ValueError("a click on a pit was answered without a mask")
    regions: list[dict[str, Any]] = found["result"]
    return regions


@dataclass
class Person:
    """An annotator at a human pace, at Label Studio's label stream."""

    site: Site
    places: Mapping[int, Place]
    until: float  # by the monotonic clock
    news: Any
    rng: random.Random
    session: requests.Session = field(default_factory=requests.Session)

    def run(self) -> None:
        """Work until the end of the shift."""
        done = 0
        with self.session:
            while time.monotonic() < self.until:
                done += 1
                said = Said(0)
                try:
                    said = self.do_task(pause=done % PAUSE_EVERY == 0)
                except (requests.RequestException, ValueError, LookupError) as error:
                    said.errors.append(f"at a human pace: {type(error).__name__}: {error}")
                    time.sleep(1)
                self.news.put(said)
        self.news.put(Said(0, done=True))

    def do_task(self, pause: bool) -> Said:
        """The next task: look at it, correct it, perhaps leave it open over a promotion, submit it."""
        task = self.ask(f"/api/projects/{self.number}/next")
        said, seconds = Said(task["id"]), look_seconds(self.rng)
        prediction = task["predictions"][0] if task["predictions"] else {"id": None, "result": []}
        result = list(prediction["result"])
        time.sleep(seconds / 2)
        if (place := self.places.get(task["id"])) and (not result or self.rng.random() < CORRECTED):
            point = key_point("point", "Pit", place.x, place.y, (place.side, place.side))
            began = time.perf_counter()
            result += click(self.session, self.site.url, self.site.project, place, [point])
            said.seconds.append(time.perf_counter() - began)
        if pause:
            self.await_version()
        time.sleep(seconds / 2)
        body = {"result": result, "was_cancelled": False, "ground_truth": False, "parent_prediction": prediction["id"]}
        answer = self.send("POST", f"/api/tasks/{task['id']}/annotations/", json=body)
        if answer.ok:
            said.annotation = answer.json()["id"]
        else:
            said.refused = True
            said.errors.append(f"at a human pace: {answer.status_code} to a submit: {answer.text[:200]}")
        return said

    def await_version(self) -> None:
        """Wait until Label Studio shows another version than now, or the shift ends."""
        before = self.shown()
        while self.shown() == before and time.monotonic() < self.until:
            time.sleep(1)

    def shown(self) -> str:
        """The version whose predictions Label Studio shows."""
        return str(self.ask(f"/api/projects/{self.number}/")["model_version"])

    @property
    def number(self) -> int:
        """The project's id in Label Studio."""
        return int(self.site.project.partition(".")[0])

    def ask(self, path: str) -> Any:
        """What Label Studio answers to a GET. Raises requests.HTTPError if it refuses."""
        answer = self.send("GET", path)
        answer.raise_for_status()
        return answer.json()

    def send(self, method: str, path: str, **options: Any) -> requests.Response:
        """A request to Label Studio."""
        headers = {"Authorization": f"Token {KEY}"}
        return self.session.request(method, f"{self.site.studio}{path}", headers=headers, timeout=30, **options)

"""Eight annotators, who click, look, click again and submit; run in a process of their own."""

import random
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import requests

from ..planted import key_point
from ..studio import CONFIG

ANNOTATORS = 8
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
    done: bool = False


def work(url: str, project: str, places: Sequence[Place], seconds: float, submit: bool, news: Any) -> None:
    """All annotators at once, each on tasks of his own, for so many seconds; `news` is a queue of what they say."""
    until = time.monotonic() + seconds
    options = [(url, project, places[i::ANNOTATORS], until, submit, news, i) for i in range(ANNOTATORS)]
    threads = [threading.Thread(target=annotate, args=each) for each in options]
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

"""Every request that a real Label Studio was recorded to send, answered, and the answer's meaning looked at."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skylight.backend.labelstudio.events import project_key
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.labelstudio.label_map import label_map
from skylight.backend.labelstudio.prompts import ClickRequest, read_prompt
from skylight.backend.labelstudio.region_reader import read_mask
from skylight.backend.labelstudio.region_validator import check_regions
from skylight.model.evaluation.metrics import iou
from tests.backend.web.test_predict import serve_decoder
from tests.support.label_studio_double import CAPTURES, Studio, capture
from tests.support.planted_embeddings import png

FILES = {path.name[:2]: path for path in sorted(CAPTURES.glob("*.json"))}
SIZE = (534, 800)
CLICKS = ("05", "11", "12", "14", "15")
BATCHES = ("06", "07", "08", "09", "10", "13", "19")
EVENTS = {  # what each webhook says: kind of event, ids, number of masks
    "20": ("train", None, 0),
    "21": ("annotation", 1, 1),
    "22": ("annotation", 14, 2),
    "23": ("annotation", 18, 1),
    "25": ("annotation", 19, 7),
    "26": ("annotation", 3, 0),
    "27": ("annotation", 25, 0),
    "28": ("annotation", 1, 1),
    "29": ("annotation", 1, 1),
    "30": ("annotations_deleted", [1], 0),
    "31": ("annotations_deleted", [3], 0),
    "33": ("config", None, 0),
    "34": ("config", None, 0),
    "35": ("tasks_created", None, 0),
    "36": ("tasks_created", None, 0),
    "37": ("tasks_deleted", [6], 0),
    "39": ("annotation", 27, 0),
}
OTHERS = ("01", "02", "03", "04")


def test_all_recordings_are_here() -> None:
    assert set(FILES) == {*CLICKS, *BATCHES, *EVENTS, *OTHERS}


def recorded(number: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILES[number].read_text())
    return found


def send(client: Any, number: str, body: Any = None) -> Any:
    """The same request to the same path, with another body if one is given."""
    request = recorded(number)
    body = request.get("body") if body is None else body
    if request["method"] == "GET":
        return client.get(request["path"])
    return client.post(request["path"], json=body, headers={"User-Agent": request["headers"]["User-Agent"]})


def scene(asked: ClickRequest) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A dark picture with one bright ellipse: in the box, or through the positive clicks; and the ellipse."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
    prompt = asked.prompt
    if prompt.box is not None:
        centre, half = (prompt.box[:2] + prompt.box[2:]) / 2, (prompt.box[2:] - prompt.box[:2]) / 2 - 4
    else:
        points = prompt.points[prompt.positive]
        centre, half = points.mean(axis=0), np.abs(points - points.mean(axis=0)).max(axis=0) * 1.5 + 40
    mask = ((x - centre[0]) / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2 < 1
    noise = np.random.default_rng(0).normal(0, 4, SIZE)
    gray = np.clip(np.where(mask, 190, 70) + noise, 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2), mask


@pytest.mark.parametrize("number", CLICKS)
def test_a_recorded_prompt_gets_the_object_that_it_means(client, studio: Studio, number):
    body = capture(number)
    labeling = parse_config(body["label_config"])
    asked = read_prompt(body["params"]["context"], labeling)
    picture, truth = scene(asked)
    studio.pictures[body["tasks"][0]["data"]["image"]] = png(picture)
    answer = send(client, number)
    assert answer.status_code == 200
    (result,) = answer.get_json()["results"]
    check_regions(result["result"], labeling, SIZE)
    (region,) = result["result"]
    assert (region["from_name"], region["value"]["brushlabels"]) == ("brush", ["Dog"])
    mask = read_mask(region, SIZE)
    columns, rows = asked.prompt.points.astype(int).T
    assert (mask[rows, columns] == asked.prompt.positive).all()
    assert iou(mask, truth) > 0.8
    assert result["score"] > 0.5


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("number", BATCHES)
def test_recorded_tasks_get_one_prediction_each_of_the_version_that_setup_names(
    client, planted, studio: Studio, number, trained
):
    body = capture(number)
    labeling = parse_config(body["label_config"])
    picture = png(np.full((*SIZE, 3), 90, np.uint8))
    for task in body["tasks"]:
        path = task["data"]["image"]
        if not path.startswith("/data/upload/"):  # of a local storage, or absolute: the stand-in serves uploads only
            path = f"/data/upload/{task['id']}.png"
            task["data"]["image"] = studio.url + path
        studio.pictures[path] = picture
    if trained:
        serve_decoder(planted, body["project"], labeling.labels)
    results = send(client, number, body).get_json()["results"]
    setup = client.post("/setup", json={"project": body["project"], "schema": body["label_config"]}).get_json()
    assert len(results) == len(body["tasks"])
    for result in results:
        assert result["model_version"] == setup["model_version"] == ("skylight-1" if trained else "sam-tiny")
        check_regions(result["result"], labeling, SIZE)
        assert len(result["result"]) == trained
        if trained:
            assert read_mask(result["result"][0], SIZE).all()


@pytest.mark.parametrize("number", EVENTS)
def test_a_recorded_webhook_is_kept_as_what_it_says(client, service, number):
    kind, ids, masks = EVENTS[number]
    body = capture(number)
    answer = send(client, number)
    assert answer.status_code == 202
    (event,) = service.queue.take_events(project_key(body["project"]))
    assert event["what"] == kind
    assert event.get("ids", event.get("id")) == ids
    assert event["label_config"] == body["project"]["label_config"]
    assert body["project"].get("token", "?") not in json.dumps(event)
    if kind == "annotation":
        assert event["skipped"] == (number in ("26", "27"))
        size = next(((r["original_height"], r["original_width"]) for r in event["result"]), SIZE)
        found = label_map(event["result"], parse_config(event["label_config"]), size)
        assert (found.regions if not event["skipped"] else 0) == masks
        assert found.array.any() == bool(found.regions)
    assert event.get("reconcile", False) == (number == "36")


@pytest.mark.parametrize("number", ["02", "03"])
def test_a_recorded_setup_is_answered_with_the_version_and_the_configuration_kept(client, service, number):
    answer = send(client, number)
    assert answer.get_json() == {"model_version": "sam-tiny"}
    body = capture(number)
    (event,) = service.queue.take_events(body["project"])
    assert (event["what"], event["label_config"]) == ("config", body["schema"])
    assert "PLACEHOLDER" not in json.dumps(event)


def test_the_recorded_questions_about_health_and_versions_are_answered(client):
    assert send(client, "01").get_json()["status"] == "UP"
    assert send(client, "04").get_json() == {"versions": ["sam-tiny"]}


@pytest.mark.parametrize("number", CLICKS)
@pytest.mark.parametrize("config", ["<View/>", '<View><Image name="image" value="$image"/></View>', "<"])
def test_a_recorded_prompt_on_a_project_that_cannot_be_served_is_answered_with_nothing(client, number, config, caplog):
    answer = send(client, number, capture(number) | {"label_config": config})
    assert answer.status_code == 200
    assert [result["result"] for result in answer.get_json()["results"]] == [[]]
    assert "labeling configuration" in caplog.text
    client.post("/setup", json={"project": "9.9", "schema": config})
    assert "project 9.9 cannot be served" in caplog.text


def test_a_configuration_of_anything_else_is_refused_in_a_sentence(client, caplog):
    odd = Path(__file__).read_text()
    assert client.post("/setup", json={"project": "9.9", "schema": odd}).status_code == 200
    assert "not valid XML" in caplog.text

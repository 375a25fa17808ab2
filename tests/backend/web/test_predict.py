"""/predict, with what Label Studio was recorded to send; its pictures are procedural scenes of the recorded size."""

import copy
import io
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import requests
from flask.testing import FlaskClient
from numpy.typing import NDArray
from PIL import Image
from werkzeug.serving import make_server

from skylight.backend.click_sessions import TTL_SECONDS, ClickSessions
from skylight.backend.demo.demo import label_config
from skylight.backend.inference import click as click_module
from skylight.backend.inference import preannotation
from skylight.backend.labelstudio import image_urls
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.labelstudio.prompts import read_prompt
from skylight.backend.labelstudio.region_reader import read_mask
from skylight.backend.limits import MAX_ANSWERED
from skylight.backend.service import Service
from skylight.backend.settings import OUTPUTS
from skylight.backend.web import predict as module
from skylight.backend.web.app import create_app
from skylight.model.datasets import synthetic_scenes
from skylight.model.decoder import network
from skylight.model.decoder.inference import Prediction
from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from skylight.model.embeddings.file_format import pack
from skylight.model.evaluation.metrics import iou
from skylight.model.masks.bitmask import decode_png
from skylight.model.masks.brush_rle import decode_rle
from skylight.model.masks.polygonize import bounding_box
from tests.support.label_studio_double import CONFIG, Studio, capture, wait_until
from tests.support.planted_embeddings import Planted, brush, key_point, png
from tests.support.random_weights import forget_layout

P = "1.1795340435"
SIZE = (534, 800)
CLICK = (320, 267)  # xy of the first click of every recording, roughly; a pit is put there


@pytest.fixture(scope="module")
def scene() -> NDArray[np.uint8]:
    made = synthetic_scenes.scene(3, 800)
    rows, columns = np.nonzero(max((o.mask for o in made.objects if o.kind == "pit"), key=np.count_nonzero))
    shift = CLICK[1] - int(rows.mean()), CLICK[0] - int(columns.mean())
    return np.roll(made.image, shift, axis=(0, 1))[: SIZE[0]]


@pytest.fixture
def pictures(studio: Studio, scene: NDArray[np.uint8]) -> dict[str, bytes]:
    """The pictures of the recorded tasks, by their addresses."""
    data = png(scene)
    for number in ("05", "14", "15"):
        studio.pictures[capture(number)["tasks"][0]["data"]["image"]] = data
    return studio.pictures


def ask(client: FlaskClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of a /predict; one for each task, all of the version that /setup names."""
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200
    results: list[dict[str, Any]] = answer.get_json()["results"]
    assert len(results) == len(body["tasks"])
    setup = client.post("/setup", json={"project": body["project"], "schema": ""}).get_json()
    assert {result["model_version"] for result in results} <= {setup["model_version"]}
    return results


def mask_of(region: dict[str, Any]) -> NDArray[np.bool_]:
    return decode_rle(region["value"]["rle"], region["original_height"], region["original_width"]) > 127


def test_a_click_on_a_picture_in_cloud_storage_is_answered_through_label_studio(client, studio, pictures):
    body = capture("05")
    data = body["tasks"][0]["data"]
    content = pictures[data["image"]]
    data["image"] = "s3://bucket/a.png"
    resolved = f"/tasks/{body['tasks'][0]['id']}/resolve/?fileuri=czM6Ly9idWNrZXQvYS5wbmc="
    studio.resolved[resolved] = content
    (result,) = ask(client, body)
    assert len(result["result"]) == 1
    assert studio.fetched == [resolved]


def serve_decoder(service: Service, project: str, labels: tuple[str, ...]) -> None:
    """Promote a decoder that finds the first label everywhere."""
    decoder = DomainDecoder(DecoderConfig(labels, service.embedder.segmenter.encoder_id))
    decoder.head.bias.data[:] = 0
    decoder.head.bias.data[4:8] = 1000  # of the four quarters of a cell
    number = service.versions.publish(project, lambda path: network.save(decoder, path), {})
    service.versions.promote(project, number)


def test_a_recorded_click_gets_a_mask_in_the_browsers_size(client, pictures):
    (result,) = ask(client, capture("05"))
    (region,) = result["result"]
    assert (region["from_name"], region["to_name"], region["type"]) == ("brush", "image", "brushlabels")
    assert region["value"]["brushlabels"] == ["Dog"] and region["value"]["format"] == "rle"
    assert (region["original_width"], region["original_height"], region["image_rotation"]) == (800, 534, 0)
    assert 0 < mask_of(region).mean() < 1
    assert 0 <= result["score"] <= 1 and result["score"] == pytest.approx(region["score"], abs=1e-4)
    assert result["model_version"] == "sam-tiny"


@pytest.mark.parametrize("number", ["05", "14", "15"])
def test_the_answer_is_sams_to_all_prompts_of_the_recording(client, service, pictures, scene, number):
    body = capture(number)
    asked = read_prompt(body["params"]["context"], parse_config(body["label_config"]))
    assert len(asked.prompt.points) == {"05": 1, "14": 3, "15": 0}[number]
    (result,) = ask(client, body)
    segmenter = service.embedder.segmenter
    _, embedding = pack(segmenter.embed(scene))  # as it is kept
    expected = segmenter.segment(embedding, asked.prompt, candidates=1)
    assert asked.label == "Dog" and expected.masks[0].any()
    assert (mask_of(result["result"][0]) == expected.masks[0]).all()


def test_each_answer_has_an_id_of_its_own(client, pictures):
    first, second = (ask(client, capture("05"))[0]["result"][0]["id"] for _ in range(2))
    assert first != second


def test_an_image_is_fetched_once_and_encoded_once_whatever_its_address(client, service, studio, pictures):
    for number in ("05", "05", "15"):
        ask(client, capture(number))
    assert len(studio.fetched) == 2
    assert len(list((service.settings.home / "embeddings").rglob("*.safetensors"))) == 1


@pytest.mark.parametrize("context", [None, {}, {"result": []}, {"result": None}])
def test_without_a_prompt_and_without_a_version_there_is_nothing_to_say(client, pictures, context):
    body = capture("06")
    body["params"]["context"] = context
    assert ask(client, body) == [{"model_version": "sam-tiny", "score": 0.0, "result": []}]


@pytest.mark.parametrize("more", [{}, {"frame": 0, "window": 10}, {"result": []}, {"result": "as of the click"}])
def test_a_prewarm_has_the_picture_embedded_and_is_answered_with_nothing_at_once(
    client, planted, studio, pictures, monkeypatch, more
):
    serve_decoder(planted, P, ("Dog",))  # whose regions are no answer to it
    body = capture("05")
    if more.get("result"):
        more = {"result": body["params"]["context"]["result"]}
    body["params"]["context"] = {"event": "prewarm", **more}
    url = body["tasks"][0]["data"]["image"]
    answered, waited = threading.Event(), []
    embed = Planted.embed

    def slow(self: Planted, image: NDArray[np.uint8]) -> Any:
        waited.append(answered.wait(20))
        return embed(self, image)

    monkeypatch.setattr(Planted, "embed", slow)
    (result,) = ask(client, body)
    answered.set()
    assert (result["result"], result["score"]) == ([], 0.0)
    wait_until(lambda: not planted.prefetch_thread.busy)
    assert waited == [True] and studio.fetched == [url]
    click = capture("05")
    assert ask(client, click)[0]["result"]
    assert studio.fetched == [url] and len(waited) == 1  # the click found it embedded


def test_a_prewarm_of_what_cannot_be_served_is_answered_too(client, planted, caplog):
    body = {**capture("05"), "label_config": "<View/>", "params": {"context": {"event": "prewarm"}}}
    assert ask(client, {**body, "tasks": [{"id": 1}, {"id": 2}]})[1]["result"] == []
    assert "nothing is embedded" in caplog.text


def test_an_open_task_gets_the_decoders_regions(client, planted, pictures):
    serve_decoder(planted, P, ("Dog", "Object"))
    (result,) = ask(client, capture("06"))
    (region,) = result["result"]
    assert result["model_version"] == "skylight-1"
    assert result["score"] == pytest.approx(1.0)
    assert (region["from_name"], region["value"]["brushlabels"]) == ("brush", ["Dog"])
    assert mask_of(region).shape == SIZE and mask_of(region).all()


@pytest.mark.parametrize("refine", [False, True])
def test_sam_is_asked_about_the_decoders_regions_if_it_is_set(client, planted, pictures, refine, monkeypatch):
    serve_decoder(planted, P, ("Dog", "Object"))
    planted.settings = replace(planted.settings, refine=refine)
    asked = []
    segment = planted.embedder.segmenter.segment
    monkeypatch.setattr(
        planted.embedder.segmenter, "segment", lambda *given, **more: asked.append(given) or segment(*given, **more)
    )
    (result,) = ask(client, capture("06"))
    (region,) = result["result"]
    assert mask_of(region).all()  # what SAM says here is a single row: another object
    assert [prompt.box.tolist() for _, prompt in asked] == ([[0, 0, SIZE[1] - 1, SIZE[0] - 1]] if refine else [])


def test_of_too_many_regions_the_surest_are_sent_and_the_log_says_so(client, planted, pictures, monkeypatch, caplog):
    serve_decoder(planted, P, ("Dog", "Object"))
    planted.settings = replace(planted.settings, min_area=1)
    there = np.zeros(SIZE, bool)
    there[: SIZE[0] // 8 * 8, :].reshape(-1, 8, SIZE[1] // 8, 8)[:, 1:7, :, 1:7] = True
    sure = np.where(there, 0.5 + 0.5 * np.arange(SIZE[1]) / SIZE[1], 0).astype(np.float32)  # the further right
    said = Prediction(np.stack([1 - sure, sure, 0 * sure]), np.zeros(SIZE, np.float32), frozenset())
    monkeypatch.setattr(preannotation, "predict_pixels", lambda *_: said)
    (result,) = ask(client, capture("06"))
    assert len(result["result"]) == MAX_ANSWERED < 6600
    found = np.sum([mask_of(each) for each in result["result"][::20]], 0)
    assert found.max() == 1 and found.sum() == 36 * MAX_ANSWERED / 20 and not (found > there).any()
    assert np.flatnonzero(found.any(0)).min() >= SIZE[1] * (1 - MAX_ANSWERED / 6600) - 8
    assert f"of 6600 regions the {MAX_ANSWERED} with the highest scores are sent" in caplog.text


def test_a_batch_has_one_result_per_task_in_order_even_where_images_fail(client, planted, pictures):
    serve_decoder(planted, P, ("Dog", "Object"))
    body = capture("08")
    good, missing = body["tasks"]
    assert missing["data"]["image"] not in pictures
    pictures["/data/broken.png"] = b"\x89PNG\r\n\x1a\n and then nothing"
    broken = [{"image": "/data/broken.png"}, {"image": "ftp://x/y.png"}, {"image": 5}, {}, None, "text", ["a"]]
    body["tasks"] = [good, missing, *({"id": 50 + i, "data": data} for i, data in enumerate(broken)), {"id": 1}, good]
    results = ask(client, body)
    assert [len(result["result"]) for result in results] == [1, *[0] * 9, 1]


def test_a_batch_that_takes_too_long_is_answered_in_full_with_what_there_is(client, planted, pictures, monkeypatch):
    serve_decoder(planted, P, ("Dog", "Object"))
    monkeypatch.setattr(module, "BATCH_SECONDS", -1.0)
    assert [result["result"] for result in ask(client, capture("08"))] == [[], []]


def test_a_decoder_of_other_labels_is_not_served(client, planted, pictures):
    serve_decoder(planted, P, ("Dog",))
    assert ask(client, capture("06")) == [{"model_version": "skylight-1", "score": 0.0, "result": []}]


def test_a_decoder_of_another_sam_is_not_served(client, planted, pictures):
    serve_decoder(planted, P, ("Dog", "Object"))
    planted.embedder.segmenter.encoder_id = "another"
    assert ask(client, capture("06"))[0]["result"] == []


def test_a_decoder_of_the_same_sam_in_another_precision_is_served(client, planted, pictures):
    serve_decoder(planted, P, ("Dog", "Object"))
    before = ask(client, capture("06"))[0]["result"]
    planted.embedder.segmenter.encoder_id += "-float16"
    assert before and len(ask(client, capture("06"))[0]["result"]) == len(before)


def test_a_decoder_of_an_earlier_layout_is_not_served(client, planted, pictures, caplog):
    serve_decoder(planted, P, ("Dog", "Object"))
    forget_layout(planted.files.path(f"{planted.versions.folder(P)}/1/decoder.safetensors"))
    assert ask(client, capture("06"))[0]["result"] == []
    assert "train anew" in caplog.text


def test_a_version_whose_file_is_gone_costs_the_answer_not_the_batch(client, planted, pictures, caplog):
    serve_decoder(planted, P, ("Dog", "Object"))
    planted.files.path(f"{planted.versions.folder(P)}/1/decoder.safetensors").unlink()
    assert [result["result"] for result in ask(client, capture("08"))] == [[], []]
    assert "versions/1 is damaged" in caplog.text


@pytest.mark.parametrize(
    "config",
    ["", "<View/>", "no xml <", "<View><Text name='t' value='$t'/></View>", CONFIG.replace("$image", "image")],
)
@pytest.mark.parametrize("number", ["05", "06"])
def test_a_configuration_that_cannot_be_served_gets_empty_results(client, pictures, number, config, caplog):
    (result,) = ask(client, capture(number) | {"label_config": config})
    assert result["result"] == []
    assert "labeling configuration" in caplog.text or "Image" in caplog.text


def change(body: dict[str, Any], **values: Any) -> dict[str, Any]:
    """The body with the last prompt changed."""
    changed = copy.deepcopy(body)
    changed["params"]["context"]["result"][-1].update(values)
    return changed


@pytest.mark.parametrize(
    "sizes", [{"original_width": 800.0, "original_height": 534.0}, {"original_width": None}, {"original_height": None}]
)
def test_a_click_without_its_sizes_or_with_floats_is_answered_alike(client, pictures, sizes):
    found = ask(client, change(capture("05"), **sizes))[0]["result"]
    whole = ask(client, capture("05"))[0]["result"]
    assert found and [each["value"] for each in found] == [each["value"] for each in whole]
    assert (found[0]["original_width"], found[0]["original_height"]) == (800, 534)


@pytest.mark.parametrize(
    "values",
    [
        {"original_width": 400, "original_height": 267},  # another size than the image has
        {"original_width": True},
        {"original_width": "wide"},
        {"value": {}},
        {"value": None},
        {"value": {"x": "40", "y": 50, "keypointlabels": ["Dog"]}},
        {"value": {"x": 1e300, "y": 50, "keypointlabels": ["Dog"]}},
        {"value": {"x": 40, "y": 50, "keypointlabels": ["Cat"]}},
        {"value": {"x": 40, "y": 50}},
        {"to_name": "another"},
    ],
)
def test_a_click_that_cannot_be_answered_gets_an_empty_result(client, pictures, values):
    assert ask(client, change(capture("05"), **values))[0]["result"] == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"project": "1.1"}',
        b'{"project": "1.1", "tasks": 5}',
        b'{"project": "1.1", "tasks": [5]}',
        b'{"project": "../..", "tasks": []}',
        b'{"tasks": []}',
        b'{"project": "1.1", "tasks": [], "params": {"context": [1]}}',
        b'{"project": "1.1", "tasks": [], "params": {"context": "x"}}',
    ],
)
def test_what_is_no_request_is_refused_in_a_sentence(client, body):
    answer = client.post("/predict", data=body)
    assert answer.status_code == 400
    assert answer.get_json()["error"] and "Traceback" not in answer.text


def test_clicks_are_answered_while_redis_is_away(service, pictures):
    away = Service(replace(service.settings, redis_url="unix:///nowhere/redis.sock"))
    (result,) = ask(create_app(away.settings, away).test_client(), capture("05"))
    assert (len(result["result"]), result["model_version"]) == (1, "sam-tiny")


def test_a_project_with_bitmasks_gets_a_bitmask(client, pictures):
    config = capture("05")["label_config"].replace("BrushLabels", "BitmaskLabels")
    (region,) = ask(client, capture("05") | {"label_config": config})[0]["result"]
    assert (region["type"], region["value"]["bitmasklabels"]) == ("bitmasklabels", ["Dog"])
    assert decode_png(region["value"]["imageDataURL"]).shape == SIZE


def click(point: tuple[int, int], size: tuple[int, int], data: dict[str, Any], config: str = CONFIG) -> dict[str, Any]:
    """A click at x, y px on a task of the demo's configuration."""
    context = {"result": [key_point("point", "Pit", *point, size)]}
    tasks = [{"id": 1, "data": data}]
    return {"project": P, "label_config": config, "tasks": tasks, "params": {"context": context}}


def test_a_turned_photograph_is_answered_as_the_browser_shows_it(client, planted, studio):
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("L", (90, 60), 30).save(buffer, "JPEG", exif=exif)
    studio.pictures["/data/upload/1/p.jpg"] = buffer.getvalue()
    (region,) = ask(client, click((5, 80), (90, 60), {"image": "/data/upload/1/p.jpg"}))[0]["result"]
    assert mask_of(region).shape == (90, 60)
    assert mask_of(region).sum(axis=1).nonzero()[0].tolist() == [80]


def test_of_several_images_the_one_clicked_is_answered(client, planted, studio):
    for name, level in (("a", 10), ("b", 20)):
        studio.pictures[f"/data/upload/1/{name}.png"] = png(np.full((40, 60, 3), level, np.uint8))
    config = CONFIG.replace('value="$image"', 'valueList="$pages"')
    body = click((5, 7), (40, 60), {"pages": ["/data/upload/1/a.png", "/data/upload/1/b.png"]}, config)
    for index in (0, 1):
        (region,) = ask(client, change(body, item_index=index))[0]["result"]
        assert (mask_of(region).sum(), region["item_index"]) == (10 * (index + 1), index)
    assert ask(client, change(body, item_index=2))[0]["result"] == []


def test_points_on_another_image_of_the_task_are_left_out(client, planted, studio):
    for name in "ab":
        studio.pictures[f"/data/upload/1/{name}.png"] = png(np.full((40, 60, 3), 20, np.uint8))
    config = CONFIG.replace('value="$image"', 'valueList="$pages"')
    body = click((5, 7), (40, 60), {"pages": ["/data/upload/1/a.png", "/data/upload/1/b.png"]}, config)
    first = {**body["params"]["context"]["result"][0], "item_index": 0, "is_positive": False}
    body["params"]["context"]["result"] = [first, {**first, "item_index": 1, "is_positive": True}]
    asked = watch(planted)
    (region,) = ask(client, body)[0]["result"]
    assert region["item_index"] == 1
    assert [prompt.positive.tolist() for prompt, _ in asked] == [[True]]


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ("$meta.url", {"meta": {"url": "/data/upload/1/a.png"}}),
        ("$images[1].url", {"images": [{}, {"url": "/data/upload/1/a.png"}]}),
        ("$meta.url", {"meta.url": "/data/upload/1/a.png"}),
        ("$image", {"image": " /data/upload/1/a.png\n"}),
        ("$image", {"$undefined$": "/data/upload/1/a.png"}),
    ],
)
def test_a_picture_is_found_wherever_the_data_has_its_address(client, planted, studio, value, data):
    studio.pictures["/data/upload/1/a.png"] = png(np.full((40, 60, 3), 20, np.uint8))
    config = CONFIG.replace('value="$image"', f'value="{value}"')
    (region,) = ask(client, click((5, 7), (40, 60), data, config))[0]["result"]
    assert mask_of(region).sum() == 20
    assert image_urls.image_urls({"id": 1, "data": data}, parse_config(config)) == ["/data/upload/1/a.png"]


def test_a_point_without_coordinates_does_not_cost_the_click(client, planted, studio):
    studio.pictures["/data/upload/1/a.png"] = png(np.full((40, 60, 3), 20, np.uint8))
    body = click((5, 7), (40, 60), {"image": "/data/upload/1/a.png"})
    whole = body["params"]["context"]["result"][0]
    body["params"]["context"]["result"] = [whole, {**whole, "id": "k2", "value": {"keypointlabels": ["Pit"]}}]
    asked = watch(planted)
    assert mask_of(ask(client, body)[0]["result"][0]).sum() == 20
    assert [prompt.points.tolist() for prompt, _ in asked] == [[[5, 7]]]


TWO = """<View><Image name="left" value="$l"/><Image name="right" value="$r"/>
<BrushLabels name="b" toName="left"><Label value="Pit"/></BrushLabels>
<PolygonLabels name="p" toName="right"><Label value="Pit"/></PolygonLabels>
<KeyPointLabels name="k" toName="left"><Label value="Pit"/></KeyPointLabels>
<KeyPointLabels name="m" toName="right"><Label value="Pit"/></KeyPointLabels></View>"""


@pytest.mark.parametrize(("image", "control", "type"), [("left", "b", "brushlabels"), ("right", "p", "polygonlabels")])
def test_of_several_image_tags_the_one_clicked_is_answered_by_its_own_control(
    client, planted, studio, image, control, type
):
    for name, level in (("l", 10), ("r", 20)):
        studio.pictures[f"/data/upload/1/{name}.png"] = png(np.full((40, 60, 3), level, np.uint8))
    data = {name: f"/data/upload/1/{name}.png" for name in "lr"}
    body = change(click((5, 7), (40, 60), data, TWO), to_name=image)
    (region,) = ask(client, body)[0]["result"]
    assert (region["from_name"], region["to_name"], region["type"]) == (control, image, type)
    assert mask_of_any(region).sum() == {"left": 10, "right": 20}[image]


def mask_of_any(region: dict[str, Any]) -> NDArray[np.bool_]:
    return read_mask(region, (region["original_height"], region["original_width"]))


def watch(service: Service) -> list[tuple[Any, Any]]:
    """What SAM is asked from now on: the prompt, and the logits of an earlier answer."""
    asked = []
    segmenter = service.embedder.segmenter
    original = segmenter.segment

    def segment(embedding, prompt, logits=None, candidates=3):
        asked.append((prompt, logits))
        return replace(original(embedding, prompt), logits=np.full((1, 32, 32), len(asked), np.float32))

    segmenter.segment = segment
    return asked


def clicked(*points: tuple[str, int, int], label: str = "Pit", task: int = 1, **more: Any) -> dict[str, Any]:
    """Clicks of the ids and at x, y px given, on a task."""
    body = click((5, 7), (40, 60), {"image": "/data/upload/1/a.png"}, label_config(["Pit", "Dune"]))
    result = [key_point("point", label, x, y, (40, 60)) | {"id": id} | more for id, x, y in points]
    body["tasks"][0]["id"] = task
    body["params"]["context"]["result"] = result
    return body


@pytest.fixture
def picture(studio: Studio) -> None:
    studio.pictures["/data/upload/1/a.png"] = png(np.full((40, 60, 3), 20, np.uint8))


def test_sam_is_given_its_last_answer_to_the_same_clicks(client, planted, picture):
    asked = watch(planted)
    for points in (
        [("a", 5, 7)],
        [("a", 5, 7), ("b", 9, 9)],
        [("a", 5, 7), ("b", 9, 9), ("c", 1, 1)],
        [("a", 5, 7), ("d", 2, 2)],
    ):
        ask(client, clicked(*points))
    given = [None if logits is None else float(logits.max()) for _, logits in asked]
    assert given == [None, 1, 2, 1]


@pytest.mark.parametrize(
    "other",
    [
        clicked(("x", 5, 7), ("b", 9, 9)),  # someone else's first click
        clicked(("a", 6, 7), ("b", 9, 9)),  # moved
        clicked(("a", 5, 7), ("b", 9, 9), label="Dune"),
        clicked(("a", 5, 7), ("b", 9, 9), task=2),
        clicked(("a", 5, 7)),  # the same again
    ],
)
def test_sam_is_not_given_its_answer_to_something_else(client, planted, picture, other):
    asked = watch(planted)
    ask(client, clicked(("a", 5, 7)))
    ask(client, other)
    assert [logits for _, logits in asked] == [None, None]


def test_an_answer_is_forgotten_after_a_while(client, planted, picture):
    asked, now = watch(planted), [0.0]
    planted.click_sessions = ClickSessions(lambda: now[0])
    ask(client, clicked(("a", 5, 7)))
    now[0] = TTL_SECONDS
    ask(client, clicked(("a", 5, 7), ("b", 9, 9)))
    assert asked[1][1] is None


def test_negative_clicks_alone_mean_nothing(client, planted, picture, caplog):
    assert ask(client, clicked(("a", 5, 7), is_positive=False))[0]["result"] == []
    assert "negative" in caplog.text


@pytest.mark.parametrize("where", ["drafts", "annotations"])
@pytest.mark.parametrize("avoid", [False, True])
def test_a_mask_is_cut_where_another_of_the_label_is_if_that_is_set(client, planted, picture, where, avoid):
    planted.settings = replace(planted.settings, avoid_overlap=avoid)
    body = clicked(("a", 5, 7))
    body["tasks"][0]["drafts"], body["tasks"][0]["annotations"] = [], []
    labeling = parse_config(body["label_config"])
    here, there = np.zeros((2, 40, 60), bool)
    here[:, :8], there[:, 12:] = True, True
    result = [brush(labeling, here), brush(labeling, there, "Dune")]
    body["tasks"][0][where] = [{"id": 1, "result": result}]
    (region,) = ask(client, body)[0]["result"]
    assert mask_of(region).sum() == (12 if avoid else 20)
    assert not (avoid and mask_of(region)[:, :8].any())


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_kind_of_region_that_is_set_is_sent(client, service, pictures, kind):
    service.settings = replace(service.settings, output=kind)
    again = create_app(service.settings, Service(service.settings)).test_client()
    body = capture("05")
    for added in ("Bitmask", "Polygon", "Vector"):
        labels = f'<{added}Labels name="{added}" toName="image" closable="true"><Label value="Dog"/></{added}Labels>'
        body["label_config"] = body["label_config"].replace("</View>", f"{labels}</View>")
    (brushed,) = ask(client, body)[0]["result"]
    (region,) = ask(again, body)[0]["result"]
    assert (brushed["type"], region["type"]) == ("brushlabels", f"{kind}labels")
    expected = mask_of(brushed)
    if kind == "rectangle":
        x0, y0, x1, y1 = bounding_box(expected)
        expected[y0:y1, x0:x1] = True
    assert iou(mask_of_any(region), expected) > 0.9


def test_a_region_that_must_not_leave_is_not_sent(client, pictures, monkeypatch, caplog):
    original = click_module.draw_regions
    monkeypatch.setattr(
        click_module, "draw_regions", lambda *given: [{**each, "original_width": 801} for each in original(*given)]
    )
    assert ask(client, capture("05"))[0]["result"] == []
    assert "is not sent" in caplog.text


def test_an_error_that_was_not_foreseen_costs_one_task_only(client, planted, pictures, monkeypatch, caplog):
    def fail(*_: Any) -> None:
        raise KeyError("odd")

    monkeypatch.setattr(click_module, "read_prompt", fail)
    assert ask(client, capture("05"))[0]["result"] == []
    assert "did not foresee" in caplog.text


def test_two_people_clicking_on_two_images_never_get_each_others_mask(planted, studio):
    """Each mask is one row, the click's, as long as its picture is bright; one picture is always on disk only."""
    levels, clicks, size = (31, 57), 200, (64, 64)
    for level in levels:
        studio.pictures[f"/data/upload/1/{level}.png"] = png(np.full((*size, 3), level, np.uint8))
    wrong: list[str] = []
    server = make_server("127.0.0.1", 0, create_app(planted.settings, planted), threaded=True)

    def annotate(level: int) -> None:
        with requests.Session() as session:
            for i in range(clicks):
                body = click((i % 60, i % 64), size, {"image": f"/data/upload/1/{level}.png"})
                answer = session.post(f"http://127.0.0.1:{server.port}/predict", json=body, timeout=30)
                if answer.status_code != 200 or len(answer.json()["results"][0]["result"]) != 1:
                    wrong.append(answer.text)
                    continue
                mask = mask_of(answer.json()["results"][0]["result"][0])
                if mask.sum() != level or not mask[i % 64, :level].all():
                    wrong.append(f"image {level}, click {i}: {mask.sum()} px")

    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    people = [threading.Thread(target=annotate, args=(level,)) for level in levels]
    for thread in (serving, *people):
        thread.start()
    for thread in people:
        thread.join()
    server.shutdown()
    serving.join()
    server.server_close()
    assert wrong == []

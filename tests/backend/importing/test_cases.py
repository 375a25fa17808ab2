"""Inputs that people have, of annotations, imports, addresses and configurations, with the right values beside them.

`SKYLIGHT_CASES` names a folder with a folder for each kind: inputs, and `expected.json`.
"""

import hashlib
import html
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import redis
from click.testing import CliRunner

from skylight.backend.allowed_hosts import HostList
from skylight.backend.cli import main
from skylight.backend.demo.demo import label_config
from skylight.backend.importing.coco_and_masks import MaskLabels
from skylight.backend.importing.importer import Options, plan
from skylight.backend.labelstudio.events import annotation_event
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.labelstudio.region_reader import read_mask
from skylight.backend.learning.ingest import apply_event
from skylight.backend.process.ports import free_port
from skylight.backend.process.supervisor import Supervisor
from skylight.backend.settings import Settings
from skylight.model.mapping.contact_sheet import write_page
from tests.support.label_studio_double import KEY
from tests.support.picture_sites import serving
from tests.support.planted_embeddings import key_point, png

UPLOAD = "/data/upload/1/aaaaaaaa-scene.png"
PICTURES = "http://pictures.example"
CASES = os.environ.get("SKYLIGHT_CASES", "")


def kind_of_case(name):
    """The folder of a kind, and its right values; skips without them."""
    if not CASES:
        pytest.skip("SKYLIGHT_CASES does not name a folder of cases")
    (found,) = Path(CASES).glob(f"*-{name}")
    return found, json.loads((found / "expected.json").read_text())


@pytest.fixture
def importing(service):
    """Imports files to the end; gives the last progress."""

    def go(*sources, **options):
        return [progress for progress, _ in plan(service, 1, sources, Options(**options)).run()][-1]

    return go


def blank(size="200 x 120"):
    width, height = map(int, re.findall(r"[0-9]+", size)[:2])
    return png(np.full((height, width, 3), 90, np.uint8))


def add_task(studio, data, picture):
    """A task of some data; its picture is at each of the addresses of Label Studio in it."""
    number = max(studio.tasks, default=0) + 1
    studio.tasks[number] = {
        "id": number,
        "project": 1,
        "data": data,
        "updated_at": studio.now(),
        "annotations": [],
    }
    studio.pictures[UPLOAD] = picture
    return number


def regions(studio, task):
    return [region for one in studio.tasks[task]["annotations"] for region in one["result"]]


def test_coco_files_without_sizes_or_with_other_types_of_numbers(importing, studio, service):
    folder, expected = kind_of_case("coco-without-sizes-or-with-other-number-types")
    studio.add_project(expected["config"])
    for source, right in expected["inputs"].items():
        studio.tasks.clear()
        for address in expected["tasks"]:
            studio.pictures[address] = blank(expected["picture"])
            add_task(studio, {"image": address}, b"")
        progress = importing(folder / source)
        made = {
            each["data"]["image"].partition("-")[2]: len(each["annotations"][0]["result"])
            for each in studio.tasks.values()
            if each["annotations"]
        }
        assert (made, progress.failed) == (right["regions"], []), source


def test_coco_files_whose_names_are_addresses(importing, studio, service, monkeypatch):
    folder, expected = kind_of_case("coco-names-that-are-addresses")
    monkeypatch.setattr("skylight.backend.images.download.fetch", lambda *_: blank(expected["picture"]))
    studio.add_project(expected["config"])
    for source, right in expected["inputs"].items():
        studio.tasks.clear()
        add_task(studio, {"image": "/data/upload/1/00000000-other.png"}, b"")
        task = add_task(studio, {"image": right["task"]}, b"")
        progress = importing(folder / source)
        assert (progress.failed, progress.uploaded, len(regions(studio, task))) == ([], 0, 1), source


def test_masks_in_the_alpha_channel(importing, studio):
    folder, expected = kind_of_case("masks-in-the-alpha-channel")
    studio.add_project(label_config(["Pit", "Crater"]))
    task = studio.add_task(1, blank(), name="one.png")
    for source, right in expected["inputs"].items():
        studio.tasks[task]["annotations"] = []
        progress = importing((folder / source).parent, masks=MaskLabels(label="Pit"))
        areas = [int(read_mask(region, (120, 200)).sum()) for region in regions(studio, task)]
        assert (sorted(areas, reverse=True), progress.failed) == (right["objects"], []), source


def click_mask(client, config, data, at):
    """The (H, W) mask that a click at x, y px gets, on a picture of 200 x 120 px."""
    context = {"result": [key_point("point", "Pit", *at, (120, 200))]}
    body = {
        "project": "1.1",
        "label_config": config,
        "tasks": [{"id": 1, "data": data}],
        "params": {"context": context},
    }
    (answer,) = client.post("/predict", json=body).json["results"]
    return np.any([read_mask(region, (120, 200)) for region in answer["result"]] or [np.zeros((120, 200), bool)], 0)


def disc_iou(mask, disc):
    y, x = np.mgrid[:120, :200]
    truth = np.hypot(x - disc[0], y - disc[1]) <= disc[2]
    return (mask & truth).sum() / (mask | truth).sum()


def learn(service, studio, project, data, result):
    """Learn from an annotation; gives the label map, None if it is not learned from."""
    task = add_task(studio, data, studio.pictures.get(UPLOAD, b""))
    annotation = studio.annotate(task, result)
    apply_event(service, project, annotation_event(annotation, {"id": task, "data": data}, ""))
    record = service.store.get(project, annotation["id"])
    return None if record is None else service.store.label_map(project, record)


def test_addresses_at_a_path_in_the_data(client, service, studio):
    folder, expected = kind_of_case("image-value-with-a-path-into-the-data")
    studio.pictures[UPLOAD] = (folder / "scene.png").read_bytes()
    for each in expected["tasks"]:
        config = label_config(["Pit"]).replace('value="$image"', f'value="{html.escape(each["value"])}"')
        mask = click_mask(client, config, each["data"], expected["click"])
        assert disc_iou(mask, expected["disc"]) > 0.8, each
        project = studio.add_project(config)
        service.store.save_config(project, config)
        assert learn(service, studio, project, each["data"], []) is not None


@pytest.fixture
def site(service):
    """A web server that Skylight may ask."""
    service.settings = replace(service.settings, allowed_hosts=HostList.parse("127.0.0.1"))
    with serving() as running:
        yield running


def test_addresses_with_white_space_around_them(client, studio, site, service):
    folder, expected = kind_of_case("address-with-white-space-around-it")
    picture = (folder / "scene.png").read_bytes()
    studio.pictures[UPLOAD] = picture
    site.routes["/scene.png"] = (200, {}, picture)
    config = label_config(["Pit"])
    for address in expected["addresses"]:
        data = {"image": address.replace(PICTURES, site.url)}
        assert disc_iou(click_mask(client, config, data, expected["click"]), expected["disc"]) > 0.8, address


def test_hosts_that_refuse_python_requests(client, site, service):
    folder, expected = kind_of_case("hosts-that-refuse-python-requests")
    site.routes["/scene.png"] = (200, {}, (folder / "scene.png").read_bytes())
    site.refuses = ("python", "urllib", "curl")
    x, y, _ = expected["disc"]
    mask = click_mask(client, label_config(["Pit"]), {"image": f"{site.url}/scene.png"}, (x, y))
    assert disc_iou(mask, expected["disc"]) > 0.8


LEARNED = (
    "polygon-without-area",
    "original-size-missing-or-not-an-int",
    "ellipses-are-taught-as-background",
)


@pytest.mark.parametrize("kind", LEARNED)
def test_annotations_are_learned_from(planted, importing, studio, kind):
    folder, expected = kind_of_case(kind)
    studio.pictures[UPLOAD] = (folder / "scene.png").read_bytes()
    project = studio.add_project(expected["config"])
    planted.store.save_config(project, expected["config"])
    for source, right in expected["inputs"].items():
        if "imported" in right:
            studio.tasks.clear()
            task = add_task(studio, expected["task"], studio.pictures[UPLOAD])
            progress = importing(folder / source)
            result = regions(studio, task)
            assert (len(result), progress.failed) == (right["imported"], []), source
            assert learn(planted, studio, project, expected["task"], result).any()
            continue
        found = learn(planted, studio, project, expected["task"], json.loads((folder / source).read_text()))
        assert (found is not None) == right.get("learned", 1), source
        for place, values in (("taught", {1}), ("not_background", {1, 255}), ("is_background", {0})):
            for x, y in (map(int, each.split(",")) for each in right.get(place, ())):
                assert found[y, x] in values, (source, x, y)


def test_serve_starts_with_a_long_or_odd_folder_for_temporary_files(tmp_path, monkeypatch):
    _, expected = kind_of_case("long-or-odd-tmpdir")
    folders = [tmp_path / name for name in expected["names"]]
    for length in expected["lengths"]:
        folders.append(tmp_path / ("x" * max(length - len(str(tmp_path)) - 1, 1)))
    for folder in folders:
        folder.mkdir()
        starts(folder, tmp_path / hashlib.sha256(str(folder).encode()).hexdigest()[:8], monkeypatch)


def starts(temporary, home, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("SKYLIGHT_", "LABEL_STUDIO", "REDIS_URL"))}
    settings = Settings(home=home, workers=0)
    supervisor = Supervisor(settings, environ | {"TMPDIR": str(temporary)}, "127.0.0.1", free_port(0))
    supervisor.children = []
    with supervisor, redis.Redis.from_url(supervisor.environ["REDIS_URL"]) as connection:
        assert connection.ping()


class Sources(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name == "src"]


def test_the_contact_sheet_of_odd_names(tmp_path):
    _, expected = kind_of_case("contact-sheet-of-names-with-hash")
    kept = []
    for name in expected["names"]:
        thumbnail = tmp_path / "thumbnails" / f"{name}.jpg"
        thumbnail.parent.mkdir(parents=True, exist_ok=True)
        thumbnail.write_bytes(b"x")
        shown = f"thumbnails/{name}.jpg"
        kept.append({"input": name, "thumbnail": shown, "size": (9, 9), "confidence": 0.5, "counts": {}})
    write_page(tmp_path / "index.html", "t", kept)
    parser = Sources()
    parser.feed((tmp_path / "index.html").read_text())
    paths = [unquote(urlsplit(source).path) for source in parser.found]
    assert len(paths) == len(kept) and all((tmp_path / path).is_file() for path in paths)


def test_tags_in_small_letters():
    folder, expected = kind_of_case("tags-in-small-letters")
    for source, right in expected["inputs"].items():
        assert list(parse_config((folder / source).read_text()).labels) == right["labels"], source


def test_exports_with_left_over_prompts(importing, studio):
    folder, expected = kind_of_case("export-with-left-over-prompts")
    studio.add_project(label_config(["Pit", "Crater"]))
    for source, right in expected["inputs"].items():
        studio.tasks.clear()
        task = add_task(studio, expected["task"], blank())
        progress = importing(folder / source)
        (region,) = regions(studio, task)
        assert (int(read_mask(region, (120, 200)).sum()), progress.failed) == (right["brush"], []), source


def test_coco_exports_that_have_lost_their_labels(service, studio, monkeypatch):
    folder, expected = kind_of_case("label-studio-coco-loses-labels-with-our-configuration")
    studio.add_project(label_config(["Pit", "Crater"]))
    add_task(studio, {"image": UPLOAD}, blank())
    for variable in (*(each.env for each in Settings.table()), "SKYLIGHT_DATA", "SKYLIGHT_CASES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("SKYLIGHT_HOME", str(service.settings.home))
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", KEY)
    for source, right in expected["inputs"].items():
        done = CliRunner().invoke(main.cli, ["import-annotations", str(folder / source), "--project", "1"])
        merged = right["categories"] == ["default"]
        assert ("export as JSON" in str(done.output) + str(done.exception)) == merged, done.output
        assert (done.exit_code != 0) == merged

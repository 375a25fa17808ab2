"""The demo's parts; Label Studio itself is a stand-in here."""

import io
import json
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skylight.backend.demo import demo
from skylight.backend.demo.demo import DemoUser, await_skylight, label_config, make_project
from skylight.backend.errors import Unavailable
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.labelstudio.label_config import parse_config
from skylight.model.datasets import synthetic_scenes
from tests.support.label_studio_double import KEY, Studio


@pytest.fixture
def ls(studio: Studio) -> LabelStudio:
    return LabelStudio(studio.url, KEY)


def test_the_configuration_takes_brush_masks_from_smart_points_and_boxes():
    labeling = parse_config(label_config(["Pit", "Crater"]))
    assert (labeling.control, labeling.type, labeling.data_key) == ("mask", "brushlabels", "image")
    assert labeling.labels == ("Pit", "Crater")
    assert labeling.prompts == ("point", "box")


def test_there_are_colours_for_any_number_of_labels():
    assert len(parse_config(label_config([f"label {i}" for i in range(30)])).labels) == 30


def test_the_login_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path):
    path = tmp_path / "demo" / "login.json"
    login = DemoUser.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert DemoUser.load_or_create(path) == login
    assert len(login.token) == 40 and int(login.token, 16)
    assert login.password and login.password != DemoUser.load_or_create(tmp_path / "other.json").password
    assert set(json.loads(path.read_text())) == {"email", "password", "token"}


def test_the_project_is_made_once_with_its_scenes(ls, studio, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "SCENES", 2)
    project = make_project(ls, tmp_path / "truth")
    assert make_project(ls, tmp_path / "truth") == project
    assert (len(studio.projects), len(studio.tasks)) == (1, 2)
    assert studio.projects[project]["sampling"] == "Uncertainty sampling"
    assert parse_config(studio.projects[project]["label_config"]).labels == ("Pit",)
    scene = synthetic_scenes.scene(demo.FIRST_SEED)
    with Image.open(io.BytesIO(next(iter(studio.pictures.values())))) as picture:
        assert (np.asarray(picture) == scene.image).all()
    with Image.open(tmp_path / "truth" / "scene-00.png") as truth:
        assert (np.asarray(truth) == scene.truth()).all()


def test_a_skylight_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(demo, "READY_SECONDS", 0.3)
    with pytest.raises(Unavailable, match="did not answer at http://127.0.0.1:1 "):
        await_skylight("http://127.0.0.1:1", threading.Event())

"""The command line with a home of its own, alone and beside a running service."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from skylight.backend.cli import main
from skylight.backend.process.supervisor import broker_address_file
from skylight.backend.settings import Settings
from skylight.model.datasets import synthetic_scenes
from skylight.model.sam import loading
from skylight.model.sam.segmenter import Segmenter
from tests.support.label_studio_double import KEY


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A procedural scene on disk, wider than high."""
    path = tmp_path / "scene.png"
    Image.fromarray(synthetic_scenes.scene(1, 128).image[:96]).save(path)
    return path


@pytest.fixture
def skylight(tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch):
    """Runs the command with nothing set but a home of its own, with the SAM that is loaded already."""
    for variable in Settings.table():
        monkeypatch.delenv(variable.env, raising=False)
    monkeypatch.setenv("SKYLIGHT_HOME", str(tmp_path / "home"))
    load = loading.load
    monkeypatch.setattr(loading, "load", lambda name, *more: segmenter if name == "tiny" else load(name, *more))

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main.cli, [str(each) for each in arguments])

    return run


@pytest.fixture
def beside(skylight, service, studio, monkeypatch):
    """Runs the command as beside the given service, with one project in Label Studio."""
    studio.add_project()
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", KEY)
    monkeypatch.setenv("SKYLIGHT_HOME", str(service.settings.home))
    note = broker_address_file(service.settings)
    note.parent.mkdir(parents=True)
    note.write_text(service.settings.redis_url)
    return skylight


@pytest.fixture
def exit_status(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command as a process would; returns its exit status."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["skylight", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        return int(ended.value.code or 0)

    return run

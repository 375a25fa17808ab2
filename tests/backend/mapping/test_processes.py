"""`skylight map --jobs`: the same files as by one process, whatever becomes of one of them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from skylight.backend.cli.context import open_service
from skylight.backend.cli.main import cli
from skylight.backend.errors import Unavailable
from skylight.backend.mapping import processes
from skylight.backend.mapping.inputs import list_images
from skylight.backend.mapping.mapping import ImageMapper, plan
from skylight.backend.settings import Settings
from skylight.model.datasets.synthetic_scenes import scene
from tests.support.label_studio_double import wait_until
from tests.support.shared_exports import share_exports
from tests.support.trained_versions import publish, train_pits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def decoder(segmenter):
    return train_pits(segmenter)


@pytest.fixture
def home(service, decoder, monkeypatch, exports):
    """A home with a trained version, known by the environment, as it is to another process."""
    publish(service, decoder)
    share_exports(service.settings.home, exports)
    for variable in Settings.table():
        monkeypatch.delenv(variable.env, raising=False)
    monkeypatch.setenv("SKYLIGHT_HOME", str(service.settings.home))
    monkeypatch.setenv("SKYLIGHT_TILE", "256")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def pictures(folder: Path, count: int, side: int = 128) -> Path:
    folder.mkdir(exist_ok=True)
    for seed in range(count):
        Image.fromarray(scene(60 + seed, 128).image).resize((side, side)).save(folder / f"{side}-{seed}.png")
    return folder


def mapped(folder: Path, out: Path, jobs: int, progress=lambda done, name: None) -> dict[str, str]:
    """Why pictures could not be mapped, or "", by their names."""
    asked = plan(
        open_service(), "1", None, out, ("png", "geojson", "coco", "geotiff"), jobs=jobs, open_service=open_service
    )
    reasons = {each.name: reason for each, _, reason in asked.run(list_images([folder]), progress)}
    asked.finish()
    return reasons


def test_two_processes_write_the_same_bytes_as_one_and_say_how_far_they_are(home, tmp_path):
    folder = pictures(tmp_path / "in", 5)
    (folder / "c.png").write_bytes(b"no picture")
    heard = []
    one = mapped(folder, tmp_path / "one", 1)
    two = mapped(folder, tmp_path / "two", 2, lambda done, name: heard.append(done))
    assert [name for name, reason in one.items() if reason] == [name for name, reason in two.items() if reason] == ["c"]
    written = [
        {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for out in (tmp_path / "one", tmp_path / "two")
    ]
    assert written[0] == written[1] and len(written[0]) == 5 * 5 + 4
    assert heard == sorted(heard) and heard[0] >= 0 and heard[-1] == 6
    assert mapped(folder, tmp_path / "two", 1)["c"]  # of which nothing but c is mapped again


def test_a_process_that_is_killed_costs_its_picture_only(home, tmp_path):
    folder = pictures(pictures(tmp_path / "in", 2, 900), 3, 200)
    killed = []

    def kill(done: float, names: str) -> None:
        if names.count("900") == 2 and not killed:
            killed.extend(multiprocessing.active_children())
            for process in killed:
                process.kill()

    (folder / "900-0.png").rename(folder / "0-900.png")
    (folder / "900-1.png").rename(folder / "1-900.png")
    reasons = mapped(folder, tmp_path / "out", 2, kill)
    assert len(killed) == 2
    assert {name for name, reason in reasons.items() if reason} == {"0-900", "1-900"}
    assert "the process that mapped it ended with -9" in reasons["0-900"]
    assert not any(mapped(folder, tmp_path / "out", 1).values())


def test_processes_that_cannot_even_begin_are_an_error(home, tmp_path):
    options = plan(open_service(), "1", None, tmp_path, ("png",)).options
    open_mapper = partial(ImageMapper.open, open_service, "no such project", 1, options)
    left = list(enumerate(list_images([pictures(tmp_path / "in", 2)])))
    with pytest.raises(Unavailable, match="a process that was to map pictures ended with 1"):
        list(processes.run(open_mapper, left, 1, lambda done, name: None))
    assert multiprocessing.active_children() == []


def map_command(folder, out) -> list[str]:
    """The command line that maps a folder by project 1's version."""
    program = [sys.executable, "-m", "skylight.backend.cli.main"]
    return [*program, "map", str(folder), "--project", "1", "--out", str(out)]


def test_ctrl_c_ends_all_processes_and_the_same_command_goes_on(home, tmp_path):
    folder, out = pictures(pictures(tmp_path / "in", 2), 3, 900), tmp_path / "out"
    command = map_command(folder, out)
    with subprocess.Popen([*command, "--jobs", "2"], stdout=subprocess.PIPE, start_new_session=True) as process:
        wait_until(lambda: list(out.glob("parts/*.json")), 120)
        os.killpg(process.pid, signal.SIGINT)
        said = process.stdout.read().decode()
    assert process.returncode == 130 and said.endswith("Stopped; the same command goes on from here.\n")
    wait_until(lambda: not alive(process.pid), 30)
    there = len(list(out.glob("parts/*.json")))
    assert 1 <= there < 5
    done = CliRunner().invoke(cli, [*command[3:], "--jobs", "1"], catch_exceptions=False)
    assert f"{5 - there} mapped, {there} were already, 0 failed, of 5" in done.output


def test_processes_end_when_the_one_that_started_them_is_killed(home, tmp_path):
    folder, out = pictures(tmp_path / "in", 4, 900), tmp_path / "out"
    command = map_command(folder, out)
    with subprocess.Popen([*command, "--jobs", "2"], stdout=subprocess.DEVNULL, start_new_session=True) as process:
        wait_until(lambda: list(out.glob("thumbnails/*.jpg")), 120)
        process.kill()
    wait_until(lambda: not alive(process.pid), 30)


def alive(group: int) -> bool:
    """Whether a process of this group is there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    time.sleep(0.05)
    return True


@pytest.mark.parametrize("cores", [2, 8])
def test_auto_is_as_many_as_the_cores_that_may_be_used(monkeypatch, cores):
    from skylight.backend.cli.map import _jobs

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert _jobs(None, None, "auto") == cores and _jobs(None, None, "3") == 3

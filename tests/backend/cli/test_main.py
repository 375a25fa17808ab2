"""The command line as a whole: its help, and how commands end."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skylight.backend.cli.main import GROUPS, cli
from skylight.model.datasets import synthetic_scenes
from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import png, square
from tests.support.trained_versions import publish

WIDTH = 80


def test_help_lists_every_command_with_its_whole_summary_in_a_line_of_its_group(skylight):
    lines = [line.strip() for line in skylight("--help").output.splitlines()]
    assert max(map(len, lines)) <= WIDTH and not any("..." in line for line in lines if "Usage" not in line)
    titles = [line.strip("═ ") for line in lines if line.startswith("═")]
    assert titles == ["Options", *GROUPS]
    for command in cli.commands.values():
        summary = command.help.partition("\n\n")[0].replace("\n", " ")
        assert any(line.split(maxsplit=1) == [command.name, summary] for line in lines), command.name
    assert "SKYLIGHT_" not in " ".join(lines)  # those are listed by `skylight settings`


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_the_help_of_every_command_fits_a_terminal(skylight, command):
    done = skylight(command, "--help")
    lines = done.output.splitlines()
    assert done.exit_code == 0 and max(len(line.rstrip()) for line in lines) <= WIDTH
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize("arguments", [["--help"], ["map", "--help"], ["map"]])
def test_what_is_written_to_a_file_or_in_ci_has_no_color_codes(tmp_path, arguments):
    environ = {"PATH": "", "GITHUB_ACTIONS": "true", "CI": "true", "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-m", "skylight.backend.cli.main", *arguments]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True)
    assert "map" in done.stdout + done.stderr and "\x1b" not in done.stdout + done.stderr


def test_help_does_not_wait_for_pytorch():
    code = "import sys; from skylight.backend.cli import main as cli; sys.argv[1:] = ['--help']\n"
    code += "try: cli.main()\nexcept SystemExit: assert 'torch' not in sys.modules\nelse: assert False"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        (("segment", "{scene}", "--point", "5,5", "--out", "x"), {"SKYLIGHT_SMA": "tiny"}, "Did you mean SKYLIGHT_SAM"),
        (("segment", "{text}", "--point", "5,5", "--out", "x"), {}, "are not a whole JPEG"),
        (("segment", "{scene}", "--point", "5,5", "--sam", "vit_b", "--out", "x"), {}, "checkpoints download vit_b"),
        (("segment", "{scene}", "--point", "5,5", "--sam", "best", "--out", "x"), {}, "No checkpoint is called 'best'"),
        (("cache", "--clear", "tiny-1"), {}, "no embeddings of 'tiny-1', only of: no encoder"),
        (("checkpoints", "download", "best"), {}, "No checkpoint is called 'best'"),
        (("worker",), {"REDIS_URL": "redis://127.0.0.1:1/0", "SKYLIGHT_SAM": "vit_h"}, "checkpoints download vit_h"),
        (("web",), {"REDIS_URL": "redis://127.0.0.1:1/0", "SKYLIGHT_SAM": "vit_h"}, "checkpoints download vit_h"),
    ],
)
def test_what_was_foreseen_ends_in_one_line(
    skylight, exit_status, scene, tmp_path, monkeypatch, capsys, arguments, environ, said
):
    monkeypatch.setattr("os.nice", lambda _: 0)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "text.png").write_text("no picture")
    given = [each.format(scene=scene, text=tmp_path / "text.png") for each in arguments]
    assert exit_status(*given) == 1
    error = capsys.readouterr().err
    assert error.startswith("skylight: ") and said in error
    assert error.count("\n") == 1 and "Traceback" not in error


NOWHERE = "unix:///nowhere/redis.sock"
# These run until they are ended, and Redis may come later; simulate works on folders alone.
NOT_HERE = ("serve", "web", "worker", "demo", "simulate")
WITHOUT_REDIS = [  # every other command: arguments, exit status and what is said
    (("status",), 1, "Redis does not answer"),
    (("status", "--json"), 1, "Redis does not answer"),
    (("status", "--try-again", "{project}"), 1, "skylight: Redis does not answer"),
    (("doctor",), 1, "fail Redis: "),
    (("doctor", "--fix"), 1, "fail Redis: "),
    (("connect", "--project", "1", "--url", "{served}"), 0, "done "),
    (("precompute", "--project", "1"), 0, "1 embedded"),
    (("rebuild",), 1, "skylight: Redis does not answer"),
    (("forget", "--project", "{project}", "--yes"), 1, "skylight: Redis does not answer"),
    (("normalise", "--project", "1", "--range", "0,4000"), 0, "Redis is away"),
    (("export", "--project", "1", "--format", "safetensors", "--out", "{out}/it.safetensors"), 0, "it.safetensors"),
    (("map", "{scene}", "--project", "1", "--out", "{out}/maps"), 0, "1 mapped"),
    (("import-annotations", "{masks}", "--project", "1", "--label", "Pit"), 0, "1 annotated"),
    (("cache",), 0, "images"),
    (("settings",), 0, "SKYLIGHT_HOME"),
    (("checkpoints", "list"), 0, "tiny"),
    (("segment", "{scene}", "--point", "5,5", "--out", "{out}/mask.png"), 0, "mask.png"),
]


def test_no_command_is_forgotten_here():
    assert {arguments[0] for arguments, _, _ in WITHOUT_REDIS} | set(NOT_HERE) == set(cli.commands)


@pytest.fixture
def files_for_commands(beside, scene, tmp_path, studio, segmenter, service, served) -> dict[str, object]:
    """What the commands are about: a project with a decoder, a picture, and its mask."""
    project = "1.1795340401"
    studio.add_task(1, png(synthetic_scenes.scene(1, 96).image))
    service.store.save_config(project, CONFIG)
    publish(service, DomainDecoder(DecoderConfig(("Pit",), segmenter.encoder_id)), project)
    masks = tmp_path / "masks"
    masks.mkdir()
    name = Path(studio.tasks[1]["data"]["image"]).stem
    Image.fromarray(square(0, 96)[1].astype(np.uint8) * 255).save(masks / f"{name}.png")
    return {"project": project, "scene": scene, "masks": masks, "served": served, "out": tmp_path}


@pytest.mark.parametrize(("arguments", "status", "said"), WITHOUT_REDIS)
def test_without_redis_every_command_ends_in_a_sentence(
    files_for_commands, exit_status, monkeypatch, capsys, arguments, status, said
):
    monkeypatch.setenv("REDIS_URL", NOWHERE)
    assert exit_status(*(each.format(**files_for_commands) for each in arguments)) == status
    found = "".join(capsys.readouterr())
    assert said in found and "Traceback" not in found

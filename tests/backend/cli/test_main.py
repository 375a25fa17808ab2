"""The command line."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from skylight.backend.cli import main as cli
from skylight.backend.demo.labelstudio_server import free_port
from skylight.backend.process.supervisor import MOST_STARTS, broker_note
from skylight.backend.settings import Settings
from skylight.model.datasets import synthetic_scenes
from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from skylight.model.sam import loading
from skylight.model.sam.loading import NAMES
from skylight.model.sam.segmenter import Segmenter
from tests.support.label_studio_double import CONFIG, KEY
from tests.support.planted_embeddings import png, square
from tests.support.trained_versions import publish


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
        return CliRunner().invoke(cli.cli, [str(each) for each in arguments])

    return run


def test_help_lists_the_commands_and_every_setting(skylight):
    text = skylight("--help").output
    commands = ("serve", "web", "worker", "segment", "demo", "checkpoints", "cache", "doctor", "connect", "precompute")
    for name in (*commands, "import-annotations", "forget"):
        assert f"\n  {name} " in text
    for variable in Settings.table():
        assert variable.env in text
        assert variable.default in text.replace("\n", "").replace(" ", "")


def test_help_does_not_wait_for_pytorch():
    code = "import sys; from skylight.backend.cli import main as cli; sys.argv[1:] = ['--help']\n"
    code += "try: cli.main()\nexcept SystemExit: assert 'torch' not in sys.modules\nelse: assert False"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("prompt", ["--point 64,48", "--point 64,48 --point 3,3,neg", "--box 90,70,20,20"])
def test_segment_writes_a_mask_of_the_images_size_and_prints_the_figures(skylight, scene, tmp_path, prompt):
    done = skylight("segment", scene, *prompt.split(), "--out", tmp_path / "mask.png")
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "mask.png") as mask:
        assert (mask.size, mask.mode) == ((128, 96), "L")
        values = np.unique(np.asarray(mask)).tolist()
        pixels = np.count_nonzero(np.asarray(mask))
    assert set(values) <= {0, 255}
    assert f"mask.png: {pixels} px, score " in done.output
    assert "encode " in done.output and done.output.endswith(" ms\n")


def test_a_box_means_the_same_from_either_corner(skylight, scene, tmp_path):
    for name, box in (("a", "20,20,90,70"), ("b", "90,70,20,20")):
        assert skylight("segment", scene, "--box", box, "--out", tmp_path / name).exit_code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ((), "at least one --point or a --box"),
        (("--point", "5"), "'5' is not X,Y"),
        (("--point", "a,b"), "'a,b' is not X,Y"),
        (("--point", "1,2,3"), "is not X,Y"),
        (("--point", "nan,2"), "is not X,Y"),
        (("--box", "1,2,3"), "is not X0,Y0,X1,Y1"),
        (("--box", "1,2,3,inf"), "is not X0,Y0,X1,Y1"),
        (("--point", "128,4"), "128,4 is outside the image, which has 128 x 96 px"),
        (("--point", "4,-1"), "outside the image"),
    ],
)
def test_a_bad_prompt_is_refused(skylight, scene, tmp_path, prompt, said):
    done = skylight("segment", scene, *prompt, "--out", tmp_path / "mask.png")
    assert done.exit_code == 2
    assert said in done.output
    assert not (tmp_path / "mask.png").exists()


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["skylight", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


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
def test_what_was_foreseen_ends_in_one_line(skylight, scene, tmp_path, monkeypatch, capsys, arguments, environ, said):
    monkeypatch.setattr("os.nice", lambda _: 0)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "text.png").write_text("no picture")
    given = [each.format(scene=scene, text=tmp_path / "text.png") for each in arguments]
    assert run_main(monkeypatch, *given) == 1
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
    (("checkpoints", "list"), 0, "tiny"),
    (("segment", "{scene}", "--point", "5,5", "--out", "{out}/mask.png"), 0, "mask.png"),
]


def test_no_command_is_forgotten_here():
    assert {arguments[0] for arguments, _, _ in WITHOUT_REDIS} | set(NOT_HERE) == set(cli.cli.commands)


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
    files_for_commands, monkeypatch, capsys, arguments, status, said
):
    monkeypatch.setenv("REDIS_URL", NOWHERE)
    assert run_main(monkeypatch, *(each.format(**files_for_commands) for each in arguments)) == status
    found = "".join(capsys.readouterr())
    assert said in found and "Traceback" not in found


def test_serve_ends_with_1_and_says_why_if_a_part_cannot_be_started(skylight, monkeypatch, capfd):
    code = "import sys; print('skylight: no weights', file=sys.stderr); sys.exit(3)"
    monkeypatch.setattr("skylight.backend.process.supervisor.PROGRAM", [sys.executable, "-c", code])
    monkeypatch.setattr("skylight.backend.process.supervisor.RESTART_SECONDS", 0.01)
    monkeypatch.setenv("REDIS_URL", NOWHERE)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert run_main(monkeypatch, "serve", "--port", free_port(0)) == 1
    said = capfd.readouterr().err
    assert said.count("no weights") >= MOST_STARTS and "Traceback" not in said
    assert "cannot be started: it ended 6 times in a row" in said and "with status 3" in said


@pytest.mark.parametrize("command", ["web", "worker"])
def test_parts_alone_need_a_redis(skylight, command):
    done = skylight(command)
    assert done.exit_code == 2
    assert "set REDIS_URL" in done.output


def test_checkpoints_are_listed_with_licence_and_what_is_here(skylight, tmp_path):
    (tmp_path / "home" / "checkpoints").mkdir(parents=True)
    (tmp_path / "home" / "checkpoints" / "sam_vit_b_01ec64.pth").touch()
    text = skylight("checkpoints", "list").output
    assert {line.split()[0] for line in text.splitlines()} == set(NAMES)
    assert text.count("Apache-2.0") == 4
    assert [line.split()[0] for line in text.splitlines() if line.endswith("(downloaded)")] == ["vit_b"]


def test_the_cache_is_shown_trimmed_and_cleared(skylight, tmp_path):
    for encoder in ("vit_b-1", "vit_b-2"):
        path = tmp_path / "home" / "embeddings" / encoder / "00" / "0.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(2**20))
    assert "2 images, 2.0 MB of at most 20000 MB" in skylight("cache").output.replace("\n", " ")
    done = skylight("cache", "--clear", "vit_b-1", "--trim", 0)
    assert done.output.startswith("deleted all of vit_b-1: 1 embeddings, 1.0 MB\ndeleted 1 embeddings")
    assert ": 0 images, 0.0 MB" in done.output and done.exit_code == 0
    assert skylight("cache", "--trim", "-1").exit_code == 2


@pytest.fixture
def beside(skylight, service, studio, monkeypatch):
    """Runs the command as beside the given service, with one project in Label Studio."""
    studio.add_project()
    monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", KEY)
    monkeypatch.setenv("SKYLIGHT_HOME", str(service.settings.home))
    note = broker_note(service.settings)
    note.parent.mkdir(parents=True)
    note.write_text(service.settings.redis_url)
    return skylight


def test_connect_says_what_it_did_and_the_second_time_that_nothing_was_left_to_do(beside, served):
    first, second = (beside("connect", "--project", 1, "--url", served).output for _ in range(2))
    assert f"done ML backend {served}\n" in first and "Nothing" not in first
    assert "done" not in second and second.endswith("Nothing had to be changed.\n")


def test_connect_has_the_images_embedded_and_again_only_those_that_are_missing(
    beside, planted, studio, served, work, monkeypatch
):
    for seed in range(3):
        studio.add_task(1, png(square(seed)[0]))
    first = beside("connect", "--project", 1, "--url", served).output
    assert "done images: embedded in the background\n" in first
    assert "so   images: embedded" in beside("connect", "--project", 1, "--url", served).output
    assert planted.queue.queues["embed"].count == 1
    work()
    assert len(studio.fetched) == 3
    again = beside("connect", "--project", 1, "--url", served).output
    assert "done" not in again and again.endswith("Nothing had to be changed.\n")
    work()
    assert len(studio.fetched) == 3


def test_connect_from_a_machine_that_does_not_reach_the_broker_still_connects(beside, studio, served, monkeypatch):
    monkeypatch.setenv("REDIS_URL", "unix:///nowhere/redis.sock")
    done = beside("connect", "--project", 1, "--url", served)
    assert (done.exit_code, "images" in done.output, len(studio.backends)) == (0, False, 1)


@pytest.fixture
def scenes(beside, studio, monkeypatch):
    """The command beside a project of four scenes, where no Redis is."""
    monkeypatch.setenv("REDIS_URL", "unix:///nowhere/redis.sock")
    for seed in range(4):
        studio.add_task(1, png(synthetic_scenes.scene(seed, 96).image))
    return beside


def test_precompute_embeds_a_project_without_redis_and_a_second_time_finds_it_done(scenes, studio):
    done = scenes("precompute", "--project", 1)
    assert done.exit_code == 0, done.output
    assert re.search(r"^4 embedded \(\d+\.\d+ images/s\), 0 were there already, 0 failed, of 4$", done.output, re.M)
    again = scenes("precompute", "--project", 1)
    assert "\n0 embedded, 4 were there already, 0 failed, of 4" in again.output
    assert (again.exit_code, len(studio.fetched)) == (0, 4)


def test_precompute_names_what_failed_and_why_and_ends_with_1(scenes, studio, monkeypatch):
    monkeypatch.setattr(cli, "REASONS", 1)
    studio.pictures[studio.tasks[2]["data"]["image"]] = b"no picture"
    del studio.pictures[studio.tasks[4]["data"]["image"]]
    done = scenes("precompute", "--project", 1)
    assert "2 embedded" in done.output and "2 failed, of 4" in done.output
    assert "scene.png answered 404. Does the file still exist?\n... and 1 more" in done.output
    assert "task 4: " in done.output and "task 2: " not in done.output
    assert done.exit_code == 1


def test_precompute_stopped_by_ctrl_c_says_how_far_it_is_and_goes_on(scenes, segmenter, monkeypatch):
    embed, left = segmenter.embed, [2]

    def interrupted(image):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return embed(image)

    monkeypatch.setattr(segmenter, "embed", interrupted)
    done = scenes("precompute", "--project", 1)
    assert "2 embedded" in done.output and done.output.endswith("Stopped; the same command goes on from here.\n")
    assert done.exit_code == 130
    monkeypatch.setattr(segmenter, "embed", embed)
    assert "2 embedded" in scenes("precompute", "--project", 1).output


def test_doctor_prints_each_finding_with_the_next_step_and_ends_with_1(beside, service, served):
    beside("connect", "--project", 1, "--url", served)
    done = beside("doctor")
    lines = done.output.splitlines()
    assert f"ok   project 1 'pits': ML backend: {served}, connected, interactive" in lines
    assert lines[lines.index("fail worker: none runs; 1 jobs wait, nothing is learned") + 1].startswith("     -> ")
    assert (done.exit_code, "Traceback" in done.output) == (1, False)
    assert KEY not in done.output and service.secret.value not in done.output


def test_doctor_repairs_when_asked(beside, studio, served):
    beside("connect", "--project", 1, "--url", served)
    studio.webhooks.clear()
    assert "fail project 1 'pits': webhook" in beside("doctor").output
    fixed = beside("doctor", "--fix").output
    assert "done project 1 'pits': webhook" in fixed and "ok   project 1 'pits': webhook" in fixed
    assert "Nothing had to be changed." in beside("doctor", "--fix").output
    studio.webhooks.clear()
    studio.guards = {"webhook"}
    refused = beside("doctor", "--fix").output
    assert "not repaired: Label Studio refuses the webhook" in refused and "fail project 1" in refused


def test_doctor_says_that_nothing_runs(skylight, tmp_path):
    done = skylight("doctor")
    assert done.exit_code == 1
    assert "fail Label Studio: LABEL_STUDIO_URL is not set" in done.output
    assert "fail Redis: " in done.output and "skylight serve" in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--project", "1", "--url", "skylight:9090"), "'skylight:9090' must begin with http://"),
        (("--project", "0"), "x>=1"),
        ((), "--project"),
        (("--project", "1"), "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY"),
    ],
)
def test_connect_says_what_it_lacks(skylight, arguments, said):
    done = skylight("connect", *arguments)
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((), "--project"), (("--project", "1"), "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")],
)
def test_precompute_says_what_it_lacks(skylight, arguments, said):
    done = skylight("precompute", *arguments)
    assert done.exit_code == 2
    assert said in done.output

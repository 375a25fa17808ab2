"""Commands about projects: connect, precompute, doctor."""

import re

import pytest

from skylight.backend.cli import context
from skylight.model.datasets import synthetic_scenes
from tests.support.label_studio_double import KEY
from tests.support.planted_embeddings import png, square


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
    monkeypatch.setattr(context, "MAX_FAILURES_SHOWN", 1)
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((), "--project"), (("--project", "1"), "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")],
)
def test_precompute_says_what_it_lacks(skylight, arguments, said):
    done = skylight("precompute", *arguments)
    assert done.exit_code == 2
    assert said in done.output


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

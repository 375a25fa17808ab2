"""How many images a click is answered on at once."""

import pytest

from skylight.backend.errors import LabelStudioError
from skylight.backend.learning.coverage import Readiness, clickable_urls, readiness
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import png, square

SEVERAL = CONFIG.replace('value="$image"', 'valueList="$images"')


@pytest.fixture
def project(planted, studio) -> str:
    key = studio.add_project(title="Pits of Mars")
    planted.store.save_config(key, CONFIG)
    for seed in range(3):
        studio.add_task(key, png(square(seed)[0]))
    return key


def test_an_image_is_ready_once_it_is_embedded(planted, studio, project):
    assert readiness(planted, project) == Readiness("Pits of Mars", 3, 0, 3, True)
    planted.embedder.embedding(studio.tasks[2]["data"]["image"])
    assert readiness(planted, project) == Readiness("Pits of Mars", 3, 1, 3, True)


def test_what_another_sam_embedded_is_not_ready(planted, studio, project):
    planted.embedder.embedding(studio.tasks[2]["data"]["image"])
    planted.embedder.cache.encoder_id = "another"
    assert readiness(planted, project).ready == 0


def test_no_image_is_fetched_for_it(planted, studio, project):
    readiness(planted, project)
    assert studio.fetched == []


def test_of_very_many_tasks_the_first_are_looked_at(planted, project, monkeypatch):
    monkeypatch.setattr("skylight.backend.learning.coverage.TASKS", 2)
    assert readiness(planted, project) == Readiness("Pits of Mars", 3, 0, 2, False)


def test_every_image_of_a_task_counts(planted, studio, project):
    planted.store.save_config(project, SEVERAL)
    for number, urls in ((1, ["/a.png", "/b.png"]), (2, ["/c.png", None]), (3, "/d.png")):
        studio.tasks[number]["data"] = {"images": urls}
    assert planted.labelstudio is not None
    tasks = planted.labelstudio.tasks(1)
    assert list(clickable_urls(tasks, planted, project)) == ["/a.png", "/b.png", "/c.png", "/d.png"]


def test_every_image_that_can_be_clicked_on_counts(planted, studio, project):
    config = CONFIG.replace(
        "</View>",
        '<Image name="r" value="$r"/><PolygonLabels name="p" toName="r">'
        '<Label value="Pit"/></PolygonLabels><Image name="seen" value="$seen"/></View>',
    )
    planted.store.save_config(project, config)
    for number in studio.tasks:
        studio.tasks[number]["data"] |= {"r": f"/{number}.png", "seen": "/only-shown.png"}
    assert readiness(planted, project).images == 6


def test_a_configuration_that_cannot_be_served_has_no_images(planted, project):
    planted.store.save_config(project, "<View/>")
    assert readiness(planted, project) == Readiness("Pits of Mars", 3, 0, 0, True)


def test_a_project_that_is_another_one_now_is_not_looked_at(planted, studio, project):
    studio.projects[1]["created_at"] = "2026-11-22T12:00:00.000000Z"
    with pytest.raises(LabelStudioError, match="another one"):
        readiness(planted, project)

"""`skylight rebuild`, after Redis has lost everything."""

import pytest
from click.testing import CliRunner

from skylight.backend.admin.rebuild import rebuild
from skylight.backend.cli.main import cli
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.security.webhook_secret import HEADER
from tests.support.label_studio_double import CONFIG, KEY
from tests.support.planted_embeddings import brush, png, square

LABELING = parse_config(CONFIG)


@pytest.fixture
def project(planted, studio) -> str:
    return studio.add_project()


def submit(studio, project, seed):
    image, mask = square(seed)
    return studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)])


def test_everything_is_there_again_and_a_second_time_changes_nothing(client, planted, studio, project, work):
    for seed in range(3):
        body = studio.webhook("ANNOTATION_CREATED", project, submit(studio, project, seed))
        assert client.post("/webhook", json=body).status_code == 202
    work()
    planted.queue.redis.flushall()
    late = submit(studio, project, 4)  # of which Redis alone knew
    (line,) = rebuild(planted)
    assert "made known to Redis again" in line and "4 samples, 1 samples changed" in line
    assert "version 1 is served" in line and "a worker looks through it" in line
    work()
    assert str(late["id"]) in planted.versions.card(project, 2)["annotations"]
    assert planted.versions.current(project) == 2
    before = planted.store.samples(project), planted.versions.numbers(project)
    for _ in range(2):
        (line,) = rebuild(planted)
        assert "known to Redis; " in line and "0 samples changed" in line and "nothing is left to train" in line
    work()
    assert (planted.store.samples(project), planted.versions.numbers(project)) == before


def test_a_project_of_which_the_store_knows_nothing_is_found_by_its_webhook(planted, studio, project):
    other = studio.add_project()  # not ours
    submit(studio, project, 0)
    hook = {"project": 1, "url": "http://here/webhook", "headers": planted.secret.headers}
    studio.webhooks[1] = {"id": 1, **hook}
    studio.webhooks[2] = {"id": 2, **hook, "project": 2, "headers": {HEADER: "another's"}}
    lines = list(rebuild(planted))
    assert lines[0] == f"project {project} was found in Label Studio by its webhook"
    assert planted.queue.projects() == [project] and other not in planted.store.projects()
    assert planted.store.count(project) == 1


def test_the_command_says_what_it_did(planted, studio, project, monkeypatch):
    planted.store.save_config(project, CONFIG)
    environ = {
        "SKYLIGHT_HOME": str(planted.settings.home),
        "REDIS_URL": planted.settings.redis_url,
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": KEY,
        "SKYLIGHT_DATA": None,  # of the tests alone
        "SKYLIGHT_CASES": None,
    }
    found = CliRunner().invoke(cli, ["rebuild"], env=environ)
    assert found.exit_code == 0, found.output
    assert f"project {project}: made known to Redis again; its configuration is there; 0 samples" in found.output

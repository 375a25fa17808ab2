"""Connecting a project by the API: a stand-in Label Studio over HTTP, and a real Skylight behind the address."""

from typing import Any

import pytest

from skylight.backend.admin import connect as module
from skylight.backend.admin.connect import connect, default_url
from skylight.backend.errors import LabelStudioError, Unavailable
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.security.webhook_secret import HEADER, WebhookSecret
from skylight.backend.service import Service
from skylight.backend.settings import Settings
from tests.support.label_studio_double import KEY, PERSONAL, Studio, serving


@pytest.fixture
def ls(studio: Studio) -> LabelStudio:
    return LabelStudio(studio.url, KEY)


@pytest.fixture
def project(studio: Studio) -> int:
    return int(float(studio.add_project()))


def made(changes: list[module.Change]) -> list[str]:
    return [change.what for change in changes if change.made]


def state(studio: Studio) -> list[Any]:
    """All that connecting may change."""
    return [dict(d) for d in (*studio.backends.values(), *studio.webhooks.values(), *studio.projects.values())]


def test_all_that_one_would_click_is_done_and_a_second_run_changes_nothing(ls, studio, service, project, served):
    changes = connect(ls, service.secret, project, served)
    assert len(made(changes)) == 3  # predictions were shown already, and the new backend is interactive
    (backend,), (webhook,) = studio.backends.values(), studio.webhooks.values()
    assert (backend["url"], backend["title"], backend["is_interactive"]) == (served, "Skylight", True)
    assert webhook["url"] == f"{served}/webhook"
    assert webhook["headers"] == {HEADER: service.secret.value}
    assert webhook["is_active"] and webhook["send_payload"] and webhook["send_for_all_actions"]
    assert studio.projects[project]["sampling"] == "Uncertainty sampling"
    assert studio.projects[project]["show_collab_predictions"] is True
    assert service.secret.is_required("1.1795340401")
    before = state(studio)
    again = connect(ls, service.secret, project, f"{served}/")
    assert (made(again), len(again), state(studio)) == ([], 5, before)


def test_what_was_connected_by_hand_is_completed_not_doubled(ls, studio, service, project, served):
    by_hand = served.replace("127.0.0.1", "localhost")
    ls.connect_ml_backend(project, f"{by_hand}/", "default", is_interactive=False)
    studio.webhooks[1] |= {"send_for_all_actions": False, "actions": ["ANNOTATION_CREATED"], "headers": {"X-Mine": "1"}}
    studio.projects[project]["show_collab_predictions"] = False
    assert len(made(connect(ls, service.secret, project))) == 4
    assert [one["url"] for one in studio.backends.values()] == [f"{by_hand}/"]
    (webhook,) = studio.webhooks.values()
    assert webhook["headers"] == {"X-Mine": "1", HEADER: service.secret.value}
    assert webhook["send_for_all_actions"] and studio.backends[1]["is_interactive"]
    assert studio.projects[project]["show_collab_predictions"] is True


def test_skylight_is_moved_with_its_webhook_when_its_address_changes(ls, studio, service, project, served):
    connect(ls, service.secret, project, "http://127.0.0.1:1")
    assert "moved from http://127.0.0.1:1" in made(connect(ls, service.secret, project, served))[0]
    assert [one["url"] for one in studio.backends.values()] == [served]
    assert [one["url"] for one in studio.webhooks.values()] == [f"{served}/webhook"]
    assert made(connect(ls, service.secret, project, served)) == []


def test_of_webhooks_that_bring_the_same_twice_one_is_left_on(ls, studio, service, project, served):
    connect(ls, service.secret, project, served)
    ls.create_webhook(project, f"{served}/webhook")
    ls.create_webhook(project, f"{served.replace('127.0.0.1', 'localhost')}/webhook")
    ls.create_webhook(project, "http://127.0.0.1:1/webhook")  # somebody else's
    assert len(made(connect(ls, service.secret, project, served))) == 2
    assert [one["is_active"] for one in studio.webhooks.values()] == [True, False, False, True]
    assert made(connect(ls, service.secret, project, served)) == []


def test_another_backend_of_the_project_is_left_alone(ls, studio, service, project, served):
    ls.connect_ml_backend(project, "http://127.0.0.1:1", "other")
    connect(ls, service.secret, project, served)
    assert [one["url"] for one in studio.backends.values()] == ["http://127.0.0.1:1", served]
    assert studio.webhooks[1]["headers"] == {}


@pytest.mark.parametrize(
    ("guards", "said", "rows"),
    [
        ({"ml", "webhook"}, "ML backend .*ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false", 0),
        ({"webhook"}, "webhook .*with SSRF_PROTECTION_ENABLED=false in its environment", 1),
    ],
)
def test_what_label_studios_guards_refuse_is_said_with_the_variable(
    ls, studio, service, project, served, guards, said, rows
):
    studio.guards = guards
    for _ in range(2):
        with pytest.raises(Unavailable, match=said):
            connect(ls, service.secret, project, served)
        assert (len(studio.backends), len(studio.webhooks)) == (rows, 0)
    assert not service.secret.is_required("1.1795340401")
    studio.guards = set()
    assert any("webhook" in what for what in made(connect(ls, service.secret, project, served)))


def test_another_program_at_the_address_is_not_connected(ls, studio, service, project):
    with pytest.raises(Unavailable, match=f"another program than Skylight answers at {studio.url}"):
        connect(ls, service.secret, project, studio.url)
    assert not studio.backends


def test_a_shell_without_the_servers_home_connects_nothing_that_would_then_be_refused(
    ls, studio, project, service, served
):
    mine = WebhookSecret(Settings(webhook_secret="of-another-shell"), service.files)
    with pytest.raises(Unavailable, match="another secret answers; set SKYLIGHT_HOME"):
        connect(ls, mine, project, served)
    assert not studio.backends


def test_a_project_that_is_not_there_is_said(ls, service, served):
    with pytest.raises(LabelStudioError, match="404 to GET /api/projects/77/"):
        connect(ls, service.secret, 77, served)


def test_a_personal_token_does_it_too(studio, service, project, served):
    studio.legacy = False
    assert made(connect(LabelStudio(studio.url, PERSONAL), service.secret, project, served))


def test_without_an_address_that_of_this_machine_is_taken_if_label_studio_is_here_too():
    assert default_url("http://localhost:8080") == "http://127.0.0.1:9090"
    with pytest.raises(Unavailable, match="give --url"):
        default_url("https://labels.example.org")


def test_two_skylights_are_told_apart(ls, studio, service: Service, project, served, settings, tmp_path):
    other = Service(Settings(home=tmp_path / "other", redis_url=settings.redis_url))
    with serving(other) as elsewhere:
        connect(ls, other.secret, project, elsewhere)
        connect(ls, service.secret, project, served)
    assert [one["url"] for one in studio.backends.values()] == [served]
    (webhook,) = studio.webhooks.values()
    assert webhook["headers"] == {HEADER: service.secret.value}

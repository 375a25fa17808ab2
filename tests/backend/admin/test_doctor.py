"""The doctor: what it sees of Label Studio and of each project, and what its `--fix` repairs."""

import re
import time
from dataclasses import replace
from typing import Any

import pytest

from skylight.backend.admin import doctor, project_checks
from skylight.backend.admin.connect import connect
from skylight.backend.admin.findings import Finding
from skylight.backend.errors import Unavailable
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.labelstudio.project_connection import ACTIONS
from skylight.backend.learning.preannotate_tasks import preannotate
from skylight.backend.queue.keys import key
from skylight.backend.security.webhook_secret import HEADER
from skylight.backend.service import Service
from skylight.backend.worker.maintenance import Maintenance
from tests.backend.learning.test_preannotate_tasks import promote
from tests.support.label_studio_double import CONFIG, KEY, OWNER, PERSONAL, Studio
from tests.support.planted_embeddings import png, square

P = "1.1795340401"


@pytest.fixture
def connected(service: Service, studio: Studio, served: str) -> Service:
    """A service with one project, everything in order."""
    studio.add_project()
    connect(LabelStudio(studio.url, KEY), service.secret, 1, served)
    return service


def found(service: Service) -> dict[str, Finding]:
    return {each.what: each for each in doctor.findings(service)}


def of_project(service: Service) -> dict[str, Finding]:
    """What is found of the only project, by the last word."""
    return {what.rpartition(": ")[2]: each for what, each in found(service).items() if what.startswith("project ")}


def other(service: Service, **change: Any) -> Service:
    return Service(replace(service.settings, **change))


def test_a_project_in_order_gives_ok_for_each_thing(connected, served):
    assert of_project(connected) == {
        "ML backend": Finding("project 1 'pits': ML backend", "ok", f"{served}, connected, interactive"),
        "webhook": Finding("project 1 'pits': webhook", "ok", f"{served}/webhook, all events, with the secret header"),
        "events": Finding("project 1 'pits': events", "ok", "none came yet"),
        "order of tasks": Finding("project 1 'pits': order of tasks", "ok", "Uncertainty sampling"),
    }


def test_label_studio_and_the_key_are_named_but_the_key_is_not_shown(connected):
    seen = found(connected)
    assert seen["Label Studio"] == Finding("Label Studio", "ok", f"1.23.2 at {connected.settings.label_studio_url}")
    assert seen["key"] == Finding("key", "ok", f"legacy token of {OWNER}")
    assert (seen["clock"].state, seen["clock"].detail) == ("ok", "agrees")
    assert KEY not in str(seen) and connected.secret.value not in str(seen)
    personal = found(other(connected, label_studio_api_key=PERSONAL))["key"]
    assert personal == Finding("key", "ok", f"personal access token of {OWNER}")


@pytest.mark.parametrize(
    ("change", "what", "said"),
    [
        ({"label_studio_url": ""}, "Label Studio", "LABEL_STUDIO_URL is not set"),
        ({"label_studio_url": "http://127.0.0.1:1"}, "Label Studio", "http://127.0.0.1:1 did not answer"),
        ({"label_studio_api_key": ""}, "key", "LABEL_STUDIO_API_KEY is not set"),
        ({"label_studio_api_key": "wrong"}, "key", "legacy token: .*401.*Invalid token"),
        ({"label_studio_api_key": "an.other.token"}, "key", "personal access token: .*401.*Token is invalid"),
    ],
)
def test_without_label_studio_or_a_valid_key_nothing_more_is_asked(connected, change, what, said):
    seen = found(other(connected, **change))
    assert seen[what].state == "fail" and seen[what].next_step
    assert re.search(said, seen[what].detail)
    assert not [each for each in seen if each.startswith("project")]


def test_a_wrong_address_is_told_from_a_wrong_key(connected, served):
    seen = found(other(connected, label_studio_url=served))["Label Studio"]  # Skylight itself
    assert seen.state == "fail" and "LABEL_STUDIO_URL" in seen.detail + seen.next_step


def test_a_legacy_token_where_those_are_switched_off_names_both_ways_out(connected, studio):
    studio.legacy = False
    key_finding = found(connected)["key"]
    assert "legacy token authentication has been disabled" in key_finding.detail
    assert "personal access token" in key_finding.next_step and "API Tokens Settings" in key_finding.next_step


@pytest.mark.parametrize(("ahead", "state"), [(None, "warn"), (0.3, "ok"), (-20, "ok"), (45, "warn"), (-400, "fail")])
def test_clocks_may_differ_by_half_a_minute(connected, monkeypatch, ahead, state):
    monkeypatch.setattr(LabelStudio, "version", lambda self: ("1.24.0", ahead))
    seen = found(connected)
    assert seen["clock"].state == state and bool(seen["clock"].next_step) == (state != "ok")
    assert "tested with 1.23" in seen["Label Studio"].detail


def test_no_project_at_all_names_the_command_that_connects_one(service, studio):
    assert "sees none" in found(service)["projects"].detail
    studio.add_project()
    assert found(service)["projects"].detail == "none of 1 is connected"
    assert "skylight connect --project" in found(service)["projects"].next_step


def test_a_project_that_was_connected_once_is_named(connected, studio):
    connected.store.save_config(P, "<View/>")
    studio.backends.clear()
    seen = found(connected)["project 1 'pits'"]
    assert seen.state == "warn" and "skylight connect --project 1" in seen.next_step


def test_connected_without_a_webhook_is_explained_with_the_one_variable_that_is_missing(connected, studio):
    studio.webhooks.clear()
    webhook = of_project(connected)["webhook"]
    assert webhook.state == "fail" and "connected but no webhook" in webhook.detail
    assert "SSRF_PROTECTION_ENABLED=false" in webhook.next_step and "ML_BLOCK" not in webhook.next_step
    assert "doctor --fix" in webhook.next_step


def test_an_address_in_the_open_has_nothing_to_do_with_label_studios_guards(connected, studio, monkeypatch):
    monkeypatch.setattr(project_checks, "is_private", lambda url: False)
    studio.webhooks.clear()
    assert of_project(connected)["webhook"].next_step == project_checks.FIX


@pytest.mark.parametrize(
    ("change", "state", "said"),
    [
        ({"is_active": False}, "fail", "switched off"),
        ({"send_payload": False}, "fail", "no payload"),
        ({"send_for_all_actions": False, "actions": ["TASKS_CREATED"]}, "fail", "not bring ANNOTATION_CREATED"),
        ({"headers": {}}, "fail", f"lacks the right {HEADER}"),
        ({"headers": {HEADER: "of-another-skylight"}}, "fail", f"lacks the right {HEADER}"),
        ({"url": "http://127.0.0.1:1/webhook"}, "fail", "no webhook"),
    ],
)
def test_what_is_wrong_with_a_webhook_is_said_and_fixed(connected, studio, change, state, said):
    studio.webhooks[1].update(change)
    webhook = of_project(connected)["webhook"]
    assert webhook.state == state and said in webhook.detail and "doctor --fix" in webhook.next_step
    assert any(one.made for one in doctor.fix(connected))
    assert of_project(connected)["webhook"].state == "ok"
    assert not any(one.made for one in doctor.fix(connected))


def test_a_webhook_with_all_that_is_needed_is_good_enough(connected, studio):
    studio.webhooks[1].update(send_for_all_actions=False, actions=list(ACTIONS))
    assert of_project(connected)["webhook"].state == "ok"
    assert not any(one.made for one in doctor.fix(connected))


def test_a_backend_connected_by_hand_lacks_the_secret_and_the_order(service, studio, served):
    studio.add_project()
    LabelStudio(studio.url, KEY).connect_ml_backend(1, served, "default", is_interactive=False)
    seen = of_project(service)
    assert {name: each.state for name, each in seen.items()} == {
        "ML backend": "warn",
        "webhook": "warn",
        "events": "ok",
        "order of tasks": "warn",
    }
    assert all("doctor --fix" in each.next_step for each in seen.values() if each.state == "warn")
    assert "no secret" in seen["webhook"].detail and "Sequential sampling" in seen["order of tasks"].detail
    doctor.fix(service)
    assert {each.state for each in of_project(service).values()} == {"ok"}


def test_predictions_that_nobody_sees_are_named(connected, studio):
    studio.projects[1]["show_collab_predictions"] = False
    assert of_project(connected)["order of tasks"].detail == "predictions are not shown to annotators"


def test_a_backend_that_label_studio_cannot_reach_is_explained_with_both_variables(connected, studio):
    studio.backends[1].update(state="DI")
    backend = of_project(connected)["ML backend"]
    assert backend.state == "fail" and "it does not answer" in backend.detail
    assert "ML_BLOCK_LOCAL_IP=false" in backend.next_step and "SSRF_PROTECTION_ENABLED=false" in backend.next_step
    studio.backends[1].update(state="ER", error_message="500 Server Error")
    assert "500 Server Error" in of_project(connected)["ML backend"].detail


def test_a_backend_nobody_here_can_reach_is_believed_to_label_studio(connected, studio):
    studio.backends[1]["url"] = "http://skylight.invalid:9090"
    backend = of_project(connected)["ML backend"]
    assert backend.state == "ok" and "not reachable from here" in backend.detail


@pytest.mark.parametrize("kind", ["another Skylight", "another program"])
def test_an_address_where_somebody_else_answers_is_told_and_not_fixed(connected, studio, served, kind):
    service = other(connected, webhook_secret="of-another-skylight") if "Skylight" in kind else connected
    if service is connected:
        studio.backends[1]["url"] = studio.url
    backend = of_project(service)["ML backend"]
    assert backend.state == "fail" and kind in backend.detail
    assert "skylight connect --project 1 --url" in backend.next_step
    assert doctor.fix(service) == []


def test_a_backend_behind_another_one_is_named(connected, studio, served):
    before = {**studio.backends[1], "id": 0, "url": "http://127.0.0.1:1", "title": "other"}
    studio.backends = {0: before, **studio.backends}
    assert "not the project's first" in of_project(connected)["ML backend"].detail


def test_an_annotation_that_was_never_announced_is_noticed(connected, studio):
    task = studio.add_task(P, b"")
    studio.annotate(task, [])  # 10:00, long ago; the connection is of 9:41
    events = of_project(connected)["events"]
    assert events.state == "warn" and "never announced" in events.detail
    assert "SSRF_PROTECTION_ENABLED=false" in events.next_step
    connected.queue.redis.set(key(P, "heard"), int(time.time()) - 7200)
    events = of_project(connected)["events"]
    assert (events.state, events.detail) == ("ok", "the last came 2 hours ago")
    studio.backends[1]["created_at"] = "2026-11-22T10:01:00Z"
    connected.queue.redis.delete(key(P, "heard"))
    assert of_project(connected)["events"].state == "ok"  # from before it was connected


def test_a_label_studio_that_fails_half_way_is_a_finding_too(connected, studio, monkeypatch):
    monkeypatch.setattr(studio, "webhooks", None)
    assert "500 to GET /api/webhooks/" in found(connected)["project 1"].detail
    monkeypatch.setattr(studio, "projects", None)
    assert found(connected)["projects"].state == "fail"


def test_what_the_guards_refuse_to_fix_is_said(connected, studio):
    studio.webhooks.clear()
    studio.guards = {"webhook"}
    with pytest.raises(Unavailable, match="SSRF_PROTECTION_ENABLED=false"):
        doctor.fix(connected)


def test_only_the_newest_projects_are_looked_at_and_those_that_are_known(connected, studio, monkeypatch):
    monkeypatch.setattr(doctor, "MAX_PROJECTS", 0)
    assert not of_project(connected)
    connected.store.save_config(P, "<View/>")
    assert len(of_project(connected)) == 4


def test_what_label_studio_refused_is_named_until_it_goes_well(planted, studio):
    project = studio.add_project()
    planted.store.save_config(project, CONFIG)
    studio.add_task(project, png(square(1)[0]))
    promote(planted, project)
    studio.on_predictions = lambda: 1 / 0
    for _ in range(2):
        preannotate(planted, project)
    seen = found(planted)["project 1: pre-annotation"]
    assert (seen.state, seen.detail[:60]) == ("warn", "Label Studio answered 500 to POST /api/predictions/: a page ")
    assert seen.detail.endswith("; 2 times") and "tried again by itself" in seen.next_step
    studio.on_predictions = lambda: None
    preannotate(planted, project)
    assert "project 1: pre-annotation" not in found(planted)


def test_predictions_that_somebody_deleted_are_named_with_the_tasks(planted, studio, client):
    project = studio.add_project()
    planted.store.save_config(project, CONFIG)
    for seed in range(4):
        studio.add_task(project, png(square(seed)[0]))
    promote(planted, project)
    preannotate(planted, project)
    for number, one in list(studio.predictions.items()):
        if one["task"] in (2, 3):
            del studio.predictions[number]
    del studio.tasks[4]  # with its predictions, as is right
    studio.predictions = {number: one for number, one in studio.predictions.items() if one["task"] != 4}
    preannotate(planted, project)
    seen = found(planted)["project 1: submit"]
    assert "predictions of 2 tasks (2, 3) were deleted in Label Studio, and not by Skylight" in seen.detail
    assert "Reload the task" in seen.next_step
    assert b"predictions of 2 tasks (2, 3) were deleted" in client.get(f"/projects/{project}").data
    preannotate(planted, project)
    assert "times" not in found(planted)["project 1: submit"].detail
    planted.failures.clock = lambda: time.time() - 25 * 3600
    planted.failures.record(project, "submit", "an old one")
    planted.failures.clock = time.time
    Maintenance(planted, sweep=True).run_once()
    assert "project 1: submit" not in found(planted)

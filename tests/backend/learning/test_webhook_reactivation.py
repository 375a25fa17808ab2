"""A webhook that Label Studio switched off itself is switched on again; one that a person switched off is not."""

import pytest

from skylight.backend.admin.connect import connect
from skylight.backend.admin.project_checks import findings
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.labelstudio.project_connection import find_link, identify
from skylight.backend.learning.reconcile import reconcile
from skylight.backend.learning.webhook_reactivation import reactivate
from skylight.backend.queue.keys import key
from skylight.backend.security.webhook_secret import HEADER
from skylight.backend.service import Service
from skylight.backend.worker.maintenance import Maintenance
from tests.support.label_studio_double import KEY, Studio


@pytest.fixture
def ls(studio: Studio) -> LabelStudio:
    return LabelStudio(studio.url, KEY)


@pytest.fixture
def project(studio: Studio, ls: LabelStudio, service: Service, served: str) -> str:
    """A project that is connected, and was looked at once."""
    name = studio.add_project()
    connect(ls, service.secret, 1, served)
    service.store.save_config(name, studio.projects[1]["label_config"])
    reconcile(service, name)
    return name


def fail_too_often(studio: Studio, number: int = 1) -> None:
    """What Label Studio does after 50 deliveries that failed: it moves no time."""
    studio.webhooks[number]["is_active"] = False


def switch_off(ls: LabelStudio, studio: Studio, number: int = 1) -> None:
    """What a person does."""
    ls.update_webhook(number, studio.webhooks[number]["url"], is_active=False, actions=[])


def said(service: Service, ls: LabelStudio) -> list[tuple[str, str]]:
    """What the doctor says of the webhook."""
    link = find_link(ls, ls.project(1), lambda url: identify(url, service.secret.instance))
    assert link is not None
    return [(each.state, each.detail) for each in findings(service, ls, link) if each.what.endswith("webhook")]


def test_what_label_studio_switched_off_is_switched_on_and_said(service, studio, ls, project, caplog):
    before = dict(studio.webhooks[1])
    for _ in range(2):
        fail_too_often(studio)
        reconcile(service, project, glance=True)  # as the upkeep has it done every few minutes
        assert studio.webhooks[1]["is_active"]
    assert caplog.text.count("it is on again") == 2
    assert {**studio.webhooks[1], "updated_at": ""} == {**before, "updated_at": ""}
    assert [state for state, _ in said(service, ls)] == ["ok", "warn"]
    assert "switched on again" in said(service, ls)[1][1]
    service.queue.redis.delete(key(project, "webhook-on"))
    assert [state for state, _ in said(service, ls)] == ["ok"]


def test_the_upkeep_has_it_done(service, studio, project, work):
    fail_too_often(studio)
    Maintenance(service, sweep=True).run_once()
    work()
    assert studio.webhooks[1]["is_active"]


def test_what_a_person_switched_off_stays_off(service, studio, ls, project):
    switch_off(ls, studio)
    for _ in range(2):
        assert not reactivate(service, project)
    assert not studio.webhooks[1]["is_active"]
    (found,) = said(service, ls)
    assert found[0] == "fail" and "by a person" in found[1]


def test_one_that_was_changed_and_on_since_is_switched_on_too(service, studio, ls, project):
    ls.update_webhook(1, studio.webhooks[1]["url"], send_payload=True, actions=["ANNOTATION_CREATED"])
    reactivate(service, project)  # sees it on
    fail_too_often(studio)
    assert reactivate(service, project)
    assert studio.webhooks[1]["is_active"] and studio.webhooks[1]["actions"] == ["ANNOTATION_CREATED"]


def test_where_nothing_is_known_it_is_switched_on_once(service, studio, ls, project):
    """As after an upgrade, or once Redis's data are lost."""
    service.queue.redis.flushall()
    switch_off(ls, studio)
    assert reactivate(service, project) and studio.webhooks[1]["is_active"]
    switch_off(ls, studio)
    assert not reactivate(service, project) and not studio.webhooks[1]["is_active"]


def test_only_its_own_is_switched_on_and_one_of_several(service, studio, ls, project, served):
    ls.create_webhook(1, "http://127.0.0.1:1/webhook")  # somebody else's
    ls.create_webhook(1, f"{served}/webhook")  # the same events a second time, without the secret
    ls.create_webhook(1, f"{served}/other")
    reactivate(service, project)
    for number in (1, 2, 3, 4):
        fail_too_often(studio, number)
    assert reactivate(service, project)
    assert [studio.webhooks[number]["is_active"] for number in (1, 2, 3, 4)] == [True, False, False, False]
    assert not reactivate(service, project)
    studio.webhooks[1]["is_active"], studio.webhooks[3]["is_active"] = False, True
    assert not reactivate(service, project)  # that one brings them
    assert not studio.webhooks[1]["is_active"]
    switch_off(ls, studio, 3)
    assert reactivate(service, project) and studio.webhooks[1]["is_active"]  # Label Studio's doing
    for number in (1, 3):
        switch_off(ls, studio, number)
    assert not reactivate(service, project)


def test_one_that_was_connected_by_hand_is_known_by_its_address(service, studio, project):
    assert studio.webhooks[1]["headers"].pop(HEADER)
    reactivate(service, project)
    fail_too_often(studio)
    assert reactivate(service, project)
    assert studio.webhooks[1]["is_active"]


def test_what_cannot_be_done_is_said_and_holds_up_nothing(service, studio, project, caplog):
    fail_too_often(studio)
    studio.guards = {"webhook"}
    assert reconcile(service, project) == 0
    assert "cannot be looked after" in caplog.text
    (failure,) = service.failures.of(project)
    assert failure.what == "webhook" and "doctor --fix" in failure.step
    studio.guards = set()
    reconcile(service, project)
    assert studio.webhooks[1]["is_active"] and service.failures.of(project) == []
    studio.stop()
    assert not reactivate(service, project)

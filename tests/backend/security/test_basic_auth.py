"""The login as Label Studio has it: given by connect, missed by doctor, put right by doctor --fix."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from skylight.backend.admin import doctor
from skylight.backend.admin.connect import connect
from skylight.backend.errors import ConfigError, LabelStudioError
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.security.basic_auth import BasicAuth
from skylight.backend.service import Service
from skylight.backend.settings import Settings
from tests.support.label_studio_double import KEY, Studio, serving

LOGIN = BasicAuth("label-studio", "correct horse")


@pytest.fixture
def closed(service: Service, studio: Studio) -> Service:
    """A service with the login, called by Label Studio as the real one does."""
    service.settings = replace(service.settings, user=LOGIN.user, password=LOGIN.password)
    studio.add_project()
    studio.asks = True
    return service


@pytest.fixture
def url(closed: Service) -> Iterator[str]:
    with serving(closed) as address:
        yield address


@pytest.fixture
def ls(studio: Studio) -> LabelStudio:
    return LabelStudio(studio.url, KEY)


def backend_finding(service: Service) -> Any:
    return next(each for each in doctor.findings(service) if each.what.endswith("ML backend"))


def test_only_the_whole_login_matches_and_none_matches_nothing():
    assert LOGIN.matches("label-studio", "correct horse")
    for user, password in (
        ("label-studio", ""),
        ("", "correct horse"),
        (None, None),
        ("label-studio", "Correct horse"),
    ):
        assert not LOGIN.matches(user, password)
    assert not LOGIN.matches("label-studio", "\ud800") and not LOGIN.matches("l\u00e4bel-studio", "correct horse")
    assert not BasicAuth().matches("", "") and not BasicAuth().matches(None, None)
    assert "correct" not in repr(LOGIN)


@pytest.mark.parametrize(("name", "other"), [("SKYLIGHT_USER", "PASSWORD"), ("SKYLIGHT_PASSWORD", "USER")])
def test_one_of_the_two_alone_is_refused(name, other):
    with pytest.raises(ConfigError, match=f"{name} is set and SKYLIGHT_{other} is not; set both, or neither"):
        Settings.from_env({name: "correct-horse"})


@pytest.mark.parametrize("value", ["short", "x" * 201, "schl\u00fcssel-wort", "tab\tin the middle"])
def test_a_password_that_cannot_be_sent_is_refused_and_not_shown(value):
    with pytest.raises(ConfigError, match="SKYLIGHT_PASSWORD: .*8 to 200") as caught:
        Settings.from_env({"SKYLIGHT_USER": "a", "SKYLIGHT_PASSWORD": value})
    assert value not in str(caught.value)
    with pytest.raises(ConfigError, match="SKYLIGHT_USER: .*colon"):
        Settings.from_env({"SKYLIGHT_USER": "a:b", "SKYLIGHT_PASSWORD": "long enough"})


def test_connect_gives_label_studio_the_login_once(closed, studio, ls, url):
    with pytest.raises(LabelStudioError, match="401"):
        connect(ls, closed.secret, 1, url)
    changes = connect(ls, closed.secret, 1, url, LOGIN)
    assert any(change.made for change in changes)
    row = studio.backends[1]
    kept = (row["auth_method"], row["basic_auth_user"], row["basic_auth_pass"])
    assert kept == ("BASIC_AUTH", LOGIN.user, LOGIN.password)
    assert backend_finding(closed).state == "ok"
    again = connect(ls, closed.secret, 1, url, LOGIN)
    assert not any(change.made for change in again)
    assert not any(LOGIN.password in change.what for change in [*changes, *again])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"auth_method": "NONE", "basic_auth_user": "", "basic_auth_pass": ""}, "has no user and password"),
        ({"basic_auth_user": "somebody"}, "has another user than SKYLIGHT_USER"),
        ({"basic_auth_pass": ""}, "has no password"),
        ({"basic_auth_pass": "an older one"}, "has another password than SKYLIGHT_PASSWORD"),
    ],
)
def test_doctor_names_a_login_that_label_studio_lacks_and_fixes_it(closed, studio, ls, url, change, said):
    connect(ls, closed.secret, 1, url, LOGIN)
    studio.backends[1].update(change)
    found = backend_finding(closed)
    assert (found.state, said in found.detail, "doctor --fix" in found.next_step) == ("fail", True, True)
    made = [one.what for one in doctor.fix(closed) if one.made]
    assert made == ["project 1 'pits': login: user label-studio and the password"]
    assert backend_finding(closed).state == "ok"
    assert not any(one.made for one in doctor.fix(closed))


def test_other_changes_bring_the_login_along(closed, studio, ls, url):
    connect(ls, closed.secret, 1, url, LOGIN)
    studio.backends[1]["is_interactive"] = False
    assert [one.what for one in doctor.fix(closed) if one.made] == [
        "project 1 'pits': interactive: clicks are answered"
    ]
    moved = url.replace("127.0.0.1", "localhost")
    assert connect(ls, closed.secret, 1, moved, LOGIN)[0].what == f"ML backend {moved}, moved from {url}"


def test_an_unsigned_webhook_is_a_failure_where_there_is_a_login(closed, studio, ls, url):
    connect(ls, closed.secret, 1, url, LOGIN)
    studio.webhooks[1]["headers"] = {}
    (closed.settings.home / "signed" / "1.1795340401").unlink()
    found = next(each for each in doctor.findings(closed) if each.what.endswith("webhook"))
    assert found.state == "fail" and "are refused" in found.detail


def test_without_a_login_nothing_is_looked_for(service, studio, ls, served):
    studio.add_project()
    connect(ls, service.secret, 1, served)
    assert "auth_method" not in studio.backends[1]
    assert backend_finding(service).state == "ok"

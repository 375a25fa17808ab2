"""Who answers at an ML backend's address, and whether Label Studio would call it."""

import pytest
from flask import Flask

from skylight.backend.labelstudio.project_connection import identify, is_private, missing_actions
from tests.support.label_studio_double import Studio, serve_app


def test_this_skylight_is_told_from_another_one_and_from_other_programs(service, studio: Studio, served):
    mine = service.secret.instance
    assert identify(served, mine) == identify(f"{served}/", mine) == "here"
    assert identify(served, "0" * 16) == "another"
    assert identify(studio.url, mine) == "foreign"
    assert identify("http://127.0.0.1:1", mine) == "silent"
    assert identify("http://skylight.invalid", mine) == "silent"
    assert identify("not an address", mine) == "silent"


@pytest.mark.parametrize(
    ("status", "body", "who"),
    [
        (200, '{"status": "UP", "model_class": "Skylight"}', "hosted"),  # by label-studio-ml
        (200, '{"status": "UP", "model_class": "Other"}', "foreign"),
        (200, "[]", "foreign"),
        (401, "Unauthorized", "locked"),
        (403, "Unauthorized", "foreign"),
        (404, "{}", "foreign"),
    ],
)
def test_what_does_not_say_which_skylight_it_is(status, body, who):
    app, headers = Flask("t"), {"Content-Type": "application/json", "WWW-Authenticate": 'Basic realm="x"'}
    app.add_url_rule("/health", view_func=lambda: (body, status, headers))
    with serve_app(app) as url:
        assert identify(url, "0" * 16) == who


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://127.0.0.1:9090", True),
        ("http://localhost:9090", True),
        ("http://192.168.3.4", True),
        ("http://172.17.0.2:9090", True),
        ("http://[::1]:9090", True),
        ("http://skylight.invalid:9090", True),
        ("https://8.8.8.8", False),
    ],
)
def test_addresses_that_label_studio_refuses_by_default(url, private):
    assert is_private(url) is private


def test_the_events_that_a_webhook_lacks():
    one = {"send_for_all_actions": False, "actions": ["ANNOTATION_CREATED", "TASKS_CREATED", "LABEL_LINK_CREATED"]}
    assert "ANNOTATIONS_DELETED" in missing_actions(one) and "TASKS_CREATED" not in missing_actions(one)
    assert missing_actions(one | {"send_for_all_actions": True}) == []

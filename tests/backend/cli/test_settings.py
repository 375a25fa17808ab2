"""`skylight settings`."""

import pytest

from skylight.backend.cli.settings import shown
from skylight.backend.errors import ConfigError
from skylight.backend.settings import Settings


def test_every_setting_is_listed_with_its_default_and_meaning(skylight):
    done = skylight("settings")
    words = " ".join(done.output.split())
    assert done.exit_code == 0
    for variable in Settings.table():
        assert f" {variable.env} = " in done.output and variable.help in words
        assert variable.env == "SKYLIGHT_HOME" or f"{variable.env} = {variable.default or '(unset)'} " in words
    assert max(map(len, done.output.splitlines())) <= 120


def test_values_that_are_set_are_marked_and_secrets_are_not_shown(skylight, monkeypatch):
    monkeypatch.setenv("SKYLIGHT_TILE", "512")
    monkeypatch.setenv("SKYLIGHT_USER", "ada")
    monkeypatch.setenv("REDIS_URL", "redis://skylight:tops3cret@redis:6379/0")
    for name in ("LABEL_STUDIO_API_KEY", "SKYLIGHT_WEBHOOK_SECRET", "SKYLIGHT_PASSWORD"):
        monkeypatch.setenv(name, "tops3cret-tops3cret")
    text = skylight("settings").output
    assert "* SKYLIGHT_TILE = 512  (default: 0)\n" in text and "* SKYLIGHT_USER = ada  (default: unset)\n" in text
    assert "  SKYLIGHT_THREADS = 8\n" in text
    assert "tops3cret" not in text
    assert "REDIS_URL = redis://skylight:***@redis:6379/0" in text and "* SKYLIGHT_PASSWORD = ***" in text


@pytest.mark.parametrize("variable", Settings.table())
def test_what_the_settings_do_not_log_is_not_shown_either(variable):
    fields = {"user": "somebody", "password": "somebody's"}
    hidden = "somebody's" if variable.field == "password" else "hidden-hidden-hidden"
    if isinstance(getattr(Settings(), variable.field), str):
        logged = repr(Settings(**fields | {variable.field: hidden}))
        assert (shown(variable.env, hidden) == "***") == (f"{variable.field}='***'" in logged)


def test_a_value_that_cannot_be_used_is_still_listed_and_then_refused(skylight, monkeypatch):
    monkeypatch.setenv("SKYLIGHT_TILE", "100")
    done = skylight("settings")
    assert "* SKYLIGHT_TILE = 100" in done.output and isinstance(done.exception, ConfigError)

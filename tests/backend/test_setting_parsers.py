"""URLs without their passwords."""

import pytest

from skylight.backend.setting_parsers import redact_url


def test_redacting_leaves_a_plain_url_alone():
    assert redact_url("redis://host:6379/1?x=1") == "redis://host:6379/1?x=1"
    assert redact_url("redis://:pw@host/1") == "redis://:***@host/1"
    assert redact_url("https://token@host/1") == "https://***@host/1"


def test_secrets_of_a_query_are_not_shown_whatever_follows_in_them():
    for query in ("password=a@b&db=1", "db=1&PASSWORD=ab&cd", "token=a#b", "x=1&signature=a/b?c"):
        shown = redact_url(f"redis://h.example:6379/0?{query}")
        assert shown.startswith("redis://h.example:6379/0?") and shown.endswith("=***")


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:6379/0",
        "redis://[::1]:6379/0?db=2",
        "unix:///tmp/a%2312/s",
        "http://h/a:b",
        "redis://h",
        "localhost:6379",
    ],
)
def test_urls_without_secrets_are_shown_as_they_are(url):
    assert redact_url(url) == url

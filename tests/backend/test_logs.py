"""How the log looks, and that no secret gets into it."""

import io
import json
import logging
from contextlib import contextmanager
from dataclasses import replace

import pytest

from skylight.backend.logs import JsonFormatter, TextFormatter, configure, secret_filter
from skylight.backend.settings import Settings
from skylight.backend.trace import CURRENT_TRACE, Trace
from tests.support.label_studio_double import CAPTURES, KEY

hide = secret_filter(["a-secret-that-is-known", ""])


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("GET http://x.example/a.png?sig=abc&t=1 failed", "GET http://x.example/a.png?*** failed"),
        ("/data/local-files/?d=folder/a.png (404)", "/data/local-files/?*** (404)"),
        ("redis://me:word@host:1/0 is away", "redis://***@host:1/0 is away"),
        ("headers {'Authorization': 'Token 0123456789abcdef'}", "headers {'Authorization': 'Token ***'}"),
        ("Bearer eyJhbGciOi.J9-x_y", "Bearer ***"),
        ("Basic dXNlcjpwYXNz", "Basic ***"),
        ("sent a-secret-that-is-known along", "sent *** along"),
        ("Is Skylight running? It is not; token authentication was off.",) * 2,
        ("who? me@example.com",) * 2,
    ],
)
def test_what_is_secret_is_left_out_and_nothing_else(text, hidden):
    assert hide(text) == hidden


def written(formatter: logging.Formatter, text: str, **more) -> str:
    record = logging.LogRecord("backend.x", logging.WARNING, "", 0, text, (), more.pop("exc_info", None))
    record.__dict__.update(more)
    return formatter.format(record)


def test_every_line_for_machines_is_one_object_with_the_id_of_its_request():
    token = CURRENT_TRACE.set(Trace("r7"))
    try:
        raise ValueError("no\nsuch a-secret-that-is-known")
    except ValueError as error:
        text = written(JsonFormatter(hide), "a\nb http://x/?q=1", exc_info=(type(error), error, error.__traceback__))
    finally:
        CURRENT_TRACE.reset(token)
    assert "\n" not in text and "a-secret" not in text and "q=1" not in text
    found = json.loads(text)
    assert (found["level"], found["logger"], found["message"], found["id"]) == (
        "WARNING",
        "backend.x",
        "a\nb http://x/?***",
        "r7",
    )
    assert "ValueError" in found["traceback"]
    assert found["time"].endswith("+00:00")


def test_a_sentence_is_a_line_for_people():
    assert written(TextFormatter(hide), "something at http://x/?q=1").endswith(
        " W backend.x: something at http://x/?***"
    )


@contextmanager
def configured(settings, monkeypatch, terminal=False):
    """The log as a new process has it with these settings; gives what is written to it."""
    root, out = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stderr", out)
    handlers, level = root.handlers, root.level
    root.handlers = []
    try:
        configure(settings)
        yield out
    finally:
        root.handlers = handlers
        root.setLevel(level)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("given", ["auto", "text", "json"])
def test_a_terminal_gets_sentences_and_everything_else_json_unless_told_otherwise(monkeypatch, terminal, given):
    with configured(replace(Settings(), log_format=given), monkeypatch, terminal) as out:
        logging.getLogger("backend.x").info("a sentence")
        logging.getLogger("rq.worker").info("what is said already")
        Trace("1", "health", method="GET").end("ok", 200)
    wants_json = {"auto": not terminal, "text": False, "json": True}[given]
    lines = out.getvalue().splitlines()
    assert len(lines) == (2 if wants_json else 1)  # people are spared probes that went well
    assert lines[0].startswith("{") == wants_json


@pytest.mark.parametrize("signed", [True, False])
def test_recorded_requests_leave_one_line_each_and_no_secret(client, service, monkeypatch, signed):
    secrets = {KEY, service.secret.value}
    paths = sorted(CAPTURES.glob("*.json"))
    with configured(replace(service.settings, log_level="DEBUG"), monkeypatch) as out:
        secrets |= send_all(client, service, paths, signed)
    text = out.getvalue()
    lines = [json.loads(line) for line in text.splitlines()]
    said = [line for line in lines if "outcome" in line]
    assert [line["id"] for line in said] == [f"test-{path.name[:2]}" for path in paths]
    assert all({"id", "project", "task", "what", "ms", "outcome"} <= set(line) for line in said)
    assert len(secrets) > 3
    for secret in [*secrets, "c29tZTpib2R5MQ", "in-the-query-1", "not-the-secret-at-all"]:
        assert secret not in text


def send_all(client, service, paths, signed):
    """Send recorded requests with secrets in every place; gives those that they hold themselves."""
    secrets = set()
    for path in paths:
        request = json.loads(path.read_text())
        secrets |= {text for name, text in words(request) if name in SECRET_NAMES}
        headers = {"Authorization": "Basic c29tZTpib2R5MQ==", "X-Request-ID": f"test-{path.name[:2]}"}
        headers |= {"X-Skylight-Secret": service.secret.value if signed else "not-the-secret-at-all"}
        query = {"token": "in-the-query-1"}
        answer = client.open(
            request["path"], method=request["method"], json=request.get("body"), headers=headers, query_string=query
        )
        assert answer.headers["X-Request-ID"] == f"test-{path.name[:2]}"
    return secrets


SECRET_NAMES = ("access_token", "token", "password", "login", "Authorization", "X-Skylight-Secret")


def words(value, name=""):
    """All texts in an object, with the name they have."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from words(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from words(each, name)
    elif isinstance(value, str) and len(value) > 5:
        yield name, value

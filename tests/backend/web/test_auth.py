"""Who may call what: the login, the webhook's secret, other sites' pages, and what browsers are told."""

import base64
import json
import re
import socket
from dataclasses import replace

import pytest
import requests
from flask.testing import FlaskClient

from skylight.backend.admin import doctor
from skylight.backend.allowed_hosts import HostList
from skylight.backend.queue.keys import key
from skylight.backend.security.webhook_secret import HEADER
from skylight.backend.service import Service
from skylight.backend.web import auth
from skylight.backend.web.app import create_app
from skylight.backend.web.csrf import COOKIE
from tests.support.label_studio_double import CONFIG, Studio, capture, serving

USER, PASSWORD = "label-studio", "correct horse"
P = "1.1795340435"


def basic(user: str = USER, password: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture(autouse=True)
def healthy(monkeypatch) -> None:
    """A doctor who finds nothing, at once: no page asks Redis in the background after its test."""
    monkeypatch.setattr(doctor, "findings", lambda service: [])


@pytest.fixture
def closed(service: Service) -> Service:
    """The service, with a login."""
    service.settings = replace(service.settings, user=USER, password=PASSWORD)
    return service


@pytest.fixture
def guest(closed: Service) -> FlaskClient:
    return create_app(closed.settings, closed).test_client()


def test_everything_but_health_asks_for_the_login(guest, closed):
    """Also what is added later, and what is not there."""
    app = guest.application
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule not in auth.PUBLIC_PATHS]
    assert len(rules) > 10 and any(rule.rule.startswith("/queues") for rule in rules)
    values = {"project": P, "number": 1, "task": "1", "filename": "page.css", "instance_number": 0}
    for rule in rules:
        adapter = app.url_map.bind("localhost")
        path = adapter.build(
            rule.endpoint, {name: values.get(name, "1") for name in rule.arguments}, force_external=False
        )
        for method in rule.methods - {"OPTIONS"}:
            assert guest.open(path, method=method).status_code == 401, (method, path)
    for path in ("/nothing", "/health/", "//health", "/health/../status", "/%68ealth/x", "/HEALTH", "/status?/health"):
        assert guest.get(path).status_code in (401, 308), path
    assert guest.get("/health").json["status"] == "UP"


def test_a_browser_is_asked_for_user_and_password_and_comes_in_with_them(guest):
    refused = guest.get("/")
    assert (refused.status_code, refused.headers["WWW-Authenticate"].split()[0]) == (401, "Basic")
    assert "SKYLIGHT_USER" in refused.json["error"] and "skylight connect" in refused.json["error"]
    assert guest.get("/", headers=basic()).status_code == 200
    assert guest.get("/status", headers=basic()).status_code == 200
    assert guest.post("/setup", json={"project": P}, headers=basic()).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        basic(password="correct hors"),
        basic(password="correct horse "),
        basic(user="Label-Studio"),
        basic(user="", password=""),
        basic(password=""),
        {"Authorization": "Basic"},
        {"Authorization": "Basic ====="},
        {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe:\x00").decode()},
        {"Authorization": "Basic " + base64.b64encode(USER.encode()).decode()},
        {"Authorization": f"Bearer {PASSWORD}"},
        {"Authorization": "Digest username=label-studio"},
        {"Authorization": basic()["Authorization"].replace("Basic", "Token")},
        {HEADER: PASSWORD},
    ],
)
def test_nothing_else_opens(guest, headers):
    assert guest.get("/status", headers=headers).status_code == 401


def test_without_a_login_set_all_may_come_and_no_empty_one_is_one(client):
    assert client.get("/status").status_code == 200
    assert client.get("/status", headers=basic("", "")).status_code == 200


def test_a_webhook_needs_its_secret_or_the_login_whatever_the_project_did_before(guest, closed):
    body = capture("21")
    assert not closed.secret.is_required(P)
    refused = guest.post("/webhook", json=body)
    assert refused.status_code == 401 and "doctor --fix" in refused.json["error"]
    assert guest.post("/webhook", json=body, headers={HEADER: "wrong"}).status_code == 401
    assert not closed.queue.redis.exists(key(P, "inbox"))
    assert guest.post("/webhook", json=body, headers=closed.secret.headers).status_code == 202
    assert closed.secret.is_required(P)
    training = {"action": "START_TRAINING", "project": body["project"]}
    assert guest.post("/webhook", json=training).status_code == 401
    assert guest.post("/webhook", json=training, headers=basic()).status_code == 202
    kinds = [json.loads(raw)["what"] for raw in closed.queue.redis.lrange(key(P, "inbox"), 0, -1)]
    assert kinds == ["annotation", "train"]


def test_the_webhooks_secret_opens_nothing_else(guest, closed):
    for path in ("/", "/status", "/queues/", "/webhook/", "/versions"):
        assert guest.get(path, headers=closed.secret.headers).status_code == 401, path
    assert guest.post("/predict", json={"tasks": []}, headers=closed.secret.headers).status_code == 401


@pytest.mark.parametrize("path", ["/setup", "/webhook", "/predict", "/projects/1.1795340435/train"])
@pytest.mark.parametrize("sent", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}])
def test_what_another_site_has_a_browser_post_is_refused_with_a_login_and_without(client, guest, path, sent):
    """A browser adds the login that it has kept; and on the same machine it reaches what listens on loopback only."""
    body = json.dumps({"project": P, "schema": "<View/>", "tasks": []})
    for asked in (client, guest):
        answer = asked.post(path, data=body, content_type="text/plain", headers=basic() | sent)
        assert answer.status_code == 403 and "another site" in answer.text


def test_every_answer_tells_browsers_to_do_nothing_with_it(guest, closed):
    answers = [
        guest.get("/health"),
        guest.get("/status"),
        guest.get("/status", headers=basic()),
        guest.get("/", headers=basic()),
        guest.get("/nothing", headers=basic()),
        guest.get("/page-files/page.css", headers=basic()),
        guest.get("/queues/", headers=basic()),
        guest.post("/webhook", data=b"{", headers=basic()),
        guest.post("/projects/1.1795340435/train", headers=basic()),
    ]
    for answer in answers:
        found = answer.headers
        assert found["X-Content-Type-Options"] == "nosniff" and found["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in found["Content-Security-Policy"]
        assert found["Referrer-Policy"] == "same-origin" and found["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in found
        answer.close()
        if not answer.request.path.startswith("/queues"):
            assert "unsafe" not in found["Content-Security-Policy"]
    assert [answer.status_code for answer in answers] == [200, 401, 200, 200, 404, 200, 200, 400, 403]


def test_a_label_studio_with_the_login_gets_through_over_http(closed: Service, studio: Studio):
    with serving(closed) as url:
        assert requests.post(f"{url}/setup", json={"project": P}, timeout=5).status_code == 401
        assert requests.post(f"{url}/setup", json={"project": P}, auth=(USER, PASSWORD), timeout=5).status_code == 200


def test_the_password_is_in_no_log_and_no_answer(guest, closed, caplog):
    caplog.set_level("DEBUG")
    said = [guest.get("/nothing\nx", headers=basic(password=word)).text for word in (PASSWORD, "wrong password")]
    assert "without the login" in caplog.text and "\nx" not in caplog.messages[-1]
    for text in (*said, caplog.text, repr(closed.settings)):
        assert PASSWORD not in text and "wrong password" not in text


PAGES = ("/", f"/projects/{P}", "/status", "/openapi.json", "/page-files/page.css", "/queues/")
CALLS = (("GET", "/health", "01"), ("POST", "/setup", "02"), ("POST", "/predict", "06"), ("POST", "/webhook", "21"))
REBOUND = {"Host": "evil.example:9090", "Origin": "http://evil.example:9090"}


def named(service: Service, text: str, host: str = "") -> FlaskClient:
    """A client of the service with SKYLIGHT_TRUSTED_HOSTS set so."""
    service.settings = replace(service.settings, trusted_hosts=HostList.parse(text))
    return create_app(service.settings, service, host).test_client()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_by_a_name_that_is_not_ours_no_page_is_shown_and_nothing_is_done(client, planted, host):
    planted.store.save_config(P, CONFIG)
    for path in PAGES:
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 403, path
        assert f"SKYLIGHT_TRUSTED_HOSTS={host.partition(':')[0]}" in answer.text
    page = client.get("/").text
    cookie, token = client.get_cookie(COOKIE).value, re.search(r'name="token" value="([^"]+)"', page)[1]
    headers = {"Host": host, "Origin": f"http://{host}", "Cookie": f"{COOKIE}={cookie}"}
    for more in ({}, {"Sec-Fetch-Site": "same-origin"}):
        answer = client.post(f"/projects/{P}/train", data={"token": token}, headers=headers | more)
        assert answer.status_code == 403 and "SKYLIGHT_TRUSTED_HOSTS" in answer.text
    assert not planted.queue.redis.exists(key(P, "train-queued"))
    own = {"Host": "localhost:9090", "Origin": "http://localhost:9090", "Cookie": f"{COOKIE}={cookie}"}
    assert client.post(f"/projects/{P}/train", data={"token": token}, headers=own).status_code == 303


@pytest.mark.parametrize(
    "host", ["skylight:9090", "web", "host.docker.internal:9090", "a.b.example", "x_y", "127.0.0.1"]
)
def test_label_studio_and_what_watches_may_call_by_any_name(client, planted, host):
    for method, path, number in CALLS:
        answer = client.open(path, method=method, json=capture(number), headers={"Host": host})
        assert answer.status_code in (200, 202), path
    for path in ("/ready", "/metrics", "/versions"):
        assert client.get(path, headers={"Host": host}).status_code in (200, 503), path


def test_a_page_by_such_a_name_may_not_call_as_label_studio_does(client, planted):
    for method, path, number in CALLS:
        answer = client.open(path, method=method, json=capture(number), headers=REBOUND)
        assert answer.status_code == 403, path
    assert client.get("/metrics", headers={"Host": "evil.example", "Sec-Fetch-Site": "same-origin"}).status_code == 403
    assert client.get("/metrics", headers={"Host": "evil.example", "Sec-Fetch-Site": "none"}).status_code == 200
    assert not planted.queue.names()


@pytest.mark.parametrize(
    ("host", "setting", "listens"),
    [
        *((host, "none", "") for host in ("localhost", "LOCALHOST:9090", "localhost.", "127.0.0.1:9090", "127.8.8.8")),
        *((host, "none", "") for host in ("[::1]:9090", "[::1]", "10.1.2.3:80", "8.8.8.8", "[2001:db8::1]:9090")),
        (socket.gethostname(), "none", ""),
        ("skylight.lan:9090", "none", "skylight.lan"),
        ("skylight.example.org", "skylight.example.org", ""),
        ("Skylight.Example.org:443", "skylight.example.org", ""),
        ("skylight.example.org:9090", "skylight.example.org:9090", ""),
        ("a.b.example.org", "other, *.example.org", ""),
        ("whatever", "*", ""),
    ],
)
def test_the_page_is_shown_by_our_own_names(service, host, setting, listens):
    assert named(service, setting, listens).get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("host", "setting"),
    [
        ("example.org", "*.example.org"),
        ("evilexample.org", "*.example.org"),
        ("skylight.example.org:1", "skylight.example.org:9090"),
        ("skylight.example.org.evil.example", "skylight.example.org"),
        ("evil.example@localhost", "none"),
        ("localhost/evil.example", "none"),
        ("[::1].evil.example", "none"),
        ("1.2.3.4.5", "none"),
        ("0x7f.1", "none"),
    ],
)
def test_a_name_that_only_looks_like_ours_is_none(service, host, setting):
    assert named(service, setting).get("/", headers={"Host": host}).status_code in (400, 403)


def test_with_a_login_any_name_will_do_unless_some_are_set(closed):
    """A browser keeps a login for each name, so a page by another name has none."""
    elsewhere = basic() | {"Host": "skylight.example.org"}
    assert named(closed, "none").get("/", headers=elsewhere).status_code == 200
    assert named(closed, "none").get("/", headers={"Host": "evil.example"}).status_code == 401
    assert named(closed, "other.example.org").get("/", headers=elsewhere).status_code == 403
    assert named(closed, "skylight.example.org").get("/", headers=elsewhere).status_code == 200
    assert named(closed, "other").post("/setup", json=capture("02"), headers=elsewhere).status_code == 200


def test_what_a_proxy_says_of_another_name_is_not_believed(client):
    headers = {"Host": "evil.example", "X-Forwarded-Host": "localhost", "Forwarded": "host=localhost"}
    assert client.get("/", headers=headers).status_code == 403
    assert client.get("/", headers={"Host": "localhost", "X-Forwarded-Host": "evil.example"}).status_code == 200

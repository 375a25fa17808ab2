"""What Label Studio was recorded to send to /webhook, and what is kept of it."""

import json
import logging
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from skylight.backend.admin import machine_checks
from skylight.backend.labelstudio.events import project_key
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.queue.keys import key
from skylight.backend.security.webhook_secret import HEADER
from skylight.backend.service import Service
from skylight.backend.web.app import create_app
from skylight.backend.worker import worker
from tests.support.label_studio_double import CONFIG, capture
from tests.support.planted_embeddings import brush, png, square

P = "1.1795340435"


def inbox(service: Service, project: str = P) -> list[dict[str, Any]]:
    return [json.loads(raw) for raw in service.queue.redis.lrange(key(project, "inbox"), 0, -1)]


def everything(service: Service) -> str:
    """All that is in Redis, as text."""
    found = []
    for name in service.queue.redis.scan_iter():
        kind = service.queue.redis.type(name)
        read = {
            b"string": service.queue.redis.get,
            b"list": lambda name: service.queue.redis.lrange(name, 0, -1),
            b"set": service.queue.redis.smembers,
            b"zset": lambda name: service.queue.redis.zrange(name, 0, -1),
            b"hash": service.queue.redis.hgetall,
        }[kind]
        found.append(f"{name}: {read(name)}")
    return "\n".join(found)


def test_the_project_is_named_as_in_setup_and_predict():
    assert project_key(capture("21")["project"]) == capture("02")["project"] == P
    assert project_key(capture("22")["project"]) == "4.1795341274"


@pytest.mark.parametrize("number", ["21", "28"])
def test_a_submitted_annotation_is_kept_with_its_image_and_masks(client, service, number):
    body = capture(number)
    assert client.post("/webhook", json=body).status_code == 202
    (event,) = inbox(service)
    assert (event["what"], event["id"], event["task"], event["skipped"]) == ("annotation", 1, 1, False)
    assert event["updated_at"] == body["annotation"]["updated_at"]
    assert event["result"] == body["annotation"]["result"]
    assert event["data"] == {"image": "/data/upload/1/db3bd25b-dog.jpg"}
    assert event["label_config"] == body["project"]["label_config"]
    assert service.queue.dirty(P) == 1
    assert service.loaded_embedder is None  # nothing is loaded for it


@pytest.mark.parametrize(
    ("number", "kept", "dirty"),
    [
        ("20", {"what": "train"}, 1),
        ("26", {"what": "annotation", "id": 3, "task": 3, "skipped": True, "result": []}, 1),
        ("30", {"what": "annotations_deleted", "ids": [1]}, 1),
        ("33", {"what": "config"}, 0),
        ("36", {"what": "tasks_created", "reconcile": True}, 0),
        ("37", {"what": "tasks_deleted", "ids": [6]}, 1),
    ],
)
def test_what_is_kept_of_each_recorded_event(client, service, number, kept, dirty):
    assert client.post("/webhook", json=capture(number)).get_json() == {"status": "queued"}
    (event,) = inbox(service)
    assert {name: event[name] for name in kept} == kept
    assert event["label_config"].startswith("<View>")
    assert service.queue.dirty(P) == dirty
    assert service.queue.queues["ingest"].count == 1


@pytest.mark.parametrize(("number", "project"), [("22", "4.1795341274"), ("23", "9.1795341428")])
def test_what_the_real_editor_submits_is_kept(client, service, number, project):
    client.post("/webhook", json=capture(number))
    (event,) = inbox(service, project)
    assert event["result"] == capture(number)["annotation"]["result"]


def test_tasks_without_annotations_ask_for_no_reconciliation(client, service):
    body = capture("36")
    body["tasks"][0]["total_annotations"] = 0
    client.post("/webhook", json=body)
    assert inbox(service)[0]["reconcile"] is False


def test_annotations_created_carries_lists(client, service):
    body = capture("21") | {"action": "ANNOTATIONS_CREATED"}
    one, other = body["annotation"], body["annotation"] | {"id": 2, "task": 2}
    tasks = [{"id": 2, "data": {"image": "/data/b.png"}}, body["task"]]
    assert client.post("/webhook", json=body | {"annotation": [one, other], "task": tasks}).status_code == 202
    assert [(e["id"], e["task"], e["data"]["image"]) for e in inbox(service)] == [
        (1, 1, "/data/upload/1/db3bd25b-dog.jpg"),
        (2, 2, "/data/b.png"),
    ]
    assert (service.queue.dirty(P), service.queue.queues["ingest"].count) == (2, 1)


def test_other_actions_are_answered_and_ignored(client, service):
    answer = client.post("/webhook", json=capture("33") | {"action": "LABEL_LINK_CREATED"})
    assert (answer.status_code, answer.get_json()) == (200, {"status": "ignored"})
    assert not everything(service)


def test_the_projects_secrets_go_nowhere(client, service, caplog):
    caplog.set_level(logging.DEBUG)
    for number in ("20", "21", "26", "28", "30", "33", "36", "37"):
        body = capture(number)
        body["project"] |= {"token": "s3cret-invite", "task_data_login": "s3cret-user", "task_data_password": "s3cret"}
        client.post("/webhook", json=body)
    away = Service(replace(service.settings, redis_url="unix:///nowhere/redis.sock"))
    create_app(away.settings, away).test_client().post("/webhook", json=body)
    on_disk = "".join(path.read_text() for path in (service.settings.home / "spool").glob("*.json"))
    assert "tasks_deleted" in everything(service) and "tasks_deleted" in on_disk and "TASKS_DELETED" in caplog.text
    assert "s3cret" not in everything(service) + on_disk + caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"project": None},
        {"project": {"id": 1}},
        {"project": {"id": 1, "created_at": "yesterday"}},
        {"annotation": None},
        {"annotation": {"id": 1}},
        {"annotation": {"id": "x", "updated_at": "2026"}},
        {"task": []},
        {"action": "ANNOTATIONS_CREATED"},
        {"action": "ANNOTATIONS_CREATED", "task": [{}], "annotation": [{"id": 1}]},
        {"action": "ANNOTATIONS_DELETED"},
        {"action": "TASKS_DELETED", "tasks": [{}]},
        {"action": "TASKS_CREATED", "tasks": "all"},
    ],
)
def test_what_cannot_be_understood_is_refused_in_a_sentence(client, service, change):
    answer = client.post("/webhook", json=capture("21") | change)
    assert answer.status_code == 400
    assert answer.get_json()["error"] and "Traceback" not in answer.text
    assert not everything(service)


def test_a_list_is_kept_whole_or_not_at_all(client, service):
    body = capture("21") | {"action": "ANNOTATIONS_CREATED", "task": []}
    body["annotation"] = [body["annotation"], {"id": 2}]
    assert client.post("/webhook", json=body).status_code == 400
    assert not inbox(service)


def send(client: FlaskClient, service: Service, number: str, secret: str | None = None) -> int:
    """The answer's status to a recorded event, with the right secret or the given one ("" for none)."""
    given = service.secret.value if secret is None else secret
    return client.post("/webhook", json=capture(number), headers={HEADER: given} if given else {}).status_code


def test_events_without_the_secret_are_taken_until_it_has_come_once(client, service):
    assert [send(client, service, "21", secret) for secret in ("", "wrong")] == [202, 202]
    assert send(client, service, "21") == 202
    assert [send(client, service, "21", secret) for secret in ("", "wrong", service.secret.value[:-1])] == [403] * 3
    assert send(client, service, "21") == 202
    assert len(inbox(service)) == 4
    assert send(client, service, "22", "") == 202  # another project, connected by hand


def test_a_refused_event_is_answered_with_what_to_do_and_changes_nothing(client, service, caplog):
    service.secret.require(P)
    before = everything(service)
    answer = client.post("/webhook", json=capture("33"))
    assert answer.status_code == 403
    assert HEADER in answer.get_json()["error"] and "skylight doctor --fix" in answer.get_json()["error"]
    assert everything(service) == before
    assert service.secret.value not in answer.text + caplog.text


def test_start_training_never_has_the_secret_and_is_taken_without_its_configuration(client, service):
    service.secret.require(P)
    assert send(client, service, "20", "") == 202
    (event,) = inbox(service)
    assert time.time() - event.pop("received") < 60
    assert event == {"what": "train", "label_config": ""}


def test_when_something_last_came_is_kept_but_not_of_calls_of_the_backend(client, service):
    send(client, service, "20", "")
    assert service.queue.redis.get(key(P, "heard")) is None
    send(client, service, "21", "")
    assert abs(int(service.queue.redis.get(key(P, "heard"))) - time.time()) < 5


def away_client(service: Service, path: Path) -> tuple[Service, FlaskClient]:
    """A service whose Redis should be at a socket where nobody is, yet."""
    away = Service(replace(service.settings, redis_url=f"unix://{path}"))
    return away, create_app(away.settings, away).test_client()


def submit(client: FlaskClient, number: int) -> float:
    """Send an annotation; gives the seconds to the answer, which must be a good one."""
    body = capture("21")
    body["annotation"] |= {"id": number}
    began = time.monotonic()
    assert client.post("/webhook", json=body).status_code == 202
    return time.monotonic() - began


def test_events_wait_on_disk_while_redis_is_away_and_go_first_when_it_is_back(
    service, tmp_path, broker_socket, monkeypatch
):
    monkeypatch.setattr("skylight.backend.queue.inbox.REPLAY_SECONDS", 60.0)
    away, client = away_client(service, tmp_path / "redis.sock")
    assert max(submit(client, n) for n in (1, 2, 3)) < 0.9
    assert len(list((away.settings.home / "spool").glob("*.json"))) == 3
    (tmp_path / "redis.sock").symlink_to(broker_socket)
    submit(client, 4)
    assert [event["id"] for event in inbox(away)] == [1, 2, 3, 4]
    assert (away.queue.dirty(P), away.queue.queues["ingest"].count) == (4, 1)
    assert not list((away.settings.home / "spool").glob("*.json"))
    submit(client, 5)
    assert [event["id"] for event in inbox(away)] == [1, 2, 3, 4, 5]


def test_behind_many_that_wait_on_disk_an_event_waits_too(service, client, monkeypatch):
    monkeypatch.setattr("skylight.backend.queue.inbox.REPLAY_SECONDS", -1.0)
    service.spool.add(P, {"what": "train"})
    submit(client, 7)
    assert not inbox(service)
    assert [event.get("id") for _, event in service.spool.take()] == [None, 7]


def damaged_files(home: Path) -> list[str]:
    return sorted(path.name.partition("-")[2] for path in (home / "damaged").iterdir())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"project": "1.17953',
        b"\x00" * 200,
        b"null",
        b'["1.1795340435", {}]',
        b'{"event": {"what": "train"}}',
        b'{"project": "../../etc", "event": {"what": "train"}}',
        b'{"project": "1.1795340435", "event": null}',
        b'{"project": "1.1795340435", "events": [7]}',
        b'{"sum":"0123456789abcdef","project": "1.1795340435", "events": []}',
        None,
    ],
)
def test_a_spooled_file_that_cannot_be_read_is_set_aside_and_holds_up_nothing(
    service, client, content, caplog, monkeypatch
):
    monkeypatch.setattr("skylight.backend.queue.inbox.REPLAY_SECONDS", 60.0)
    service.store.save_config(P, CONFIG)
    spool = service.settings.home / "spool"
    spool.mkdir(parents=True)
    if content is None:
        (spool / "00000000000000000001-bad.json").mkdir()
    else:
        (spool / "00000000000000000001-bad.json").write_bytes(content)
    service.spool.add(P, {"what": "train"})
    submit(client, 7)
    assert [event.get("id") for event in inbox(service)] == [None, 7]
    assert service.spool.is_empty()
    assert damaged_files(service.settings.home) == ["spool-00000000000000000001-bad.json"]
    assert "00000000000000000001-bad.json is damaged" in caplog.text
    assert service.queue.take_reconciliation(P) == "all"  # Label Studio knows what it held
    found = {each.what: each for each in machine_checks.findings(service)}["damaged files"]
    assert found.state == "warn" and "00000000000000000001-bad.json" in found.detail
    assert "bad.json" in service.failures.of(P)[0].reason


def test_one_that_cannot_even_be_moved_holds_up_nothing(service, client, monkeypatch):
    spool = service.settings.home / "spool"
    spool.mkdir(parents=True)
    (spool / "00000000000000000001-bad.json").write_bytes(b"")
    (service.settings.home / "damaged").write_bytes(b"where the folder should be")
    for number in (7, 8):
        submit(client, number)
    assert [event.get("id") for event in inbox(service)] == [7, 8]
    worker.start(service)


def test_a_worker_starts_and_events_are_taken_where_the_spool_cannot_be_used(service, client):
    service.settings.home.mkdir(parents=True, exist_ok=True)
    spool = service.settings.home / "spool"
    spool.mkdir()
    (spool / "lock").mkdir()
    (spool / "00000000000000000001-good.json").write_text(json.dumps({"project": P, "event": {"what": "train"}}))
    submit(client, 7)
    assert [event.get("id") for event in inbox(service)] == [7]
    worker.start(service)
    (spool / "lock").rmdir()
    submit(client, 8)
    assert [event.get("id") for event in inbox(service)] == [7, None, 8]


def test_an_event_in_redis_that_cannot_be_read_holds_up_no_other(planted, studio, client, work):
    project = studio.add_project()
    for odd in (b"{", b"[]", b"{}", b'{"what": "tasks_deleted"}', b'{"what": "annotations_deleted", "ids": 7}'):
        planted.queue.redis.rpush(key(project, "inbox"), odd)
    image, mask = square(0)
    annotation = studio.annotate(studio.add_task(project, png(image)), [brush(parse_config(CONFIG), mask)])
    client.post("/webhook", json=studio.webhook("ANNOTATION_CREATED", project, annotation))
    work()
    assert [each.annotation for each in planted.store.samples(project)] == [annotation["id"]]
    assert planted.queue.inbox_length(project) == 0


def test_a_redis_that_hangs_does_not_keep_label_studio_waiting(service, tmp_path):
    away, client = away_client(service, tmp_path / "redis.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "redis.sock"))
        silent.listen()
        body = capture("21") | {"action": "ANNOTATIONS_CREATED", "task": [capture("21")["task"]]}
        body["annotation"] = [body["annotation"] | {"id": n} for n in range(20)]
        began = time.monotonic()
        assert client.post("/webhook", json=body).status_code == 202
        assert time.monotonic() - began < 0.9
    assert [event["id"] for _, event in away.spool.take()] == list(range(20))


def test_a_submit_is_answered_in_milliseconds(client):
    assert sorted(submit(client, n) for n in range(20))[10] < 0.1

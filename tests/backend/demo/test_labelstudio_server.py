"""Running Label Studio, with a small program in its place: the real one takes half a minute to start."""

import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest
import requests

from skylight.backend.demo.labelstudio_server import LabelStudioServer
from skylight.backend.errors import ConfigError, Unavailable
from skylight.backend.process.ports import free_port

TOKEN = "0123456789abcdef0123456789abcdef01234567"
STAND_IN = """#!{python}
import json, os, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
data, port = sys.argv[sys.argv.index("--data-dir") + 1], int(sys.argv[sys.argv.index("--port") + 1])
json.dump([sys.argv[1:], dict(os.environ)], open(data + "/called.json", "w"))
print("migrating", flush=True)
{extra}
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, file=open(data + "/child.pid", "w"), flush=True)
class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def make(folder: Path, extra: str = "") -> LabelStudioServer:
    script = folder / "label-studio"
    script.write_text(STAND_IN.format(python=sys.executable, extra=extra))
    script.chmod(0o755)
    return LabelStudioServer(script, folder / "data", free_port(0), "a@example.com", "secret", TOKEN)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_entering_waits_until_it_answers_and_leaving_ends_all_its_processes(tmp_path):
    with make(tmp_path) as server:
        assert requests.get(f"{server.url}/health", timeout=5).status_code == 200
        child = int((server.data_dir / "child.pid").read_text())
        assert is_alive(child)
    assert free_port(server.port) == server.port
    deadline = time.monotonic() + 5
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)


def test_it_is_told_user_port_and_folder_and_inherits_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "ours")
    monkeypatch.setenv("DATABASE_URL", "postgres://somewhere")
    server = make(tmp_path)
    server.variables = {"DJANGO_DB": "default"}
    with server:
        arguments, environment = json.loads((server.data_dir / "called.json").read_text())
    assert arguments[0] == "start" and "--no-browser" in arguments
    assert arguments[arguments.index("--port") + 1] == str(server.port)
    assert arguments[arguments.index("--internal-host") + 1] == "127.0.0.1"
    assert environment["LABEL_STUDIO_USER_TOKEN"] == TOKEN
    assert environment["ML_BLOCK_LOCAL_IP"] == environment["SSRF_PROTECTION_ENABLED"] == "false"
    assert environment["DJANGO_DB"] == "default"
    assert not {"LABEL_STUDIO_API_KEY", "DATABASE_URL"} & set(environment)


def test_progress_is_told_while_waiting(tmp_path):
    server = make(tmp_path, "time.sleep(1.2)")
    told: list[tuple[float, str]] = []
    server.start()
    try:
        took = server.wait_ready(lambda seconds, line: told.append((seconds, line)))
    finally:
        server.stop()
    assert took >= 1.0
    assert told[-1][1] == "migrating" and told[0][0] < told[-1][0]


def test_one_that_dies_is_reported_with_the_end_of_its_log(tmp_path):
    server = make(tmp_path, "sys.exit('no such table: moon')")
    with pytest.raises(Unavailable, match="(?s)ended with 1.*no such table: moon"), server:
        pass


def test_one_that_never_answers_is_given_up_with_the_end_of_its_log(tmp_path):
    server = make(tmp_path, "time.sleep(600)")
    server.start()
    try:
        with pytest.raises(Unavailable, match="(?s)not ready after 1 s.*migrating"):
            server.wait_ready(timeout=1.0)
    finally:
        server.stop()


def test_one_that_does_not_want_to_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("skylight.backend.demo.labelstudio_server.STOP_SECONDS", 0.5)
    server = make(tmp_path, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    with server:
        pass
    assert free_port(server.port) == server.port


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_in_use_is_refused_up_front(tmp_path, host):
    server = make(tmp_path)
    message = f"Port {server.port} on 127.0.0.1 is in use"
    with socket.create_server((host, server.port)), pytest.raises(Unavailable, match=message):
        server.start()
    assert not server.log.exists()


def test_starting_twice_is_refused(tmp_path):
    with make(tmp_path) as server, pytest.raises(Unavailable, match="started already"):
        server.start()


def test_without_the_program_there_is_a_plain_error(tmp_path):
    server = LabelStudioServer(tmp_path / "none", tmp_path, 1, "a@example.com", "secret", TOKEN)
    with pytest.raises(ConfigError, match="no Label Studio at .*none"):
        server.start()
    with pytest.raises(Unavailable, match="has not been started"):
        server.wait_ready()
    server.stop()


def test_a_second_start_appends_to_the_log(tmp_path):
    server = make(tmp_path)
    for _ in range(2):
        with server:
            pass
    assert server.log.read_text().count("migrating") == 2
    assert os.listdir(server.data_dir).count("label-studio.log") == 1

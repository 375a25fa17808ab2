"""Commands that run servers: serve, web, worker."""

import sys

import pytest

from skylight.backend.process.ports import free_port
from skylight.backend.process.supervisor import MAX_FAILED_STARTS


def test_serve_ends_with_1_and_says_why_if_a_part_cannot_be_started(skylight, exit_status, monkeypatch, capfd):
    code = "import sys; print('skylight: no weights', file=sys.stderr); sys.exit(3)"
    monkeypatch.setattr("skylight.backend.process.supervisor.PROGRAM", [sys.executable, "-c", code])
    monkeypatch.setattr("skylight.backend.process.supervisor.RESTART_SECONDS", 0.01)
    monkeypatch.setenv("REDIS_URL", "unix:///nowhere/redis.sock")
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert exit_status("serve", "--port", free_port(0)) == 1
    said = capfd.readouterr().err
    assert said.count("no weights") >= MAX_FAILED_STARTS and "Traceback" not in said
    assert "cannot be started: it ended 6 times in a row" in said and "with status 3" in said


@pytest.mark.parametrize("command", ["web", "worker"])
def test_parts_alone_need_a_redis(skylight, command):
    done = skylight(command)
    assert done.exit_code == 2
    assert "set REDIS_URL" in done.output

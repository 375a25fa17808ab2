"""Tokens, guards, connection, doctor and cloud storage against a real Label Studio, from its first start on."""

import contextlib
import os
import re
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result
from PIL import Image

from skylight.backend.cli import main
from skylight.backend.demo.demo import await_skylight, label_config, png
from skylight.backend.demo.labelstudio_server import LabelStudioServer
from skylight.backend.images import download
from skylight.backend.labelstudio import image_urls
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.process.ports import free_port
from skylight.backend.process.supervisor import Supervisor
from skylight.backend.settings import Settings
from skylight.model.datasets import synthetic_scenes
from tests.e2e.bucket import bucket
from tests.e2e.conftest import BUILD, Rows
from tests.support.interactive import send_click

EMAIL, PASSWORD = "doctor@example.com", secrets.token_urlsafe(9)
LOGIN = "label-studio", secrets.token_urlsafe(9)  # of Skylight
ONLY_ML = {"SSRF_PROTECTION_ENABLED": "true"}  # beside ML_BLOCK_LOCAL_IP=false


@dataclass
class Ward:
    """What is examined."""

    server: LabelStudioServer
    personal: str
    environ: dict[str, str]
    skylight: str
    project: int

    @property
    def client(self) -> LabelStudio:
        return LabelStudio(self.server.url, self.personal)

    def run(self, *arguments: object, **environ: str) -> Result:
        """Run `skylight` with a personal token, as beside `skylight serve`."""
        env = {"SKYLIGHT_DATA": None, "SKYLIGHT_CASES": None, **self.environ, **environ}  # the tests' own, no settings
        return CliRunner(env=env).invoke(main.cli, [str(each) for each in arguments])

    def restart(self, **variables: str) -> None:
        self.server.stop()
        self.server.variables = variables
        self.server.start()
        self.server.wait_ready()


@pytest.fixture(scope="module")
def ward(request: pytest.FixtureRequest) -> Iterator[Ward]:
    """A Label Studio of which only one guard is open, a Skylight, and a project that nobody has connected."""
    home = BUILD / "e2e-doctor"
    shutil.rmtree(home, ignore_errors=True)
    executable = Path(request.config.getoption("--label-studio"))
    if not executable.is_file():
        pytest.fail(f"there is no Label Studio at {executable}; `make e2e` installs it")
    with contextlib.ExitStack() as running:
        server = LabelStudioServer(
            executable, home / "label-studio", free_port(8580), EMAIL, PASSWORD, secrets.token_hex(20), ONLY_ML
        )
        running.callback(server.stop)
        server.start()
        server.wait_ready()
        personal = personal_token(server.url)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SKYLIGHT_")}
        environ = inherited | {
            "LABEL_STUDIO_URL": server.url,
            "LABEL_STUDIO_API_KEY": personal,
            "SKYLIGHT_HOME": str(home / "skylight"),
            "REDIS_URL": "",
            "SKYLIGHT_USER": LOGIN[0],
            "SKYLIGHT_PASSWORD": LOGIN[1],
            "SKYLIGHT_ALLOWED_HOSTS": "127.0.0.1",  # the bucket's presigned addresses
        }
        port = free_port(9590)
        running.enter_context(Supervisor(Settings.from_env(environ), environ, "127.0.0.1", port))
        await_skylight(f"http://127.0.0.1:{port}", threading.Event())
        client = LabelStudio(server.url, personal)
        project = int(client.create_project("e2e doctor", label_config(["Pit"]))["id"])
        client.import_files(project, {"a.png": png(Image.fromarray(synthetic_scenes.scene(1).image))})
        print("\nLabel Studio and Skylight run", file=sys.stderr)
        yield Ward(server, personal, environ, f"http://127.0.0.1:{port}", project)


def session(url: str) -> requests.Session:
    """A login as the browser has it."""
    made = requests.Session()
    made.get(f"{url}/user/login/", timeout=30)
    form = {"email": EMAIL, "password": PASSWORD, "csrfmiddlewaretoken": made.cookies["csrftoken"]}
    made.post(f"{url}/user/login/", data=form, headers={"Referer": url}, timeout=30).raise_for_status()
    made.headers.update({"X-CSRFToken": made.cookies["csrftoken"], "Referer": url})
    return made


def personal_token(url: str) -> str:
    """Make the user's personal access token, as "Create" in Account & Settings does."""
    with session(url) as browser:
        answer = browser.post(f"{url}/api/token/", json={}, timeout=30)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])


def found(output: str) -> dict[str, str]:
    """State by what was looked at, of the doctor's output."""
    what = r"project \d+ '[^']*': [^:]*|Redis: persistence|[^:]*"
    lines = re.findall(rf"^(ok|warn|fail) +({what}): ", output, re.MULTILINE)
    return {what.rpartition("': ")[2]: state for state, what in lines}


def test_both_kinds_of_token_open_the_api_and_images(ward: Ward) -> None:
    (task,) = ward.client.tasks(ward.project)
    clock = time.monotonic()
    for key in (ward.personal, ward.server.token):
        client = LabelStudio(ward.server.url, key, clock=lambda: clock)
        settings = Settings(label_studio_url=ward.server.url, label_studio_api_key=key)
        assert client.whoami() == EMAIL
        assert download.fetch(task.data["image"], settings, client).startswith(b"\x89PNG")
    client = LabelStudio(ward.server.url, ward.personal, clock=lambda: clock)
    first = client.headers()
    clock += 299
    assert client.headers() != first and client.whoami() == EMAIL


def test_the_guards_are_named_one_by_one_and_then_the_rest_is_repaired(ward: Ward) -> None:
    refused = ward.run("connect", "--project", ward.project, "--url", ward.skylight)
    assert "Start Label Studio with SSRF_PROTECTION_ENABLED=false in its environment" in str(refused.exception)
    assert "ML_BLOCK" not in str(refused.exception)
    assert [row["state"] for row in ward.client.ml_backends(ward.project)] == ["CO"]
    assert ward.client.webhooks(ward.project) == []
    trapped = ward.run("doctor")
    assert found(trapped.output)["webhook"] == "fail" and "connected but no webhook" in trapped.output
    assert "Start Label Studio with SSRF_PROTECTION_ENABLED=false too" in trapped.output
    ward.restart()
    fixed = ward.run("doctor", "--fix")
    print(fixed.output, file=sys.stderr)
    assert "done project" in fixed.output and fixed.exit_code == 0, fixed.output
    # What was tried while Label Studio was away is told until it is tried again.
    now = "\n".join(line for line in fixed.output.splitlines() if "did not answer" not in line)
    assert set(found(now).values()) == {"ok"}
    again = ward.run("connect", "--project", ward.project, "--url", ward.skylight)
    assert again.output.endswith("Nothing had to be changed.\n") and "done" not in again.output


def test_an_annotation_is_announced_with_the_secret_and_without_it_refused(ward: Ward) -> None:
    (task,) = ward.client.tasks(ward.project)
    ward.client.create_annotation(task.id, [])
    doctor = ward.run("doctor").output
    assert re.search(r"ok +project .*: events: the last came \d s ago", doctor), doctor
    assert ward.client.newest_annotation(ward.project)
    body = {"action": "TASKS_DELETED", "tasks": [{"id": task.id}], "project": ward.client.project(ward.project)}
    answer = requests.post(f"{ward.skylight}/webhook", json=body, timeout=5)
    assert (answer.status_code, "skylight doctor --fix" in answer.text) == (401, True)
    (webhook,) = ward.client.webhooks(ward.project)
    ward.client.update_webhook(webhook["id"], webhook["url"], headers={})
    assert found(ward.run("doctor").output)["webhook"] == "fail"
    assert found(ward.run("doctor", "--fix").output)["webhook"] == "ok"


def test_a_lost_login_is_named_and_given_again_and_training_is_asked_for_with_it(ward: Ward) -> None:
    (backend,) = ward.client.ml_backends(ward.project)
    shown = {name: backend[name] for name in ("state", "auth_method", "basic_auth_user", "basic_auth_pass_is_set")}
    assert list(shown.values()) == ["CO", "BASIC_AUTH", LOGIN[0], True]
    other = ward.run("doctor", SKYLIGHT_USER="somebody").output
    assert found(other)["ML backend"] == "fail" and "has another user than SKYLIGHT_USER" in other
    asked = ward.client.request("POST", f"/api/ml/{backend['id']}/train", json={}, timeout=60)
    print(asked, file=sys.stderr)
    with requests.Session() as session:
        session.auth = LOGIN
        status = session.get(f"{ward.skylight}/status", timeout=10).json()
        assert requests.get(f"{ward.skylight}/status", timeout=10).status_code == 401
    assert [name for name in status if name.startswith(f"{ward.project}.")]
    assert not any(LOGIN[1] in text for text in (other, ward.run("doctor", "--fix").output, str(backend)))


@pytest.mark.parametrize("presign", [True, False])
def test_pictures_in_a_bucket_are_answered_for(ward: Ward, presign: bool) -> None:
    seen: list[tuple[str, bool, bool]] = []
    name = f"bucket-{presign}".lower()
    with bucket(name, {"a b/c.png": png(Image.fromarray(synthetic_scenes.scene(2).image))}, seen) as endpoint:
        client = ward.client
        project = int(client.create_project(f"e2e {name}", label_config(["Pit"]))["id"])
        ward.run("connect", "--project", project, "--url", ward.skylight)
        assert (list(client.annotation_summaries(project)), client.newest_annotation(project)) == ([], None)
        storage = {"project": project, "bucket": name, "s3_endpoint": endpoint, "presign": presign}
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        client.request("POST", "/api/storages/s3", json={**storage, **keys})
        client.request("POST", f"/api/projects/{project}/import", json=[{"image": f"s3://{name}/a b/c.png"}])
        (task,) = client.tasks(project)
        (backend,) = client.ml_backends(project)
        pit = {"x": 50, "y": 50, "width": 0.3, "keypointlabels": ["Pit"]}
        size = synthetic_scenes.scene(2).image.shape
        point = {"original_width": size[1], "original_height": size[0], "image_rotation": 0, "is_positive": True}
        names = {"from_name": "point", "to_name": "image", "type": "keypointlabels", "id": "a"}
        answer: Any = send_click(client, backend["id"], task.id, {"result": [{**names, **point, "value": pit}]})
        assert len(answer["result"]) == 1
        assert ("a b/c.png", presign, not presign) in seen, seen
        assert image_urls.label_studio_path(task.data["image"], task.id).startswith(f"/tasks/{task.id}/resolve/")
        print(f"\n{task.data} -> {seen}", file=sys.stderr)


def test_a_wrong_address_and_a_dead_key_are_told_apart(ward: Ward, rows: Rows) -> None:
    nobody = ward.run("doctor", LABEL_STUDIO_URL="http://127.0.0.1:1").output
    assert found(nobody)["Label Studio"] == "fail" and "did not answer" in nobody
    wrong = ward.run("doctor", LABEL_STUDIO_URL=ward.skylight).output
    assert found(wrong)["Label Studio"] == "fail" and "LABEL_STUDIO_URL" in wrong
    began = time.monotonic()
    assert found(ward.run("doctor").output)["key"] == "ok"
    rows.add("doctor: seconds for three projects", time.monotonic() - began, "s")
    with session(ward.server.url) as browser:
        off = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": False}
        browser.post(f"{ward.server.url}/api/jwt/settings", json=off, timeout=30).raise_for_status()
    legacy = ward.run("doctor", LABEL_STUDIO_API_KEY=ward.server.token).output
    assert found(legacy)["key"] == "fail" and "API Tokens Settings" in legacy
    assert found(ward.run("doctor").output)["key"] == "ok"

"""A real Label Studio and a real Skylight, started once for all runs."""

import contextlib
import json
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from skylight.backend.demo.demo import await_skylight
from skylight.backend.demo.labelstudio_server import LabelStudioServer
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.process.ports import free_port
from skylight.backend.process.supervisor import Supervisor
from skylight.backend.security.webhook_secret import WebhookSecret
from skylight.backend.settings import Settings
from skylight.backend.store.opening import open_files

BUILD = Path(__file__).parents[2] / "build"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--label-studio", default=".venv-label-studio/bin/label-studio", help="Label Studio's program")


@dataclass
class Rows:
    """Measured figures; printed and written as they come."""

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, what: str, measured: float, unit: str, goal: str = "", ok: bool | None = None) -> None:
        self.rows.append(
            {"what": what, "measured": round(measured, 4), "unit": unit, "goal": goal, "ok": ok, "command": "make e2e"}
        )
        mark = "" if ok is None else ("  ok" if ok else "  MISSED")
        print(f"  {what:58} {measured:9.3f} {unit:8} {goal}{mark}", flush=True)
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(self.rows, indent=1))


@pytest.fixture(scope="session")
def rows() -> Rows:
    return Rows(BUILD / "e2e.json")


@dataclass(frozen=True)
class Stack:
    """What the runs talk to."""

    client: LabelStudio
    skylight: str
    secret: WebhookSecret
    login: tuple[str, str]  # e-mail and password
    key: str  # of Label Studio's API
    home: Path  # Skylight's


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    executable = Path(request.config.getoption("--label-studio"))
    if not executable.is_file():
        pytest.fail(f"there is no Label Studio at {executable}; `make e2e` installs it")
    home = BUILD / "e2e"
    shutil.rmtree(home, ignore_errors=True)
    token, login = secrets.token_hex(20), ("e2e@example.com", secrets.token_urlsafe(9))
    with contextlib.ExitStack() as running:
        server = LabelStudioServer(executable, home / "label-studio", free_port(8480), *login, token)
        running.callback(server.stop)
        began = time.monotonic()
        server.start()
        server.wait_ready()
        port = free_port(9490)
        environ = {
            name: value for name, value in os.environ.items() if name not in ("SKYLIGHT_DATA", "SKYLIGHT_CASES")
        } | {
            "LABEL_STUDIO_URL": server.url,
            "LABEL_STUDIO_API_KEY": token,
            "SKYLIGHT_HOME": str(home / "skylight"),
        }
        settings = Settings.from_env(environ)
        running.enter_context(Supervisor(settings, environ, "127.0.0.1", port))
        await_skylight(f"http://127.0.0.1:{port}", threading.Event())
        print(f"\nLabel Studio and Skylight run after {time.monotonic() - began:.0f} s", file=sys.stderr)
        yield Stack(
            LabelStudio(server.url, token),
            f"http://127.0.0.1:{port}",
            WebhookSecret(settings, open_files(settings)),
            login,
            token,
            settings.home,
        )


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser of its own, which only the thread that opens it may use; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no page is looked at")
    if not CHROMIUM:
        pytest.skip("there is no chromium: no page is looked at")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()

"""The demo: Label Studio with a project of procedural planetary scenes, connected to Skylight."""

import contextlib
import io
import json
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import click
import requests
from PIL import Image

from skylight.backend.admin.connect import connect
from skylight.backend.demo.labelstudio_server import LabelStudioServer
from skylight.backend.errors import Unavailable
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.process.ports import free_port
from skylight.backend.process.supervisor import Supervisor
from skylight.backend.security.basic_auth import BasicAuth
from skylight.backend.security.webhook_secret import WebhookSecret
from skylight.backend.settings import Settings
from skylight.backend.store.opening import open_files
from skylight.model.datasets import synthetic_scenes

TITLE = "Skylights"
LABEL = "Pit"
SCENES = 40
FIRST_SEED = 7000  # far from those of pretraining, which begin at a million
EMAIL = "demo@example.com"
COLORS = ("#e4572e", "#17bebb", "#ffc914", "#76b041", "#8e44ad")
SKYLIGHT_PORT = 9090
READY_SECONDS = 180.0


def label_config(labels: Sequence[str]) -> str:
    """A labeling configuration for brush masks made by smart key points and boxes.

    Label Studio fits the image to the window's height, which leaves room for one row below it: the clicks' labels.
    """
    names = "".join(
        f'<Label value="{label}" background="{COLORS[i % len(COLORS)]}"/>' for i, label in enumerate(labels)
    )
    return (
        "<View>\n"
        '  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
        '  <Header value="By a click (Alt: not this)" size="6"/>\n'
        f'  <KeyPointLabels name="point" toName="image" smart="true" smartOnly="true">{names}</KeyPointLabels>\n'
        '  <Header value="By a box" size="6"/>\n'
        f'  <RectangleLabels name="box" toName="image" smart="true" smartOnly="true">{names}</RectangleLabels>\n'
        '  <Header value="By hand" size="6"/>\n'
        f'  <BrushLabels name="mask" toName="image" smart="false">{names}</BrushLabels>\n'
        "</View>"
    )


@dataclass(frozen=True)
class DemoUser:
    """The login of the demo's only user in Label Studio."""

    email: str
    password: str
    token: str

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Load the login from a file that only its owner may read; create both if there is none."""
        if not path.is_file():
            user = cls(EMAIL, secrets.token_urlsafe(9), secrets.token_hex(20))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(json.dumps(asdict(user)))
        return cls(**json.loads(path.read_text()))


def run(settings: Settings, environ: Mapping[str, str], executable: Path, port: int, stop: threading.Event) -> None:
    """Start everything, print where it is, and wait until `stop` is set; then end everything that was started."""
    folder = settings.home / "demo"
    user = DemoUser.load_or_create(folder / "login.json")
    with contextlib.ExitStack() as stack:
        server = LabelStudioServer(
            executable, folder / "label-studio", _port("Label Studio", port), user.email, user.password, user.token
        )
        stack.callback(server.stop)
        step("Starting Label Studio, the first time takes a minute or two")
        server.start()
        skylight_port = _port("Skylight", SKYLIGHT_PORT)
        url = f"http://127.0.0.1:{skylight_port}"
        environ = {**environ, "LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": user.token}
        settings = replace(settings, label_studio_url=server.url, label_studio_api_key=user.token)
        step("Starting Skylight: broker, worker, web server")
        supervisor = stack.enter_context(Supervisor(settings, environ, "127.0.0.1", skylight_port))
        server.wait_ready(lambda seconds, _: _show_waiting(seconds, stop))
        await_skylight(url, stop)
        client = LabelStudio(server.url, user.token)
        project = make_project(client, folder / "truth")
        secret = WebhookSecret(settings, open_files(settings))
        connect(client, secret, project, url, BasicAuth.from_settings(settings))
        _introduce(server.url, project, user, url, settings.home)
        supervisor.watch(stop)
        step("Stopping")


def _introduce(label_studio: str, project: int, user: DemoUser, skylight: str, home: Path) -> None:
    """Print where everything is, and what to do first."""
    click.echo()
    click.secho(f"  Label Studio  {label_studio}/projects/{project}", bold=True)
    click.echo(f"  user          {user.email}\n  password      {user.password}")
    click.echo(f"  Skylight      {skylight}/\n  files         {home}")
    click.echo(
        "\nOpen a task, switch on Auto-Annotation at the bottom, choose the label under 'By a click' and the"
        "\nAuto-Detect tool, click a pit, accept, submit. After three tasks Skylight trains; the open tasks then"
        "\ncarry its masks. Ctrl-C ends everything; `make demo` goes on where you stopped."
    )


def make_project(client: LabelStudio, truth: Path) -> int:
    """Return the demo's project, created with its scenes if there is none; the true masks are written to `truth`."""
    for project in client.projects():
        if project["title"] == TITLE:
            return int(project["id"])
    files = {}
    truth.mkdir(parents=True, exist_ok=True)
    with click.progressbar(range(SCENES), label=f"Drawing {SCENES} planetary scenes") as seeds:
        for i in seeds:
            scene = synthetic_scenes.scene(FIRST_SEED + i)
            files[f"scene-{i:02d}.png"] = png(Image.fromarray(scene.image))
            (truth / f"scene-{i:02d}.png").write_bytes(png(Image.fromarray(scene.truth())))
    step(f"Making the project {TITLE!r}")
    number = int(client.create_project(TITLE, label_config([LABEL]), sampling="Uncertainty sampling")["id"])
    client.import_files(number, files)
    return number


def await_skylight(url: str, stop: threading.Event) -> None:
    """Wait until Skylight answers. Raises Unavailable if it does not."""
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and not stop.is_set():
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/health", timeout=2).ok:
                return
        time.sleep(0.2)
    raise Unavailable(f"Skylight did not answer at {url} within {READY_SECONDS:.0f} s; its messages above say why")


def png(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def step(text: str) -> None:
    """Print a step of the start."""
    click.secho(f"* {text}", fg="cyan")


def _port(name: str, preferred: int) -> int:
    port = free_port(preferred)
    if port != preferred:
        step(f"Port {preferred} is busy; {name} takes {port}")
    return port


def _show_waiting(seconds: float, stop: threading.Event) -> None:
    if stop.is_set():
        raise KeyboardInterrupt
    click.echo(f"\r  waiting for Label Studio, {seconds:.0f} s ", nl=False)

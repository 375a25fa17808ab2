"""The demo: a Label Studio of one's own with a project of procedural planetary scenes, connected to Skylight."""

import contextlib
import io
import json
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import requests
from PIL import Image

from skylight.backend.admin.connect import connect
from skylight.backend.demo.labelstudio_server import LabelStudioServer, free_port
from skylight.backend.errors import Unavailable
from skylight.backend.labelstudio.client import LabelStudio
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
COLOURS = ("#e4572e", "#17bebb", "#ffc914", "#76b041", "#8e44ad")
SKYLIGHT_PORT = 9090
READY_SECONDS = 180.0


def label_config(labels: Sequence[str]) -> str:
    """A labeling configuration for brush masks made by smart key points and boxes."""
    names = "".join(
        f'<Label value="{label}" background="{COLOURS[i % len(COLOURS)]}"/>' for i, label in enumerate(labels)
    )
    return (
        "<View>\n"
        '  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
        '  <Header value="By hand" size="6"/>\n'
        f'  <BrushLabels name="mask" toName="image" smart="false">{names}</BrushLabels>\n'
        '  <Header value="By a click (Alt: not this)" size="6"/>\n'
        f'  <KeyPointLabels name="point" toName="image" smart="true" smartOnly="true">{names}</KeyPointLabels>\n'
        '  <Header value="By a box" size="6"/>\n'
        f'  <RectangleLabels name="box" toName="image" smart="true" smartOnly="true">{names}</RectangleLabels>\n'
        "</View>"
    )


@dataclass(frozen=True)
class Login:
    """Who may come into the demo's Label Studio; made once and kept."""

    email: str
    password: str
    token: str

    @classmethod
    def kept(cls, path: Path) -> "Login":
        """The login in a file that only its owner may read, made if there is none."""
        if not path.is_file():
            made = cls(EMAIL, secrets.token_urlsafe(9), secrets.token_hex(20))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(json.dumps(asdict(made)))
        return cls(**json.loads(path.read_text()))


def run(settings: Settings, environ: Mapping[str, str], executable: Path, port: int, stop: threading.Event) -> None:
    """Start everything, say where it is, and stay until `stop` is set; then end everything that was started."""
    folder = settings.home / "demo"
    login = Login.kept(folder / "login.json")
    with contextlib.ExitStack() as stack:
        server = LabelStudioServer(
            executable, folder / "label-studio", _port("Label Studio", port), login.email, login.password, login.token
        )
        stack.callback(server.stop)
        step("Starting Label Studio, the first time takes a minute or two")
        server.start()
        own = _port("Skylight", SKYLIGHT_PORT)
        variables = {**environ, "LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": login.token}
        found = replace(settings, label_studio_url=server.url, label_studio_api_key=login.token)
        step("Starting Skylight: broker, worker, web server")
        supervisor = stack.enter_context(Supervisor(found, variables, "127.0.0.1", own))
        server.wait_ready(lambda seconds, _: _waiting(seconds, stop))
        await_skylight(f"http://127.0.0.1:{own}", stop)
        client = LabelStudio(server.url, login.token)
        project = make_project(client, folder / "truth")
        connect(
            client,
            WebhookSecret(found, open_files(found)),
            project,
            f"http://127.0.0.1:{own}",
            BasicAuth.from_settings(found),
        )
        click.echo()
        click.secho(f"  Label Studio  {server.url}/projects/{project}", bold=True)
        click.echo(f"  user          {login.email}\n  password      {login.password}")
        click.echo(f"  Skylight      http://127.0.0.1:{own}/\n  files         {settings.home}")
        click.echo(
            "\nOpen a task, switch on Auto-Annotation at the bottom, choose the label under 'By a click' and the"
            "\nAuto-Detect tool, click a pit, accept, submit. After three tasks Skylight trains; the open tasks then"
            "\ncarry its masks. Ctrl-C ends everything; `make demo` goes on where you stopped."
        )
        supervisor.watch(stop)
        step("Stopping")


def make_project(client: LabelStudio, truth: Path) -> int:
    """The demo's project, made with its scenes if it is not there yet; the truth masks go to a folder beside."""
    for project in client.projects():
        if project["title"] == TITLE:
            return int(project["id"])
    files = {}
    truth.mkdir(parents=True, exist_ok=True)
    with click.progressbar(range(SCENES), label=f"Drawing {SCENES} planetary scenes") as seeds:
        for i in seeds:
            made = synthetic_scenes.scene(FIRST_SEED + i)
            files[f"scene-{i:02d}.png"] = png(Image.fromarray(made.image))
            (truth / f"scene-{i:02d}.png").write_bytes(png(Image.fromarray(made.truth())))
    step(f"Making the project {TITLE!r}")
    made_project = client.create_project(TITLE, label_config([LABEL]), sampling="Uncertainty sampling")
    client.import_files(int(made_project["id"]), files)
    return int(made_project["id"])


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
    """A picture as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def step(text: str) -> None:
    """Say what is being done."""
    click.secho(f"* {text}", fg="cyan")


def _port(name: str, preferred: int) -> int:
    found = free_port(preferred)
    if found != preferred:
        step(f"Port {preferred} is busy; {name} takes {found}")
    return found


def _waiting(seconds: float, stop: threading.Event) -> None:
    if stop.is_set():
        raise KeyboardInterrupt
    click.echo(f"\r  waiting for Label Studio, {seconds:.0f} s ", nl=False)

"""The connection of a project of Label Studio with Skylight: its ML backend and its webhooks."""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import requests

from skylight.backend.labelstudio.client import LabelStudio

TITLE = "Skylight"  # of the ML backends that Skylight connects itself
HEALTH_SECONDS = 2.0  # for an ML backend to say what it is; Label Studio gives it 1 s
# What Skylight works with of all that Label Studio can send to a project's webhook.
ACTIONS = (
    "ANNOTATION_CREATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_DELETED",
    "TASKS_CREATED",
    "TASKS_DELETED",
    "PROJECT_UPDATED",
)

BackendIdentity = Literal["here", "another", "hosted", "locked", "foreign", "silent"]
Identify = Callable[[str], BackendIdentity]


def identify(url: str, instance: str) -> BackendIdentity:
    """What answers at an ML backend's URL.

    This Skylight ("here": its `WebhookSecret.instance` is `instance`), another Skylight, one hosted by label-studio-ml,
    which does not say which it is, a program that says nothing without a login ("locked": label-studio-ml with one, or
    a proxy), a foreign one, or none that can be reached from here ("silent").
    """
    try:
        answer = requests.get(f"{url.rstrip('/')}/health", timeout=HEALTH_SECONDS, allow_redirects=False)
    except requests.RequestException:
        return "silent"
    if answer.status_code == 401 and answer.headers.get("WWW-Authenticate", "").lower().startswith("basic"):
        return "locked"
    try:
        health = answer.json()
    except requests.JSONDecodeError:
        health = None
    if not isinstance(health, dict) or health.get("model_class") != "Skylight":
        return "foreign"
    if "instance" not in health:
        return "hosted"
    return "here" if health["instance"] == instance else "another"


@dataclass(frozen=True)
class ProjectLink:
    """A project's connection with Skylight, as Label Studio has it; objects are those of its API."""

    project: dict[str, Any]
    ml_backend: dict[str, Any]
    identity: BackendIdentity
    is_first: bool  # whether it is the first of the project's ML backends
    webhooks: tuple[dict[str, Any], ...]  # those to this ML backend
    strays: tuple[dict[str, Any], ...]  # active ones that bring the same events to this Skylight by another address

    @property
    def number(self) -> int:
        """The project's id."""
        return int(self.project["id"])

    @property
    def name(self) -> str:
        """The project, as messages call it."""
        return f"project {self.number} {self.project['title']!r}"

    @property
    def url(self) -> str:
        """The ML backend's address, without trailing slash."""
        return str(self.ml_backend["url"]).rstrip("/")

    @property
    def webhook_url(self) -> str:
        """Where the webhook has to go."""
        return f"{self.url}/webhook"


def find_link(
    client: LabelStudio, project: dict[str, Any], who: Identify, known: bool = False, url: str = ""
) -> ProjectLink | None:
    """The project's connection with Skylight; None if none of its ML backends looks like one.

    It is the one at `url` if there is one; else the one where this Skylight answers; else one with its title, or where
    another Skylight answers, or may; else, if the project is `known` to have called, one that cannot be reached from
    here, or asks for a login.
    Asking for ML backends makes Label Studio call /health and /setup of each.
    """
    rows = client.ml_backends(int(project["id"]))
    identified = [(row, who(str(row["url"]))) for row in rows]
    tests: list[Callable[[dict[str, Any], BackendIdentity], bool]] = [
        lambda row, who: bool(url) and str(row["url"]).rstrip("/") == url,
        lambda row, who: who == "here",
        lambda row, who: row.get("title") == TITLE,
        lambda row, who: who in ("another", "hosted"),
        lambda row, who: who in ("silent", "locked") and known,
    ]
    for test in tests:
        for row, answers in identified:
            if test(row, answers):
                return _link(client, project, row, answers, row is rows[0], who)
    return None


def _link(
    client: LabelStudio,
    project: dict[str, Any],
    row: dict[str, Any],
    answers: BackendIdentity,
    first: bool,
    who: Identify,
) -> ProjectLink:
    own, strays = [], []
    for webhook in client.webhooks(int(project["id"])):
        base, slash, end = str(webhook["url"]).rpartition("/")
        if base.rstrip("/") == str(row["url"]).rstrip("/") and end == "webhook":
            own.append(webhook)
        elif end == "webhook" and webhook["is_active"] and who(base) == "here":
            strays.append(webhook)
    return ProjectLink(project, row, answers, first, tuple(own), tuple(strays))


def missing_actions(webhook: dict[str, Any]) -> list[str]:
    """The events that a webhook does not send."""
    if webhook["send_for_all_actions"]:
        return []
    return [action for action in ACTIONS if action not in webhook["actions"]]


def is_private(url: str) -> bool:
    """Whether Label Studio refuses to call a URL by default.

    Its address is in a private network, or its host is not known here, as a container's.
    """
    try:
        entries: Iterable[Any] = socket.getaddrinfo(urlsplit(url).hostname, None)
    except OSError:
        return True
    return any(not ipaddress.ip_address(address[4][0]).is_global for address in entries)

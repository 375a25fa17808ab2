"""Connecting a project of Label Studio to Skylight through its API: ML backend, webhook with its secret, settings."""

import functools
from typing import Any, NoReturn

import redis

from skylight.backend.admin.findings import Change
from skylight.backend.errors import LabelStudioError, Unavailable
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.labelstudio.events import project_key
from skylight.backend.labelstudio.project_connection import (
    TITLE,
    BackendIdentity,
    ProjectLink,
    find_link,
    identify,
    missing_actions,
)
from skylight.backend.security.basic_auth import BasicAuth
from skylight.backend.security.webhook_secret import WebhookSecret
from skylight.backend.service import Service

# The variables that switch off the two guards of Label Studio 1.23.2 against calls into private networks.
ML_GATE = "ML_BLOCK_LOCAL_IP=false"
WEBHOOK_GATE = "SSRF_PROTECTION_ENABLED=false"
GUARD_MESSAGES = ("reserved network address", "URL was not allowed")  # of the guards' 403
NO_LOGIN = BasicAuth()
SAMPLING = "Uncertainty sampling"  # the open task with the lowest score comes next
DEFAULT_URL = "http://127.0.0.1:9090"


def connect(
    client: LabelStudio, secret: WebhookSecret, number: int, url: str = "", login: BasicAuth = NO_LOGIN
) -> list[Change]:
    """Connect a project: ML backend, interactive, with the login; webhook with its secret header; order of tasks and
    display of predictions.

    `url` is Skylight's address as Label Studio reaches it; by default that of the existing connection, or this
    machine's. What is right already is left alone. Raises LabelStudioError, and Unavailable if Label Studio's guards
    refuse.
    """
    who = functools.cache(lambda address: identify(address, secret.instance))
    project = client.project(number)
    link = find_link(client, project, who, url=url.rstrip("/"))
    url = url.rstrip("/") or (link.url if link else default_url(client.url))
    _check_identity(url, who(url))
    changes = [_connect_backend(client, project, link, url, login)]
    link = find_link(client, project, who, url=url)
    if link is None or link.url != url:
        raise LabelStudioError(f"Label Studio does not list the ML backend {url} that it has just taken; try again.")
    return changes + repair(client, secret, link, login)


def request_embeddings(service: Service, number: int) -> list[Change]:
    """Request that the images of a connected project are embedded; nothing if this process cannot reach Skylight's
    Redis.

    Skylight itself, on another machine then, requests the same when Label Studio first calls it for the project.
    """
    assert service.labelstudio is not None
    project = project_key(service.labelstudio.project(number))
    try:
        return [Change("images: embedded in the background", service.prefetch_requests.request_all(project))]
    except redis.RedisError:
        return []


def _check_identity(url: str, who: BackendIdentity) -> None:
    if who == "foreign":
        raise Unavailable(f"another program than Skylight answers at {url}; give the right address with --url")
    if who == "another":
        raise Unavailable(
            f"at {url} a Skylight with another secret answers; set SKYLIGHT_HOME (and SKYLIGHT_WEBHOOK_SECRET, if that "
            "one has it) as they are set there"
        )


def default_url(label_studio: str) -> str:
    """The address of `skylight serve`, if Label Studio is on this machine too. Raises Unavailable if it is not."""
    if label_studio.startswith(("http://127.0.0.1", "http://localhost")):
        return DEFAULT_URL
    raise Unavailable(
        f"Label Studio, at {label_studio}, is on another machine; give --url, Skylight's address as seen from there"
    )


def repair(client: LabelStudio, secret: WebhookSecret, link: ProjectLink, login: BasicAuth = NO_LOGIN) -> list[Change]:
    """Put right everything that belongs to an existing ML backend. Raises as `connect`."""
    changes = [
        *_set_login(client, link, login),
        _set_interactive(client, link, login),
        *_set_webhook(client, secret, link, login),
        *_set_project_settings(client, link.project),
    ]
    secret.require(project_key(link.project))
    return changes


def _connect_backend(
    client: LabelStudio, project: dict[str, Any], link: ProjectLink | None, url: str, login: BasicAuth
) -> Change:
    number, what = int(project["id"]), f"ML backend {url}"
    if link and link.url == url:
        return Change(what, False)
    try:
        if link is None:
            client.connect_ml_backend(number, url, TITLE, **login.ml_backend_fields)
            return Change(what, True)
        client.update_ml_backend(number, int(link.ml_backend["id"]), url, **login.ml_backend_fields)
    except LabelStudioError as error:
        # Label Studio refuses the webhook after it has stored the backend: then the webhook's own error says more.
        if not _is_guard_refusal(error):
            raise LabelStudioError(f"{error} {url} must be Skylight's address as seen from Label Studio.") from error
        if not any(str(row["url"]).rstrip("/") == url for row in client.ml_backends(number)):
            _raise_refused(url, "ML backend", f"{ML_GATE} and {WEBHOOK_GATE}")
        return Change(what, True)
    for webhook in link.webhooks:
        _save_webhook(client, link, url, int(webhook["id"]), {})
    return Change(f"{what}, moved from {link.url}", True)


def _set_login(client: LabelStudio, link: ProjectLink, login: BasicAuth) -> list[Change]:
    if not login:
        return []
    lacking = bool(login.problem(link.ml_backend))
    if lacking:
        client.update_ml_backend(
            link.number, int(link.ml_backend["id"]), str(link.ml_backend["url"]), **login.ml_backend_fields
        )
    return [Change(f"login: user {login.user} and the password", lacking)]


def _set_interactive(client: LabelStudio, link: ProjectLink, login: BasicAuth) -> Change:
    if not link.ml_backend["is_interactive"]:
        fields = {"is_interactive": True, **login.ml_backend_fields}
        client.update_ml_backend(link.number, int(link.ml_backend["id"]), str(link.ml_backend["url"]), **fields)
    return Change("interactive: clicks are answered", not link.ml_backend["is_interactive"])


def webhook_headers(secret: WebhookSecret, link: ProjectLink, login: BasicAuth) -> dict[str, str]:
    """The headers of a project's webhook: the secret, and the login where every call needs it, as with
    label-studio-ml.
    """
    return {**secret.headers, **(login.headers if link.identity == "locked" else {})}


def _set_webhook(client: LabelStudio, secret: WebhookSecret, link: ProjectLink, login: BasicAuth) -> list[Change]:
    """Have one webhook that sends all events, with the secret; others that send the same are switched off."""
    what = f"webhook {link.webhook_url}, all events, with its secret header"
    ranked = sorted(link.webhooks, key=lambda webhook: not webhook["is_active"])
    first = ranked[0] if ranked else None
    headers = {**((first or {}).get("headers") or {}), **webhook_headers(secret, link, login)}
    fields = {"is_active": True, "send_payload": True, "headers": headers}
    changed = first is None or missing_actions(first) != [] or any(first[name] != fields[name] for name in fields)
    if changed:
        everything = {"send_for_all_actions": True, "actions": []}
        _save_webhook(client, link, link.url, int(first["id"]) if first else 0, {**fields, **everything})
    changes = [Change(what, changed)]
    for other in [*(webhook for webhook in ranked[1:] if webhook["is_active"]), *link.strays]:
        client.update_webhook(int(other["id"]), str(other["url"]), is_active=False, actions=other["actions"])
        changes.append(Change(f"second webhook {other['url']}, switched off", True))
    return changes


def _save_webhook(client: LabelStudio, link: ProjectLink, url: str, webhook: int, fields: dict[str, Any]) -> None:
    """Make (0) or change a webhook to the ML backend at `url`."""
    try:
        if webhook:
            client.update_webhook(webhook, f"{url}/webhook", **fields)
        else:
            client.create_webhook(link.number, f"{url}/webhook", **fields)
    except LabelStudioError as error:
        if not _is_guard_refusal(error):
            raise
        _raise_refused(url, "webhook", WEBHOOK_GATE)


def _set_project_settings(client: LabelStudio, project: dict[str, Any]) -> list[Change]:
    settings = {"sampling": SAMPLING, "show_collab_predictions": True}
    texts = {"sampling": f"{SAMPLING}: least certain first", "show_collab_predictions": "predictions shown"}
    differing = {name: value for name, value in settings.items() if project.get(name) != value}
    if differing:
        client.update_project(int(project["id"]), **differing)
    return [Change(texts[name], name in differing) for name in settings]


def _is_guard_refusal(error: LabelStudioError) -> bool:
    return any(part in str(error) for part in GUARD_MESSAGES)


def _raise_refused(url: str, what: str, gates: str) -> NoReturn:
    raise Unavailable(
        f"Label Studio refuses the {what} at {url}, an address in a private network. Start Label Studio with {gates} "
        "in its environment, then run this again."
    )

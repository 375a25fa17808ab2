"""The checks of `skylight doctor` on a connected project: ML backend, webhook, events received, order of tasks."""

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import redis

from skylight.backend.admin.connect import ML_GATE, SAMPLING, WEBHOOK_GATE, webhook_headers
from skylight.backend.admin.findings import Finding
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.labelstudio.events import project_key
from skylight.backend.labelstudio.project_connection import ProjectLink, is_private, missing_actions
from skylight.backend.learning.webhook_reactivation import reactivated
from skylight.backend.queue.keys import key
from skylight.backend.security.basic_auth import BasicAuth
from skylight.backend.security.webhook_secret import HEADER
from skylight.backend.service import Service

SILENCE_SECONDS = 90.0  # the event of an annotation that is older than this should have come
NOT_COMPARED = {  # why it is not known whether an ML backend is this Skylight, by `BackendIdentity`
    "silent": "; not reachable from here, so not compared with this Skylight",
    "hosted": "; hosted by label-studio-ml, which does not say whether it is this Skylight",
    "locked": "; it tells nothing without a login, so it is not compared with this Skylight",
}
FIX = "Run: skylight doctor --fix"
PRIVATE = f"Start Label Studio with {ML_GATE} and {WEBHOOK_GATE}: it refuses to call addresses in private networks."


def findings(service: Service, client: LabelStudio, link: ProjectLink) -> list[Finding]:
    """The findings about a project's connection. Raises LabelStudioError."""
    return [
        _check_backend(service, link),
        *_check_webhooks(service, link),
        *_check_events(service, client, link),
        _check_order(link),
    ]


def _check_backend(service: Service, link: ProjectLink) -> Finding:
    what = f"{link.name}: ML backend"
    if link.identity in ("foreign", "another"):
        other = "another program" if link.identity == "foreign" else "another Skylight (other SKYLIGHT_HOME or secret)"
        step = f"Run: skylight connect --project {link.number} --url http://... with this Skylight's address."
        return Finding(what, "fail", f"at {link.url} {other} answers", step)
    if lacking := BasicAuth.from_settings(service.settings).problem(link.ml_backend):
        detail = f"{link.url} {lacking}, so Label Studio's calls are refused"
        return Finding(what, "fail", detail, FIX)
    if link.ml_backend["state"] != "CO":
        detail = f"Label Studio cannot use {link.url}: {link.ml_backend.get('error_message') or 'it does not answer'}"
        step = "Is Skylight running, and is that its address as seen from Label Studio?"
        return Finding(what, "fail", detail, f"{step} {PRIVATE}" if is_private(link.url) else step)
    if not link.ml_backend["is_interactive"]:
        return Finding(what, "warn", f"{link.url} is not asked for clicks: interactive preannotations are off", FIX)
    if not link.is_first:
        step = "Remove the ML backend before it: 'Retrieve predictions' asks only the first."
        return Finding(what, "warn", f"{link.url} is not the project's first", step)
    return Finding(what, "ok", f"{link.url}, connected, interactive{NOT_COMPARED.get(link.identity, '')}")


def _check_webhooks(service: Service, link: ProjectLink) -> Iterator[Finding]:
    active = [webhook for webhook in link.webhooks if webhook["is_active"]]
    if not active:
        yield _missing_webhook(link)
        return
    yield _check_webhook(service, link, active[0])
    what = f"{link.name}: webhook"
    if since := _reactivated(service, link):
        ago = _age(since)
        detail = f"Label Studio had switched it off, as after 50 failed deliveries; switched on again {ago} ago"
        step = "Was Skylight away, or not reached by Label Studio? What was missed has been fetched."
        yield Finding(what, "warn", detail, step)
    for webhook in [*active[1:], *link.strays]:
        yield Finding(what, "warn", f"{webhook['url']} brings the same events a second time", FIX)


def _missing_webhook(link: ProjectLink) -> Finding:
    detail, step = "connected but no webhook: clicks work, but Skylight never hears of a submitted annotation", FIX
    if link.webhooks:
        detail = f"{link.webhook_url} is switched off, by a person as far as is known, so Skylight leaves it so"
    elif is_private(link.url):
        step = f"Start Label Studio with {WEBHOOK_GATE} too. Then {FIX.lower()}"
    return Finding(f"{link.name}: webhook", "fail", detail, step)


def _check_webhook(service: Service, link: ProjectLink, webhook: dict[str, Any]) -> Finding:
    """Whether a webhook sends everything, with the headers that it needs."""
    what, problems = f"{link.name}: webhook", []
    if not webhook["send_payload"]:
        problems.append("sends no payload")
    if missing := missing_actions(webhook):
        problems.append(f"does not bring {', '.join(missing)}")
    headers = webhook.get("headers") or {}
    signed = service.secret.matches(headers.get(HEADER))
    expected = bool(service.settings.user) or service.secret.is_required(project_key(link.project))
    if not signed and expected:
        problems.append(f"lacks the right {HEADER} header, so its events are refused")
    needed = webhook_headers(service.secret, link, BasicAuth.from_settings(service.settings))
    if "Authorization" in needed and headers.get("Authorization") != needed["Authorization"]:
        problems.append("lacks the login without which label-studio-ml lets nothing in")
    if problems:
        return Finding(what, "fail", f"{link.webhook_url} {', '.join(problems)}", FIX)
    if not signed:
        return Finding(what, "warn", f"{link.webhook_url} carries no secret: anyone could send events", FIX)
    return Finding(what, "ok", f"{link.webhook_url}, all events, with the secret header")


def _reactivated(service: Service, link: ProjectLink) -> float:
    """When Skylight switched the webhook on again, as `time.time()` counts; 0 if it did not lately."""
    try:
        return reactivated(service, project_key(link.project))
    except redis.RedisError:  # machine_checks has a finding for it
        return 0.0


def _check_events(service: Service, client: LabelStudio, link: ProjectLink) -> Iterator[Finding]:
    """Whether the event of the newest annotation came: a webhook may exist and not be delivered."""
    what = f"{link.name}: events"
    newest, connected = client.newest_annotation(link.number), _timestamp(str(link.ml_backend["created_at"]))
    try:
        heard = int(service.queue.redis.get(key(project_key(link.project), "heard")) or 0)
    except redis.RedisError:
        return  # machine_checks has a finding for it
    created = _timestamp(newest) if newest else 0.0
    if created <= connected or heard >= created - SILENCE_SECONDS or time.time() - created < SILENCE_SECONDS:
        ago = f"the last came {_age(heard)} ago" if heard else "none came yet"
        yield Finding(what, "ok", ago)
        return
    detail = f"the newest annotation ({_age(created)} old) was never announced"
    step = (
        "If Skylight was down then, all is well: it is fetched at the next training. Else Label Studio's log says why."
    )
    if is_private(link.url):
        step += f" It delivers to private networks only with {WEBHOOK_GATE}."
    yield Finding(what, "warn", detail, step)


def _check_order(link: ProjectLink) -> Finding:
    what, sampling = f"{link.name}: order of tasks", link.project.get("sampling")
    if not link.project.get("show_collab_predictions"):
        return Finding(what, "warn", "predictions are not shown to annotators", FIX)
    if sampling != SAMPLING:
        return Finding(what, "warn", f"{sampling}: Label Studio does not serve the least certain task first", FIX)
    return Finding(what, "ok", str(sampling))


def _timestamp(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _age(since: float) -> str:
    """How long ago a time is, in words."""
    seconds = max(time.time() - since, 0.0)
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"

"""Skylight's webhook, switched on again where Label Studio has switched it off.

Label Studio (after 1.23) switches a webhook off once 50 deliveries in a row have failed, as while Skylight is away for
long, and nothing switches it on again. Who has done it shows in its `updated_at`, which a person's change moves and
Label Studio's own does not. What a person has switched off stays off; where that is not known, as a webhook was never
seen on, it is switched on once.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from skylight.backend.errors import LabelStudioError
from skylight.backend.labelstudio.project_connection import identify
from skylight.backend.queue.keys import key
from skylight.backend.security.webhook_secret import HEADER
from skylight.backend.service import Service
from skylight.backend.trace import record_error

SAID_SECONDS = 24 * 3600  # for how long the doctor and the page tell of it
FAILURE = "webhook"  # by which it is noted that it could not be switched on
STEP = "Run: skylight doctor --fix; it says what stands in the way"

Webhook = Mapping[str, Any]

log = logging.getLogger(__name__)


def reactivate(service: Service, project: str) -> bool:
    """Switch a project's webhook on again if Label Studio has switched it off; gives whether that was so.

    Only one that is Skylight's own, and only if none of its own is on. Where Label Studio does not answer, or refuses,
    the log says so. Raises redis.RedisError.
    """
    client = service.labelstudio
    if client is None:
        return False
    number, off = int(project.partition(".")[0]), None
    try:
        off = _switched_off(service, project, client.webhooks(number))
        if off is None:
            return False
        client.update_webhook(int(off["id"]), str(off["url"]), is_active=True, actions=off.get("actions") or [])
        _remember(service, project, client.webhooks(number))
    except LabelStudioError as error:
        log.warning("project %s: its webhook cannot be looked after: %s", project, error)
        record_error(error)
        if off is not None:
            service.failures.record(project, FAILURE, f"it is off and cannot be switched on: {error}", STEP)
        return False
    log.warning(
        "project %s: its webhook %s was off, as Label Studio switches it after 50 failed deliveries; it is on again",
        project,
        off["url"],
    )
    service.queue.redis.set(key(project, "webhook-on"), round(time.time()), ex=SAID_SECONDS)
    return True


def reactivated(service: Service, project: str) -> float:
    """When a project's webhook was last switched on again, as `time.time()` counts; 0 if not within a day."""
    return float(service.queue.redis.get(key(project, "webhook-on")) or 0)


def _switched_off(service: Service, project: str, webhooks: Sequence[Webhook]) -> Webhook | None:
    """The webhook to be switched on again, None if one of Skylight's is on, or a person has switched it off."""
    own = [webhook for webhook in webhooks if _is_signed(service, webhook)]
    if not any(_is_on(webhook) for webhook in own):
        others = [webhook for webhook in webhooks if webhook not in own and _leads_here(service, webhook)]
        own = others if not own or any(_is_on(webhook) for webhook in others) else own
    if any(_is_on(webhook) for webhook in own):
        _remember(service, project, webhooks)
        return None
    seen = _seen(service, project)
    if any(seen.get(str(webhook.get("id")), _state(webhook)) != _state(webhook) for webhook in own):
        return None
    return max(own, key=lambda webhook: int(webhook.get("id") or 0), default=None)


def _is_on(webhook: Webhook) -> bool:
    return bool(webhook.get("is_active", True))


def _is_signed(service: Service, webhook: Webhook) -> bool:
    return service.secret.matches((webhook.get("headers") or {}).get(HEADER))


def _leads_here(service: Service, webhook: Webhook) -> bool:
    base, _, end = str(webhook.get("url") or "").rstrip("/").rpartition("/")
    return end == "webhook" and identify(base, service.secret.instance) == "here"


def _state(webhook: Webhook) -> str:
    return str(webhook.get("updated_at") or "")


def _remember(service: Service, project: str, webhooks: Sequence[Webhook]) -> None:
    """Keep the state in which webhooks are seen on."""
    states = {str(webhook.get("id")): _state(webhook) for webhook in webhooks if _is_on(webhook)}
    service.queue.redis.set(key(project, "webhooks"), json.dumps({**_seen(service, project), **states}))
    service.failures.clear(project, FAILURE)


def _seen(service: Service, project: str) -> dict[str, str]:
    """The states in which webhooks were last seen on, by id."""
    found: Any = service.queue.redis.get(key(project, "webhooks"))
    return dict(json.loads(found)) if found else {}

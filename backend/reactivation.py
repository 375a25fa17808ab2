"""Skylight's webhook, switched on again where Label Studio has switched it off.

Label Studio (after 1.23) switches a webhook off once 50 deliveries in a row have failed, as while Skylight is away for
long, and nothing switches it on again. Who has done it shows in its `updated_at`, which a person's change moves and
Label Studio's own does not. What a person has switched off stays off.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from backend.errors import LabelStudioError
from backend.link import identify
from backend.queue import key
from backend.secret import HEADER
from backend.service import Service
from backend.trace import fail

SAID_SECONDS = 24 * 3600  # for how long the doctor and the page tell of it
SKEW_SECONDS = 60.0  # by which Label Studio's clock may differ from this machine's
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
    number = int(project.partition(".")[0])
    try:
        webhooks = client.webhooks(number)
        off = _switched_off(service, project, webhooks)
        if off is None:
            return False
        client.update_webhook(int(off["id"]), str(off["url"]), is_active=True, actions=off["actions"])
        _remember(service, project, client.webhooks(number))
    except LabelStudioError as error:
        log.warning("project %s: its webhook cannot be looked after: %s", project, error)
        fail(error)
        service.failures.note(project, FAILURE, f"it is off and cannot be switched on: {error}", STEP)
        return False
    log.warning(
        "project %s: Label Studio had switched its webhook %s off, as after 50 failed deliveries; it is on again",
        project,
        off["url"],
    )
    service.queue.redis.set(key(project, "webhook-on"), round(time.time()), ex=SAID_SECONDS)
    return True


def reactivated(service: Service, project: str) -> float:
    """When a project's webhook was last switched on again, as `time.time()` counts; 0 if not within a day."""
    return float(service.queue.redis.get(key(project, "webhook-on")) or 0)


def _switched_off(service: Service, project: str, webhooks: Sequence[Webhook]) -> Webhook | None:
    """The webhook that Label Studio has switched off, if none of Skylight's is on; else it is noted which are."""
    if any(each["is_active"] for each in webhooks if _is_signed(service, each)):
        _remember(service, project, webhooks)
        return None
    own = [each for each in webhooks if _is_signed(service, each) or _leads_here(service, each)]
    if any(each["is_active"] for each in own):
        _remember(service, project, webhooks)
        return None
    seen = _seen(service, project)
    heard = float(service.queue.redis.get(key(project, "heard")) or 0)
    found = [each for each in own if _by_label_studio(each, seen, heard)]
    return max(found, key=lambda each: (_is_signed(service, each), int(each["id"])), default=None)


def _by_label_studio(webhook: Webhook, seen: Mapping[str, str], heard: float) -> bool:
    """Whether nobody has changed a webhook since it was on: it was seen on in this state, or brought an event since."""
    changed = str(webhook.get("updated_at") or "")
    if not changed:
        return False
    same = seen.get(str(webhook["id"])) == changed
    return same or heard > datetime.fromisoformat(changed).timestamp() + SKEW_SECONDS


def _is_signed(service: Service, webhook: Webhook) -> bool:
    return service.secret.matches((webhook.get("headers") or {}).get(HEADER))


def _leads_here(service: Service, webhook: Webhook) -> bool:
    base, _, end = str(webhook["url"]).rstrip("/").rpartition("/")
    return end == "webhook" and identify(base, service.secret.instance) == "here"


def _remember(service: Service, project: str, webhooks: Sequence[Webhook]) -> None:
    """Keep the state in which webhooks are seen on."""
    states = {str(each["id"]): str(each.get("updated_at") or "") for each in webhooks if each["is_active"]}
    service.queue.redis.set(key(project, "webhooks"), json.dumps(states))
    service.failures.clear(project, FAILURE)


def _seen(service: Service, project: str) -> dict[str, str]:
    found: Any = service.queue.redis.get(key(project, "webhooks"))
    return dict(json.loads(found)) if found else {}

"""/ready: whether the service can do all of its work. What it misses is worth an alarm, and red on the page.

Without a login: no project, address or path is named here; the page and `skylight doctor` name them.
"""

import functools
from collections.abc import Callable, Sequence

from flask import Blueprint, Response, current_app

from skylight.backend.admin import machine_checks
from skylight.backend.admin.finding import Finding
from skylight.backend.service import Service
from skylight.backend.web.bounded import Bounded
from skylight.backend.web.http import json_response

SECONDS = 0.4  # for what is looked at on every call; the first call may wait as long again for the doctor
NAME = "skylight-alerts"
# What /ready calls what the doctor calls otherwise.
PUBLIC = {"Redis": "broker", "Redis: commands": "commands", "SAM": "checkpoint"}
SENTENCES = {
    "broker": "Redis does not answer",
    "commands": "Redis refuses a command that is needed",
    "worker": "no worker runs: nothing is learned",
    "checkpoint": "the SAM's weights are not there, or not the published ones",
    "inbox": f"an event has waited for more than {machine_checks.INBOX_SECONDS / 60:.0f} minutes",
    "webhook": "a project's webhook is missing, or its events are refused",
    "disk": "less than 1 GB is free where SKYLIGHT_HOME is, or it cannot be written",
}

blueprint = Blueprint("alerts", __name__)


@blueprint.route("/ready", methods=["GET"])
def ready() -> Response:
    """200, or 503 with what is missing."""
    found: Alerts = current_app.extensions[NAME]
    missing = found.missing()
    return json_response({"ready": not missing, "missing": missing}, 503 if missing else 200)


class Alerts:
    """What is to be put right at once: looked at now, and what takes long (webhooks) as the doctor found it last."""

    def __init__(self, service: Service, doctor: Callable[[], Sequence[Finding] | None]) -> None:
        self.doctor = doctor
        self.urgent = Bounded(functools.partial(machine_checks.urgent, service), SECONDS)

    def now(self) -> list[Finding]:
        """How what can be looked at quickly stands."""
        found = self.urgent.get()
        late = "this machine took too long to look at broker, workers, checkpoint and disk"
        return [Finding("Redis", "fail", late, "Is Redis reachable, and the disk?")] if found is None else found

    def findings(self) -> list[Finding]:
        """The doctor's findings with these among them: they are newer where they are worse, or say no less."""
        fresh = {each.what: each for each in self.now() if each.state == "fail" or each.what in machine_checks.WHOLE}
        return [*fresh.values(), *(each for each in self.doctor() or () if each.what not in fresh)]

    def missing(self) -> dict[str, str]:
        """What is missing, and what that means; empty if all is well."""
        names = {_public(each.what) for each in self.findings() if each.state == "fail"}
        return {name: sentence for name, sentence in SENTENCES.items() if name in names}


def _public(what: str) -> str:
    return "webhook" if what.endswith(": webhook") else PUBLIC.get(what, what)

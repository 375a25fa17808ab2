"""/ready: whether the service can do all of its work. What it lacks is worth an alarm, and red on the page.

It needs no login, so it names no project, address or path; the page and `skylight doctor` do.
"""

import functools
from collections.abc import Callable, Sequence

from flask import Blueprint, Response, current_app

from skylight.backend.admin import machine_checks
from skylight.backend.admin.findings import Finding
from skylight.backend.service import Service
from skylight.backend.web.background import BackgroundCall
from skylight.backend.web.http import json_response

SECONDS = 0.4  # for the quick checks of each call; the first call may wait as long again for the doctor
NAME = "skylight-alerts"
# The names in /ready of what the doctor names otherwise.
PUBLIC_NAMES = {"Redis": "broker", "Redis: commands": "commands", "SAM": "checkpoint"}
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
    alerts: Alerts = current_app.extensions[NAME]
    missing = alerts.missing()
    return json_response({"ready": not missing, "missing": missing}, 503 if missing else 200)


class Alerts:
    """What has to be put right at once: quick checks, made now, and slow ones (webhooks), as the doctor last found."""

    def __init__(self, service: Service, doctor: Callable[[], Sequence[Finding] | None]) -> None:
        self.doctor = doctor
        self.quick = BackgroundCall(functools.partial(machine_checks.quick_findings, service), SECONDS)

    def now(self) -> list[Finding]:
        """The findings of the quick checks."""
        findings = self.quick.get()
        if findings is None:
            detail = "this machine took too long to look at broker, workers, checkpoint and disk"
            return [Finding("Redis", "fail", detail, "Is Redis reachable, and the disk?")]
        return findings

    def findings(self) -> list[Finding]:
        """The quick findings, and the doctor's about anything else.

        A quick finding replaces the doctor's, which is older, if it is a failure or as complete.
        """
        complete = machine_checks.COMPLETE
        quick = {finding.what: finding for finding in self.now() if finding.state == "fail" or finding.what in complete}
        return [*quick.values(), *(finding for finding in self.doctor() or () if finding.what not in quick)]

    def missing(self) -> dict[str, str]:
        """What is missing, and what that means; empty if all is well."""
        names = {_public_name(finding.what) for finding in self.findings() if finding.state == "fail"}
        return {name: sentence for name, sentence in SENTENCES.items() if name in names}


def _public_name(what: str) -> str:
    return "webhook" if what.endswith(": webhook") else PUBLIC_NAMES.get(what, what)

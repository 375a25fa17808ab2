"""`skylight doctor`: checks of Label Studio, its projects and this machine, each with one `Finding`, and repairs."""

import functools
from collections.abc import Iterator
from typing import Any

import redis

from skylight.backend.admin import machine_checks, project_checks
from skylight.backend.admin.connect import repair
from skylight.backend.admin.findings import Change, Finding, State
from skylight.backend.errors import SkylightError
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.labelstudio.events import project_key
from skylight.backend.labelstudio.project_connection import Identify, find_link, identify
from skylight.backend.limits import MACHINE, PROJECT
from skylight.backend.security.basic_auth import BasicAuth
from skylight.backend.service import Service

MAX_PROJECTS = 100  # checked, the newest ones, and all that are known; each takes Label Studio some 30 ms
SKEW_WARN, SKEW_FAIL = 30.0, 300.0  # s; a presigned address stops working at 900
TESTED_RELEASE = "1.23"


def findings(service: Service) -> list[Finding]:
    """The findings of all checks. Takes a second or more; Label Studio calls Skylight back meanwhile, which must be
    answered.
    """
    return [
        *_check_label_studio(service),
        *_check_leftovers(service),
        *machine_checks.findings(service),
        *_current_failures(service),
    ]


def _current_failures(service: Service) -> Iterator[Finding]:
    """What failed, in a job or at Label Studio, and has not succeeded since."""
    for project in (*service.store.projects(), MACHINE):
        for failure in service.failures.of(project):
            name = "this machine" if project == MACHINE else f"project {project.partition('.')[0]}"
            often = f"; {failure.count} times" if failure.count > 1 else ""
            yield Finding(f"{name}: {failure.what}", "warn", f"{failure.reason}{often}", f"{failure.step}.")


def fix(service: Service) -> list[Change]:
    """Repair every connected project in Label Studio: login, webhook and its secret header, sampling, display of
    predictions.

    Raises LabelStudioError, and Unavailable if Label Studio's guards refuse.
    """
    client = service.labelstudio
    if client is None:
        return []
    who, known, changes = _identify_once(service), set(service.store.projects()), []
    for project in _checked_projects(client.projects(), known):
        link = find_link(client, project, who, project_key(project) in known)
        if link and link.identity not in ("foreign", "another"):
            repaired = repair(client, service.secret, link, BasicAuth.from_settings(service.settings))
            changes += [Change(f"{link.name}: {change.what}", change.made) for change in repaired]
    return changes


def _check_label_studio(service: Service) -> Iterator[Finding]:
    url, client = service.settings.label_studio_url, service.labelstudio
    if not url:
        yield Finding("Label Studio", "fail", "LABEL_STUDIO_URL is not set", "Set it to Label Studio's address.")
        return
    try:
        release, ahead = (client or LabelStudio(url, "")).version()
    except SkylightError as error:
        step = f"Open {url}/health on this machine; set LABEL_STUDIO_URL to where Label Studio answers from here."
        yield Finding("Label Studio", "fail", str(error), step)
        return
    tested = "" if release.startswith(f"{TESTED_RELEASE}.") else f"; Skylight is tested with {TESTED_RELEASE}"
    yield Finding("Label Studio", "ok", f"{release} at {url}{tested}")
    yield _check_clock(ahead)
    key = _check_key(client) if client else _missing_key()
    yield key
    if client and key.state == "ok":
        yield from _check_projects(service, client)


def _check_clock(ahead: float | None) -> Finding:
    if ahead is None:
        return Finding("clock", "warn", "Label Studio's answers carry no time", "Compare both machines' clocks.")
    state: State = "ok" if abs(ahead) <= SKEW_WARN else "warn" if abs(ahead) <= SKEW_FAIL else "fail"
    order = "ahead of" if ahead > 0 else "behind"
    detail = f"Label Studio's is {abs(ahead):.0f} s {order} this machine's" if abs(ahead) >= 2 else "agrees"
    return Finding("clock", state, detail, "" if state == "ok" else "Set both machines' clocks by NTP.")


def _missing_key() -> Finding:
    step = "Make a personal access token in Label Studio (Account & Settings) and set LABEL_STUDIO_API_KEY to it."
    return Finding("key", "fail", "LABEL_STUDIO_API_KEY is not set", step)


def _check_key(client: LabelStudio) -> Finding:
    kind = "personal access token" if client.personal else "legacy token"
    try:
        return Finding("key", "ok", f"{kind} of {client.whoami()}")
    except SkylightError as error:
        step = "Make a new personal access token in Label Studio (Account & Settings); set LABEL_STUDIO_API_KEY to it."
        if "legacy token authentication has been disabled" in str(error):
            step += " Or let an owner switch legacy tokens on (Organization > API Tokens Settings)."
        return Finding("key", "fail", f"{kind}: {error}", step)


def _check_projects(service: Service, client: LabelStudio) -> Iterator[Finding]:
    try:
        projects = client.projects()
    except SkylightError as error:
        yield Finding("projects", "fail", str(error), "See Label Studio's log.")
        return
    who, known = _identify_once(service), set(service.store.projects())
    any_connected = False
    for project in _checked_projects(projects, known):
        try:
            findings = _check_project(service, client, project, who, project_key(project) in known)
        except SkylightError as error:
            findings = [Finding(f"project {project['id']}", "fail", str(error), "See Label Studio's log.")]
        any_connected = any_connected or bool(findings)
        yield from findings
    if not any_connected:
        seen = f"none of {len(projects)} is connected" if projects else "the key's owner sees none"
        yield Finding("projects", "warn", seen, "Run: skylight connect --project ID")


def _check_project(
    service: Service, client: LabelStudio, project: dict[str, Any], who: Identify, known: bool
) -> list[Finding]:
    link = find_link(client, project, who, known)
    if link:
        return project_checks.findings(service, client, link)
    if not known:
        return []
    step = f"If it should be: skylight connect --project {project['id']}"
    return [Finding(f"project {project['id']} {project['title']!r}", "warn", "is not connected any more", step)]


def _check_leftovers(service: Service) -> Iterator[Finding]:
    """Projects that are kept but not worked on: those Label Studio has deleted, and names that are no project's."""
    try:
        gone, members = service.queue.gone(), service.queue.names()
    except redis.RedisError:  # machine_checks has a finding for it
        gone, members = {}, []
    for project, reason in sorted(gone.items()):
        detail = f"Label Studio does not have it any more: {reason}; its annotations and versions are kept"
        yield Finding(f"project {project}", "warn", detail, f"To delete them: skylight forget --project {project}")
    for name in sorted({*service.store.misnamed(), *(name for name in members if not PROJECT.fullmatch(name))}):
        detail = "it is no project of Label Studio's, so nothing is done for it"
        yield Finding(f"project {name}", "warn", detail, f"Run: skylight forget --project {name}")


def _checked_projects(projects: list[dict[str, Any]], known: set[str]) -> list[dict[str, Any]]:
    """The projects to ask Label Studio about: the newest, and the known ones."""
    return [project for i, project in enumerate(projects) if i < MAX_PROJECTS or project_key(project) in known]


def _identify_once(service: Service) -> Identify:
    """`identify`, which asks each address once."""
    return functools.cache(lambda url: identify(url, service.secret.instance))

"""What `skylight status` says: every project in some lines, failures with what to do about them."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import redis

from skylight.backend.limits import MACHINE
from skylight.backend.queue.progress import job_states
from skylight.backend.service import Service
from skylight.model.images.normalization import OWN, Normalisation

ASIDE_FIELDS = ("annotation", "task", "reason", "tries", "at", "again", "quarantined")  # of an Aside
JOB_FIELDS = ("running", "queued", "failed", "done", "total", "rate")  # of a JobState


def of_all(service: Service) -> dict[str, dict[str, Any]]:
    """Where every project stands, as GET /status; only what the store knows, and `away`, while Redis is away."""
    return {name: _of(service, name) for name in service.store.projects()}


def _of(service: Service, project: str) -> dict[str, Any]:
    try:
        return project_status(service, project)
    except redis.RedisError as error:
        samples = service.store.samples(project)
        served = {"model_version": service.version_name(project), "annotations": len(samples)}
        return {**served, "away": f"Redis does not answer ({type(error).__name__}); clicks work, training waits for it"}


def lines(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The same in words."""
    if not found:
        yield "no project has called yet; run: skylight connect --project ID"
    for project, state in found.items():
        yield f"project {project}: serves {state['model_version']}, {state['annotations']} annotations"
        if state.get("away"):
            yield f"  FAIL  {state['away']}"
            continue
        if (how := Normalisation.of(state["normalisation"])) != OWN:
            yield f"  rasters: {how}"
        if state.get("gone"):
            yield f"  GONE  Label Studio does not have it any more: {state['gone']}"
            yield f"        -> To delete what is kept of it, run: skylight forget --project {project}"
        waits = f"{state['inbox']} events wait, " if state["inbox"] else ""
        busy = [kind for kind, job in state["jobs"].items() if job["running"]]
        yield f"  {waits}{'everything is learned from' if state['up_to_date'] else 'a training is due'}{_busy(busy)}"
        for failure in state["failures"]:
            often = f", {failure['count']} times since {_when(failure['since'])}" if failure["count"] > 1 else ""
            yield f"  FAIL  {failure['what']}: {failure['reason']} ({_when(failure['at'])}{often})"
            yield f"        -> {failure['step']}"
        for each in state["set_aside"]:
            kind = "in quarantine" if each["quarantined"] else f"tried {each['tries']} times"
            yield f"  ASIDE annotation {each['annotation']} of task {each['task']}, {kind}: {each['reason']}"
        if state["set_aside"]:
            yield f"        -> Correct them in Label Studio, or run: skylight status --try-again {project}"


def _busy(kinds: list[str]) -> str:
    return f"; at work: {', '.join(kinds)}" if kinds else ""


def _when(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def project_status(service: Service, project: str) -> dict[str, Any]:
    """Where one project stands."""
    queue, samples = service.queue, service.store.samples(project)
    cards, gone = service.versions.cards(project), queue.gone().get(project)
    return {
        "model_version": service.version_name(project),
        "normalisation": service.normalisations.of(project).stored,
        "annotations": len(samples),
        "tasks": len({record.task for record in samples}),
        "inbox": queue.inbox_length(project),
        "up_to_date": not queue.inbox_length(project) and queue.trained(project) >= queue.dirty(project),
        "jobs": {job.kind: {name: getattr(job, name) for name in JOB_FIELDS} for job in job_states(queue, project)},
        "versions": [
            {
                name: card.get(name)
                for name in ("version", "created_at", "training_images", "validation", "seconds", "verdict")
            }
            for card in cards
        ],
        "failures": [asdict(each) for each in [*service.failures.of(project), *service.failures.of(MACHINE)]],
        "set_aside": [{name: getattr(each, name) for name in ASIDE_FIELDS} for each in service.asides.of(project)],
        **({"gone": gone} if gone else {}),  # how it is known that Label Studio has it no more
    }

"""Every project's state as JSON, for GET /status, and in words, for `skylight status`."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from skylight.backend.admin.project_state import ProjectState, project_state
from skylight.backend.service import Service
from skylight.model.images.normalization import PER_IMAGE, Normalization

ANNOTATION_FIELDS = ("annotation", "task", "reason", "tries", "at", "again", "quarantined")  # of a FailedAnnotation
JOB_FIELDS = ("running", "queued", "failed", "done", "total", "rate")  # of a JobState


def all_as_json(service: Service) -> dict[str, dict[str, Any]]:
    """Every project's state as JSON."""
    return {name: as_json(project_state(service, name)) for name in service.store.projects()}


def as_json(state: ProjectState) -> dict[str, Any]:
    """A project's state as JSON; only what the store knows, and `away`, while Redis is away."""
    queue = state.queue
    if queue is None:
        return {"model_version": state.model_version, "annotations": len(state.samples), "away": state.away}
    return {
        "model_version": state.model_version,
        "normalisation": state.normalization.to_json(),
        "annotations": len(state.samples),
        "tasks": state.tasks,
        "inbox": queue.inbox,
        "up_to_date": queue.up_to_date,
        "jobs": {job.kind: {name: getattr(job, name) for name in JOB_FIELDS} for job in queue.jobs},
        "versions": [dict(version.card) for version in state.versions],
        "failures": [asdict(failure) for failure in queue.failures],
        "set_aside": [{name: getattr(aside, name) for name in ANNOTATION_FIELDS} for aside in queue.failed_annotations],
        **({"gone": queue.gone} if queue.gone else {}),  # how it is known that Label Studio has it no more
    }


def lines(states: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """All projects' states, each as JSON, in words."""
    if not states:
        yield "no project has called yet; run: skylight connect --project ID"
    for project, state in states.items():
        yield f"project {project}: serves {state['model_version']}, {state['annotations']} annotations"
        if state.get("away"):
            yield f"  FAIL  {state['away']}"
        else:
            yield from _queue_lines(project, state)


def _queue_lines(project: str, state: Mapping[str, Any]) -> Iterator[str]:
    if (normalization := Normalization.from_json(state["normalisation"])) != PER_IMAGE:
        yield f"  rasters: {normalization}"
    if state.get("gone"):
        yield f"  GONE  Label Studio does not have it any more: {state['gone']}"
        yield f"        -> To delete what is kept of it, run: skylight forget --project {project}"
    waits = f"{state['inbox']} events wait, " if state["inbox"] else ""
    running = [kind for kind, job in state["jobs"].items() if job["running"]]
    at_work = f"; at work: {', '.join(running)}" if running else ""
    yield f"  {waits}{'everything is learned from' if state['up_to_date'] else 'a training is due'}{at_work}"
    for failure in state["failures"]:
        often = f", {failure['count']} times since {_time(failure['since'])}" if failure["count"] > 1 else ""
        yield f"  FAIL  {failure['what']}: {failure['reason']} ({_time(failure['at'])}{often})"
        yield f"        -> {failure['step']}"
    for aside in state["set_aside"]:
        kind = "in quarantine" if aside["quarantined"] else f"tried {aside['tries']} times"
        yield f"  ASIDE annotation {aside['annotation']} of task {aside['task']}, {kind}: {aside['reason']}"
    if state["set_aside"]:
        yield f"        -> Correct them in Label Studio, or run: skylight status --try-again {project}"


def _time(seconds: float) -> str:
    """A time as `time.time()` counts it, in UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"

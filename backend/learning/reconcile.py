"""Compares Label Studio's annotations with the store, by id and `updated_at`, as it does not repeat a lost webhook.

On two busy cores a project of 10,000 annotations takes 15 s, a glance at it 0.3 s.
"""

import logging
from typing import Any, NamedTuple

from skylight.backend.errors import LabelStudioError, NotFound
from skylight.backend.labelstudio.events import annotation_event, project_key
from skylight.backend.labelstudio.task_listing import AnnotationSummary
from skylight.backend.learning.ingest import apply_event, is_incomplete, record_worker_death, save_config
from skylight.backend.learning.webhook_reactivation import reactivate
from skylight.backend.queue.keys import key
from skylight.backend.queue.quarantine import State
from skylight.backend.queue.time_slice import TimeSlice
from skylight.backend.service import Service
from skylight.backend.store.samples import SampleRecord
from skylight.backend.trace import record_error

# Of Label Studio's project: with the time of the newest change of a task they tell of whatever was done to annotations
# (1.23.2: submit, update, skip, delete, deletion of many, of tasks, imports; each seen to change one of them).
COUNTERS = ("task_number", "total_annotations_number", "skipped_annotations_number")
UNCHANGED_SECONDS = 3600  # how long a glance that finds nothing new is enough
INCOMPLETE_SECONDS = 900  # the same where an annotation could not be made a sample, perhaps for its image

REFUSED = "reconciliation"  # what a failure by Label Studio is called

log = logging.getLogger(__name__)


def reconcile(service: Service, project: str, glance: bool = False, whole: bool = False) -> int:
    """Ingest the annotations that never came, remove those that are gone; gives how many samples changed.

    `glance`: only if anything has changed in Label Studio or in the store since the last time, which three requests
    tell. `whole`: until it is done; else another ingest job is requested for what is left when the time slice is over.
    Without Label Studio's address and key, or while it does not answer, nothing changes, and the log, the page and the
    doctor say so. Raises Stopping at a safe point if the process is to end.
    """
    if service.labelstudio is None:
        log.warning("project %s is not reconciled: set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY", project)
        return 0
    try:
        with service.queue.lock(project, "ingest") as held:
            if held:
                record_worker_death(service, project)
            changed = _reconcile(service, project, glance, whole) if held else 0
        service.failures.clear(project, REFUSED)
        return changed
    except LabelStudioError as error:
        log.warning("project %s is not reconciled: %s", project, error)
        record_error(error)
        service.failures.record(
            project, REFUSED, str(error), "It is tried again before the next training, and by itself"
        )
        return 0


def _reconcile(service: Service, project: str, glance: bool, whole: bool) -> int:
    assert service.labelstudio is not None
    number = int(project.partition(".")[0])
    response = _fetch_project(service, project, number)
    if response is None:
        return 0
    reactivate(service, project)
    save_config(service, project, str(response["label_config"]))
    state = "/".join(str(response.get(name)) for name in COUNTERS) + f"/{service.labelstudio.newest_change(number)}"
    seen = key(project, "reconciled")
    if glance and service.queue.redis.get(seen) == f"{state}/{service.store.count(project)}".encode():
        return 0
    time_slice = TimeSlice(service.queue, "ingest")
    changed, missing = _compare(service, project, number)
    time_slice.start_work()
    result = _ingest(service, project, number, missing, None if whole else time_slice)
    changed += result.added
    if changed:
        log.info("project %s: %d samples reconciled with Label Studio", project, changed)
    if result.ended:
        service.queue.request_reconciliation(project)
        service.queue.request(project, "ingest")
        return changed
    service.failures.clear(project, "damaged")
    # What changed in Label Studio since `state` was asked for makes the next glance look closer.
    valid = INCOMPLETE_SECONDS if result.added < len(missing) else UNCHANGED_SECONDS
    service.queue.redis.set(seen, f"{state}/{service.store.count(project)}", ex=valid)
    return changed


def _fetch_project(service: Service, project: str, number: int) -> dict[str, Any] | None:
    """Label Studio's project, None if it is not there any more: nothing is deleted, but the rounds leave it out."""
    assert service.labelstudio is not None
    try:
        response = service.labelstudio.project(number)
        reason = "" if project_key(response) == project else f"its project {number} is another one now, made later"
    except NotFound:
        reason = f"it answers that there is no project {number}, or none for the owner of LABEL_STUDIO_API_KEY"
    if not reason:
        service.queue.mark_found(project)
        return response
    if service.queue.mark_gone(project, reason):
        log.warning("project %s is not in Label Studio any more and is left out of the rounds: %s", project, reason)
    return None


def _compare(service: Service, project: str, number: int) -> tuple[int, dict[int, AnnotationSummary]]:
    """How many samples were removed, and the annotations by id that are to be made one."""
    assert service.labelstudio is not None
    stored = {record.annotation: record for record in service.store.samples(project)}
    held = {summary.id: summary for summary in service.labelstudio.annotation_summaries(number)}
    removed = 0
    for number_stored in stored:
        if number_stored not in held or held[number_stored].was_cancelled:
            removed += service.store.remove(project, number_stored)
    news = {
        summary.id: summary
        for summary in held.values()
        if not summary.was_cancelled
        and (summary.id not in stored or _is_news(service, project, stored[summary.id], _state(summary)))
    }
    failed_before = {failed.annotation for failed in service.quarantine.of(project)}
    service.quarantine.remove(project, *(failed_before - news.keys()))
    missing = {
        number: summary
        for number, summary in news.items()
        if number not in failed_before or not service.quarantine.holds(project, number, _state(summary))
    }
    return removed, missing


class _IngestResult(NamedTuple):
    """How many annotations were made samples, and whether the time slice ended before all were tried."""

    added: int
    ended: bool


def _ingest(
    service: Service, project: str, number: int, missing: dict[int, AnnotationSummary], time_slice: TimeSlice | None
) -> _IngestResult:
    """Make annotations samples; one at least, however short the time slice."""
    assert service.labelstudio is not None
    added = tried = 0
    if not missing:
        return _IngestResult(0, False)
    for annotation in service.labelstudio.annotations(number, only=sorted({one.task for one in missing.values()})):
        service.check_stop()
        if annotation["id"] not in missing:
            continue
        if tried and time_slice and time_slice.is_over:
            return _IngestResult(added, True)
        event = annotation_event(annotation, {"id": annotation["task"], "data": annotation["data"]}, "")
        added += apply_event(service, project, event)
        tried += 1
    return _IngestResult(added, False)


def _state(one: AnnotationSummary) -> State:
    return State(one.updated_at, one.ground_truth, one.reviewed)


def _is_news(service: Service, project: str, record: SampleRecord, state: State) -> bool:
    """Whether a sample is of an earlier state, or lacks regions of labels that there are by now."""
    return record.outdated(*state) or is_incomplete(service, project, record)

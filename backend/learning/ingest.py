"""Makes samples of events: embedding, label map and single objects. Idempotent by annotation id and `updated_at`."""

import logging
import re

from skylight.backend.errors import DATA_ERRORS, POISON_ERRORS, MediaError, SkylightError
from skylight.backend.labelstudio.events import Event
from skylight.backend.labelstudio.image_urls import image_url
from skylight.backend.labelstudio.label_map import label_map
from skylight.backend.labelstudio.region_reader import READER_VERSION
from skylight.backend.learning.agreement import agreement
from skylight.backend.queue.quarantine import state_of
from skylight.backend.queue.time_slice import TimeSlice
from skylight.backend.service import Service
from skylight.backend.store.samples import SampleRecord
from skylight.backend.trace import record_error
from skylight.model.images.decoding import ImageError

ELLIPSES = re.compile("<ellipse", re.IGNORECASE)  # in a configuration: a control for them

log = logging.getLogger(__name__)


def ingest_inbox(service: Service, project: str) -> int:
    """Apply the events in the inbox; an event leaves it when it is done. Gives how many there were.

    An annotation that cannot be used (its image is gone, say) goes to the quarantine and holds up nothing. When the
    time slice is over some events may be left for the next.
    """
    count = 0
    with service.queue.lock(project, "ingest") as held:
        if not held:  # another worker is at it
            return 0
        record_worker_death(service, project)
        time_slice = TimeSlice(service.queue, "ingest")
        time_slice.start_work()
        for event in service.queue.take_events(project):
            service.check_stop()
            apply_event(service, project, event)
            count += 1
            if time_slice.is_over:
                break  # the event is still in the inbox, and found to be done next time
    return count


def record_worker_death(service: Service, project: str) -> None:
    """Record by which annotation a worker died, if one did. To be called with the lock "ingest"."""
    if event := service.quarantine.take_unfinished(project):
        reason = "the worker ended while it was read: out of memory, perhaps, or stopped"
        _record_failure(service, project, event, reason, own=False, death=True)


def retry_failed(service: Service, project: str) -> bool:
    """Try the failed annotations that are due, for a time slice at most; gives whether a sample changed.

    Those that Label Studio can be asked for are left to a reconciliation.
    """
    changed = False
    with service.queue.lock(project, "ingest") as held:
        time_slice = TimeSlice(service.queue, "ingest")
        for failed in service.quarantine.due(project) if held else ():
            if time_slice.is_over:
                break  # and due still
            if failed.event is not None:
                # Without its configuration, which is of when it came.
                changed |= apply_event(service, project, {**failed.event, "label_config": ""})
            else:
                service.queue.request_reconciliation(project)
    return changed


def apply_event(service: Service, project: str, event: Event) -> bool:
    """Apply one event to the store; gives whether it changed a sample. One that cannot be read is left out."""
    try:
        return _apply(service, project, event)
    except DATA_ERRORS as error:
        log.exception("project %s: the event %.100r cannot be read and is left out", project, event)
        record_error(error)
        service.queue.request_reconciliation(project)
        return False


def _apply(service: Service, project: str, event: Event) -> bool:
    if event.get("label_config"):
        save_config(service, project, event["label_config"])
    if event.get("reconcile"):
        service.queue.request_reconciliation(project)
    what = event.get("what")
    if what == "train":
        service.queue.request_training(project)
    if what == "tasks_created":
        service.prefetch_requests.request_all(project)
    if what == "annotations_deleted":
        service.quarantine.remove(project, *event["ids"])
        return any([service.store.remove(project, each) for each in event["ids"]])
    if what == "tasks_deleted":
        service.quarantine.remove_tasks(project, set(event["ids"]))
        return bool(service.store.remove_tasks(project, set(event["ids"])))
    if what != "annotation":
        return False
    if not service.quarantine.holds(project, event["id"], state_of(event)):
        return _ingest_or_record(service, project, event)
    if service.labelstudio is None:  # which could be asked for it again
        service.quarantine.keep_event(project, event)
    return False


def _ingest_or_record(service: Service, project: str, event: Event) -> bool:
    """Make an annotation a sample, or record its failure."""
    service.quarantine.mark_begun(project, event)
    try:
        changed = _ingest_annotation(service, project, event)
        service.quarantine.remove(project, event["id"])
    except MediaError as error:  # the storage may be away, or the image may come back
        record_error(error)
        changed = _record_failure(service, project, event, str(error), own=False)
    except (SkylightError, ImageError) as error:
        record_error(error)
        changed = _record_failure(service, project, event, str(error), own=True)
    except POISON_ERRORS as error:
        log.exception("project %s annotation %s: an error that Skylight did not foresee", project, event["id"])
        record_error(error)
        changed = _record_failure(service, project, event, f"{type(error).__name__}: {error}", own=True)
    except OSError:  # the store's; the annotation is not to blame, nor has a worker ended by it
        service.quarantine.mark_ended(project)
        raise
    service.quarantine.mark_ended(project)
    return changed


def _record_failure(service: Service, project: str, event: Event, reason: str, own: bool, death: bool = False) -> bool:
    keep = service.labelstudio is None and not death
    failed = service.quarantine.record_failure(project, event, reason, own, death, keep)
    tried = "is set aside and tried again"
    if failed.quarantined:
        tried = "is quarantined until it or the configuration changes"
    log.error("project %s annotation %s cannot be learned from, %s: %s", project, event["id"], tried, reason)
    return False


def save_config(service: Service, project: str, label_config: str) -> None:
    """Store the configuration. Another may show other images; other labels than before call for another training."""
    before = service.store.config(project)
    if not service.store.save_config(project, label_config):
        return
    service.prefetch_requests.request_all(project)
    if before:
        try:
            if service.labeling(before).labels != service.labeling(label_config).labels:
                service.queue.mark_dirty(project)
                service.queue.request_reconciliation(project)  # regions of labels that were missing may have theirs now
        except SkylightError as error:
            log.warning("project %s: %s", project, error)


def is_incomplete(service: Service, project: str, record: SampleRecord) -> bool:
    """Whether a sample lacks regions that can be read now: of labels that the configuration has, or ellipses."""
    if record.reading < READER_VERSION and ELLIPSES.search(service.store.config(project)):
        return True
    if not record.parked:
        return False
    labeling = service.labeling(service.store.config(project))
    return any(labeling.number(label) for label in record.parked)


def _ingest_annotation(service: Service, project: str, event: Event) -> bool:
    earlier = service.store.get(project, event["id"])
    marks = {"ground_truth": event.get("ground_truth", False), "reviewed": event.get("reviewed", False)}
    known = earlier is not None and not earlier.outdated(event["updated_at"], **marks)
    if earlier and known and not is_incomplete(service, project, earlier):
        return False
    if event["skipped"]:
        return service.store.remove(project, event["id"])
    labeling = service.labeling(service.store.config(project))
    url = image_url({"id": event["task"], "data": event["data"]}, labeling)
    digest, embedding = service.embedder_for(project).embedding(url)
    drawn = label_map(event["result"], labeling, embedding.size)
    for reason in drawn.ignored:
        log.info("project %s annotation %s: %s", project, event["id"], reason)
    if event["result"] and not drawn.regions and not drawn.parked:
        log.warning("project %s annotation %s holds prompts but no mask; not learned from", project, event["id"])
        return service.store.remove(project, event["id"])
    shown = event.get("shown")
    agreed = agreement(shown, drawn, labeling)
    record = SampleRecord(
        annotation=event["id"],
        task=event["task"],
        updated_at=event["updated_at"],
        url=url,
        image=digest,
        size=embedding.size,
        labels=labeling.labels,
        regions=drawn.regions,
        shown=shown["version"] if shown and agreed is not None else "",
        agreement=agreed,
        parked=drawn.parked,
        reading=READER_VERSION,
        **marks,
    )
    service.store.put(project, record, drawn.array, drawn.instances)
    return True

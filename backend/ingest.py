"""From an event to a sample: embedding, label map and single objects. Idempotent by annotation id and `updated_at`."""

import logging

from backend import ahead
from backend.errors import DATA_ERRORS, SkylightError
from backend.history import agreement
from backend.predict import image_url
from backend.regions import label_map
from backend.service import Service
from backend.store import SampleRecord
from backend.webhook import Event
from model.images import ImageError

log = logging.getLogger(__name__)


def drain(service: Service, project: str) -> int:
    """Work through the inbox; an event leaves it when it is done. Gives how many there were.

    An event that cannot be used (its image is gone, say) is logged and left to the next reconciliation, which finds
    its annotation missing and tries again.
    """
    count = 0
    with service.queue.lock(project, "ingest") as held:
        for event in service.queue.inbox(project) if held else ():  # else another worker is at it
            service.check_stop()
            handle(service, project, event)
            count += 1
    return count


def handle(service: Service, project: str, event: Event) -> bool:
    """Apply one event to the store; gives whether it changed a sample."""
    if event.get("label_config"):
        save_config(service, project, event["label_config"])
    if event.get("reconcile"):
        service.queue.want_reconciliation(project)
    if event["what"] == "train":
        service.queue.want_training(project)
    if event["what"] == "tasks_created":
        ahead.want(service, project)
    if event["what"] == "annotations_deleted":
        return any([service.store.remove(project, each) for each in event["ids"]])
    if event["what"] == "tasks_deleted":
        return bool(service.store.remove_tasks(project, set(event["ids"])))
    if event["what"] != "annotation":
        return False
    try:
        return _annotation(service, project, event)
    except (SkylightError, ImageError) as error:
        log.error("project %s annotation %s cannot be learned from: %s", project, event["id"], error)
    except DATA_ERRORS:
        log.exception("project %s annotation %s: an error that Skylight did not foresee", project, event["id"])
    return False


def save_config(service: Service, project: str, label_config: str) -> None:
    """Keep the configuration. Another may show other images; other labels than before call for another training."""
    before = service.store.config(project)
    if not service.store.save_config(project, label_config):
        return
    ahead.want(service, project)
    if before:
        try:
            if service.labeling(before).labels != service.labeling(label_config).labels:
                service.queue.touch(project)
        except SkylightError as error:
            log.warning("project %s: %s", project, error)


def _annotation(service: Service, project: str, event: Event) -> bool:
    earlier = service.store.get(project, event["id"])
    marks = {"ground_truth": event.get("ground_truth", False), "reviewed": event.get("reviewed", False)}
    if earlier and not earlier.outdated(event["updated_at"], **marks):
        return False
    if event["skipped"]:
        return service.store.remove(project, event["id"])
    labeling = service.labeling(service.store.config(project))
    url = image_url({"id": event["task"], "data": event["data"]}, labeling)
    digest, embedding = service.pictures.embedding(url)
    found = label_map(event["result"], labeling, embedding.size)
    for reason in found.ignored:
        log.info("project %s annotation %s: %s", project, event["id"], reason)
    if event["result"] and not found.regions:
        log.warning("project %s annotation %s holds prompts but no mask; not learned from", project, event["id"])
        return service.store.remove(project, event["id"])
    shown = event.get("shown")
    agreed = agreement(shown, found, labeling)
    record = SampleRecord(
        annotation=event["id"],
        task=event["task"],
        updated_at=event["updated_at"],
        url=url,
        image=digest,
        size=embedding.size,
        labels=labeling.labels,
        regions=found.regions,
        shown=shown["version"] if shown and agreed is not None else "",
        agreement=agreed,
        **marks,
    )
    service.store.put(project, record, found.array, found.instances)
    return True

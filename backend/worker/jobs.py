"""The jobs that a worker does. Each names a project only; everything else it looks up itself."""

import functools
import logging
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar

import redis

from skylight.backend.learning.ingest import ingest_inbox, retry_failed
from skylight.backend.learning.preannotate_tasks import preannotate as preannotate_open_tasks
from skylight.backend.learning.precompute import embed_project
from skylight.backend.learning.reconcile import reconcile
from skylight.backend.learning.training import train_version
from skylight.backend.queue.allowlist import register
from skylight.backend.queue.keys import Kind
from skylight.backend.queue.recovery import running
from skylight.backend.service import Service
from skylight.backend.worker.tracing import traced

CURRENT_SERVICE: ContextVar[Service] = ContextVar("service")  # set by the worker before it takes jobs
FIRST_SECONDS = 20.0  # of pre-annotation right after each training whose version was promoted
TRACED = traced(CURRENT_SERVICE)

log = logging.getLogger(__name__)


def recorded(job: Callable[[str], None]) -> Callable[[str], None]:
    """Decorator that notes a job as running, records its failure, and has it queued again after one."""

    @functools.wraps(job)
    def run(project: str) -> None:
        service = CURRENT_SERVICE.get()
        kind: Kind = job.__name__  # type: ignore[assignment]
        with (
            running(service.queue, project, kind),
            service.retries.record_outcome(project, kind, writes=kind in ("ingest", "train")),
        ):
            job(project)

    return run


@register
@TRACED
@recorded
def ingest(project: str) -> None:
    """Empty the inbox into the store, then see what follows from it."""
    service = CURRENT_SERVICE.get()
    queue, news = service.queue, ingest_inbox(service, project)
    if retry_failed(service, project):
        queue.mark_dirty(project)
        news += 1
    if news and queue.is_gone(project):  # so it may be there again
        queue.request_reconciliation(project)
    if reconciliation := queue.take_reconciliation(project):
        if reconciliation == "all":
            service.prefetch_requests.request_all(project)
        if changed := _reconcile(service, project, glance=reconciliation == "glance"):
            queue.mark_dirty(project)
        news += changed or reconciliation == "all"
    if queue.inbox_length(project):  # another worker held it for long, and looks no more
        queue.request(project, "ingest")
    if queue.is_gone(project):
        return
    if queue.dirty(project) > queue.trained(project):
        queue.request(project, "train")
    elif _has_predicted(service, project) and (news or not _all_predicted(service, project)):
        queue.request(project, "preannotate")


def _reconcile(service: Service, project: str, glance: bool) -> int:
    """As `reconcile`; one that does not come to its end is requested again."""
    try:
        return reconcile(service, project, glance)
    except BaseException:  # also the end of the process, or of the time that a job may take
        with suppress(redis.RedisError):  # then the job stays noted as running, and a sweep requests it again
            service.queue.request_reconciliation(project)
        raise


def _has_predicted(service: Service, project: str) -> bool:
    """Whether a version is served, or was: its predictions may be in Label Studio still."""
    return bool(service.versions.current(project)) or service.queue.progress(project) is not None


def _all_predicted(service: Service, project: str) -> bool:
    """Whether the last round of pre-annotation came to its end, and was the current version's."""
    progress = service.queue.progress(project)
    done = progress is not None and progress.done >= progress.total
    return done and progress is not None and progress.version == service.version_name(project)


@register
@TRACED
@recorded
def train(project: str) -> None:
    """Train on everything there is; again if more came meanwhile."""
    service = CURRENT_SERVICE.get()
    with service.queue.lock(project, "train") as held:
        if not held:
            return  # whoever trains looks for more before it lets the project go
        if reconcile(service, project):
            service.queue.mark_dirty(project)
        dirty = service.queue.dirty(project)
        ingest_inbox(service, project)
        if _has_more(service, project):  # what `dirty` counts must be ingested before it counts as trained
            return
        request = service.queue.newest_training_request(project)
        service.versions.settle(project)
        promoted = train_version(service, project, asked=request > 0)
        service.queue.mark_training_done(project, request)
        service.queue.set_trained(project, dirty)
    if service.queue.dirty(project) > dirty:
        service.queue.request(project, "train")
    if promoted:
        _preannotate_at_once(service, project)
    if service.versions.current(project):  # also an old one: there may be new tasks
        service.queue.request(project, "preannotate")


def _has_more(service: Service, project: str) -> bool:
    """Whether a time slice was too short for all annotations; an ingest job takes the rest, and then it is trained."""
    queue = service.queue
    if not queue.inbox_length(project) and not queue.is_reconciliation_requested(project):
        return False
    queue.request(project, "ingest")
    if queue.newest_training_request(project):  # else it comes by what is dirty
        queue.request(project, "train")
    return True


def _preannotate_at_once(service: Service, project: str) -> None:
    """Pre-annotate the next tasks with a new version, whatever waits: in a busy team a training always does."""
    with service.queue.lock(project, "preannotate") as held:
        if held:
            preannotate_open_tasks(service, project, FIRST_SECONDS)


@register
@TRACED
@recorded
def preannotate(project: str) -> None:
    """Bring the current version's predictions to the open tasks."""
    service = CURRENT_SERVICE.get()
    with service.queue.lock(project, "preannotate") as held:
        left = not held or preannotate_open_tasks(service, project)
    if left:
        service.queue.request(project, "preannotate")


@register
@TRACED
@recorded
def embed(project: str) -> None:
    """Embed the images that are requested, before anybody clicks on them."""
    service = CURRENT_SERVICE.get()
    with service.queue.lock(project, "embed") as held:
        if not held:
            return  # whoever embeds looks for more when he is done
        request = service.prefetch_requests.newest(project)
        left = embed_project(service, project)
    # What was asked for meanwhile, perhaps through a job that could not have the lock.
    newer = (
        service.prefetch_requests.newest(project) > request
        or service.prefetch_requests.last_opened(project) is not None
    )
    if left or newer:
        service.queue.request(project, "embed")

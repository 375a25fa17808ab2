"""Actions on a project: promote or roll back a version, train now, retry set-aside annotations, set normalization."""

from dataclasses import replace

import redis

from skylight.backend.errors import BadRequest
from skylight.backend.learning.prediction_delivery import forget_delivery
from skylight.backend.learning.version_lookup import find_project
from skylight.backend.service import Service


def promote(service: Service, project: str, number: int) -> None:
    """Serve a version from now on; the open tasks get its predictions in the background.

    Raises BadRequest if there is no such version, or if it was trained for other labels or another SAM, as nothing
    would be served then.
    """
    if number not in service.versions.numbers(project):
        raise BadRequest(f"project {project} has no version {number}; choose one of the list")
    if reason := unfit_reason(service, project, number):
        raise BadRequest(f"version {number} cannot be served: {reason}")
    service.versions.promote(project, number)
    _preannotate_again(service, project)


def roll_back(service: Service, project: str) -> int:
    """Serve the version before the current one again; returns its number (0: none, SAM alone).

    The predictions of later versions are removed in the background.
    """
    number = service.versions.roll_back(project)
    _preannotate_again(service, project)
    return number


def train_now(service: Service, project: str) -> None:
    """Queue a training on all accepted annotations, however few are new; if none is, it makes no new version."""
    service.queue.request_training(project)
    service.queue.request(project, "train")


def try_again(service: Service, project: str) -> int:
    """Queue the annotations that were set aside to be tried once more; returns how many."""
    count = service.quarantine.retry_all(project)
    if count:
        service.queue.request_reconciliation(project)
        service.queue.request(project, "ingest")
    return count


def set_normalization(
    service: Service,
    given: str,
    bands: tuple[int, ...] | None = None,
    low_high: tuple[float, float] | str | None = None,
) -> str:
    """Set the bands and the range of the images of the project called `given`; returns a message about it.

    `bands`: () the first ones; `low_high`: a range, "auto", to be determined by the images, or "own", each image's.
    None leaves each as it is, but other bands need another range. Raises BadRequest if there is no such project.
    """
    project = find_project(service.store, given)
    old, was_own = service.normalizations.of(project), service.normalizations.is_own(project)
    new, own = old if bands in (None, old.bands) else replace(old, bands=bands, range=None), was_own
    if low_high is not None:
        new, own = replace(new, range=None if isinstance(low_high, str) else low_high), low_high == "own"
    message = f"project {project}: {new}"
    if new.range is None and not own:
        message += ", until its first pictures of more than 8 bits have settled them for all"
    if (new, own) == (old, was_own):
        return message
    service.normalizations.set(project, new, own)
    if new == old:
        return message
    try:
        service.queue.mark_dirty(project)
        service.queue.request(project, "ingest")
        service.prefetch_requests.request_all(project)
    except redis.RedisError as error:
        return f"{message}\nRedis is away ({type(error).__name__}): the next annotation has it learned with"
    return f"{message}\nIts images are embedded anew, and the next training, which is due, learns with it"


def unfit_reason(service: Service, project: str, number: int) -> str:
    """Why a version cannot serve the project as it is configured now, "" if it can. Raises ConfigError."""
    card = service.versions.card(project, number)
    labels = service.labeling(service.store.config(project)).labels
    if tuple(card.get("labels") or ()) != labels:
        return f"it knows the labels {', '.join(card.get('labels') or ['none'])}, the project has {', '.join(labels)}"
    if not service.is_compatible(card.get("encoder_id")):
        return f"it reads embeddings of {card.get('encoder_id')}, not of {service.embedder.segmenter.encoder_id}"
    if service.decoder_of_version(project, number) is None:
        return "it is of another release of Skylight; train anew"
    return ""


def _preannotate_again(service: Service, project: str) -> None:
    """Queue the pre-annotation of the open tasks: the predictions of a version that was served before may be gone from
    Label Studio.
    """
    forget_delivery(service, project, service.version_name(project))
    service.queue.request(project, "preannotate")

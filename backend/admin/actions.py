"""What a person can do to a project: serve another version, serve the one before again, train now."""

from dataclasses import replace

import redis

from skylight.backend.errors import BadRequest
from skylight.backend.learning.prediction_delivery import forget
from skylight.backend.learning.version_lookup import named
from skylight.backend.service import Service


def promote(service: Service, project: str, number: int) -> None:
    """Serve a version from now on; the open tasks get its predictions in the background.

    Raises BadRequest if there is no such version, or if it was made for other labels or another SAM: nothing would be
    served then.
    """
    if number not in service.versions.numbers(project):
        raise BadRequest(f"project {project} has no version {number}; choose one of the list")
    if reason := unfit(service, project, number):
        raise BadRequest(f"version {number} cannot be served: {reason}")
    service.versions.promote(project, number)
    _bring(service, project)


def roll_back(service: Service, project: str) -> int:
    """Serve the version before the current one again, and give its number (0: none, SAM alone).

    What later versions predicted is taken out of sight in the background.
    """
    number = service.versions.roll_back(project)
    _bring(service, project)
    return number


def train_now(service: Service, project: str) -> None:
    """Have all accepted annotations trained on, however few are new; if none is, there will be no new version."""
    service.queue.want_training(project)
    service.queue.request(project, "train")


def try_again(service: Service, project: str) -> int:
    """Have the annotations that were set aside tried once more; gives how many."""
    count = service.asides.ask(project)
    if count:
        service.queue.want_reconciliation(project)
        service.queue.request(project, "ingest")
    return count


def normalise(
    service: Service,
    given: str,
    bands: tuple[int, ...] | None = None,
    low_high: tuple[float, float] | str | None = None,
) -> str:
    """Set how the pictures of the project called `given` are seen; gives what there is to say of it.

    `bands`: () the first ones; `low_high`: or "auto", to be settled by the pictures, or "own", each picture's. None
    leaves each as it is, but a range is of its bands. Raises BadRequest if there is no such project.
    """
    project = named(service.store, given)
    now, was_own = service.normalisations.of(project), service.normalisations.is_own(project)
    made, own = now if bands in (None, now.bands) else replace(now, bands=bands, range=None), was_own
    if low_high is not None:
        made, own = replace(made, range=None if isinstance(low_high, str) else low_high), low_high == "own"
    said = f"project {project}: {made}"
    if made.range is None and not own:
        said += ", until its first pictures of more than 8 bits have settled them for all"
    if (made, own) == (now, was_own):
        return said
    service.normalisations.set(project, made, own)
    if made == now:
        return said
    try:
        service.queue.touch(project)
        service.queue.request(project, "ingest")
        service.prefetch_requests.request_all(project)
    except redis.RedisError as error:
        return f"{said}\nRedis is away ({type(error).__name__}): the next annotation has it learned with"
    return f"{said}\nIts images are embedded anew, and the next training, which is due, learns with it"


def unfit(service: Service, project: str, number: int) -> str:
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


def _bring(service: Service, project: str) -> None:
    """Have the open tasks pre-annotated anew: those of a version served before may be gone from Label Studio."""
    forget(service, project, service.version_name(project))
    service.queue.request(project, "preannotate")

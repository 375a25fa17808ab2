"""From a project's samples to a new version, and whether it is served."""

import itertools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rq.timeouts import JobTimeoutException

from skylight.backend.errors import POISON_ERRORS, SkylightError, Unavailable
from skylight.backend.images.embedder import ImageEmbedder
from skylight.backend.labelstudio.label_config import Labeling
from skylight.backend.learning.acceptance import accepted, by_task
from skylight.backend.learning.tile_samples import pieces
from skylight.backend.queue.progress import reporter
from skylight.backend.queue.training_attempts import TrainingAttempts
from skylight.backend.service import Service
from skylight.backend.store.samples import SampleRecord
from skylight.backend.trace import record_error
from skylight.model.decoder import network
from skylight.model.decoder.calibration import NEUTRAL_TEMPERATURE
from skylight.model.decoder.held_out import HeldOut, validate
from skylight.model.decoder.network import DecoderConfig
from skylight.model.decoder.sample_spill import Shelf
from skylight.model.decoder.samples import Sample
from skylight.model.decoder.training import Trained, train
from skylight.model.decoder.validation_split import in_validation
from skylight.model.evaluation.metrics import paired
from skylight.model.images.decoding import ImageError
from skylight.model.images.normalization import PER_IMAGE, Normalization
from skylight.model.masks.consensus import agreed_objects, majority
from skylight.model.masks.label_map import IGNORE
from skylight.model.runtime.cpu import trim_malloc

IN_MEMORY = 100_000_000  # bytes of samples, some 50 of 512 px; all 500 of one training took it to 2.3 GB
FORGET_EVERY = 4  # steps, of 8 crops, each of which reads most of an embedding's pages, 1.3 MB; or samples looked at
UNCHANGED = "nothing has changed"
TRY_AGAIN = "Look at the reason before in the worker's log; 'Train now', or any change of the annotations, tries again"

log = logging.getLogger(__name__)


def train_version(service: Service, project: str, asked: bool = False) -> int:
    """Train on all accepted samples and publish a version; promote it if it is not worse.

    Gives its number if it is served now, else 0. `asked`: somebody wants it now, however few annotations are new, and
    also if it has failed before. Raises Diverged, OSError, MemoryError and what torch raises; the version served stays.
    """
    with Shelf(service.settings.home / "scratch", IN_MEMORY) as shelf:
        return _train_version(service, project, asked, shelf)


def _train_version(service: Service, project: str, asked: bool, shelf: Shelf) -> int:
    settings = service.settings
    labeling = service.labeling(service.store.config(project))
    tasks = by_task(accepted(service.store.samples(project), settings.accept), settings.consensus)
    if len(tasks) < settings.min_annotations or not any(record.regions for task in tasks for record in task):
        log.info("project %s: %d of %d annotated tasks", project, len(tasks), settings.min_annotations)
        return 0
    embedder = service.embedder_for(project)
    used = load(service, embedder, project, labeling, tasks, shelf)
    trim_malloc()  # 70 to 380 MB of 500 images: what was read of those that are on the shelf now
    quantiles = [sample.embedding.quantiles for _, sample in used if sample.embedding.quantiles is not None]
    settled = service.normalisations.settle(project, quantiles)
    if settled != embedder.normalization:
        embedder = service.embedder.with_normalization(settled)
        used = load(service, embedder, project, labeling, tasks, shelf)
        service.prefetch_requests.request_all(project)
    note_left_out(service, project, labeling, tasks, used)
    samples = _learned_from(embedder, used, shelf)
    training = [sample for sample in samples if not in_validation(sample.group)]
    validation = [sample for sample in samples if in_validation(sample.group)]
    if not training:
        training, validation = validation, []
    if not training:
        return 0
    config = DecoderConfig(labeling.labels, embedder.segmenter.encoder_id, normalisation=embedder.normalization)
    ingredients = {
        "labels": list(labeling.labels),
        "encoder_id": config.encoder_id,
        "layout": network.LAYOUT,
        "annotations": {str(record.annotation): record.updated_at for records, _ in used for record in records},
        "consensus": settings.consensus,
        "recipe": asdict(service.recipe),
        "normalisation": None if embedder.normalization == PER_IMAGE else embedder.normalization.to_json(),
    }
    if reason := premature(service, project, ingredients, asked):
        log.info("project %s is not trained: %s", project, reason)
        if reason.startswith(UNCHANGED):
            service.failures.clear(project, "train")
        return 0
    attempts = TrainingAttempts(service.queue.redis, project, ingredients)
    if attempts.reason_to_stop and not asked:
        log.warning("project %s is not trained: %s", project, attempts.reason_to_stop)
        service.failures.record(project, "train", f"training is given up: {attempts.reason_to_stop}", TRY_AGAIN)
        return 0
    attempts.record_begin()
    try:
        report, check = reporter(service.queue, project, "train"), _check(service, shelf)
        trained = train(training, validation, config, service.recipe, report, check)
    except (*POISON_ERRORS, JobTimeoutException):
        attempts.record_failure()
        raise

    def seen(how: Normalization) -> list[Sample]:
        other = service.embedder.with_normalization(how)
        return _learned_from(other, load(service, other, project, labeling, tasks, shelf), shelf)

    drawn = {sample.task: {str(each.annotation): each.updated_at for each in records} for records, sample in used}
    verdict, promoted = gate(service, project, labeling, trained, validation, seen, check, drawn)
    card = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **ingredients,
        **measured(trained, training, validation),
        "promoted": promoted,
        "verdict": verdict,
    }
    number = service.versions.publish(project, lambda path: network.save(trained.decoder, path), card)
    if promoted:
        service.versions.promote(project, number)
    attempts.record_success()
    service.failures.clear(project, "train")
    log.info(
        "project %s: version %d of %d images in %.1f s: %s",
        project,
        number,
        len(used),
        trained.seconds,
        verdict,
    )
    return number if promoted else 0


def load(
    service: Service,
    embedder: ImageEmbedder,
    project: str,
    labeling: Labeling,
    tasks: Sequence[Sequence[SampleRecord]],
    shelf: Shelf,
) -> list[tuple[list[SampleRecord], Sample]]:
    """All tasks as `load_task` reads them, without those that it cannot read."""
    found = (load_task(service, embedder, project, labeling, task) for task in tasks)
    return [(records, shelf.put(sample)) for records, sample in filter(None, found)]


def _learned_from(
    embedder: ImageEmbedder, used: Sequence[tuple[list[SampleRecord], Sample]], shelf: Shelf
) -> list[Sample]:
    """The samples of all tasks, or in place of a large one its pieces."""
    return [
        sample if piece is sample else shelf.put(piece)
        for records, sample in used
        for piece in pieces(embedder, records[0], sample)
    ]


def _check(service: Service, shelf: Shelf) -> Callable[[], None]:
    """What a training calls now and then: it ends if it must, and gives back memory."""
    calls = itertools.count(1)

    def check() -> None:
        service.check_stop()
        if next(calls) % FORGET_EVERY == 0:
            shelf.forget()
            trim_malloc()

    return check


def note_left_out(
    service: Service,
    project: str,
    labeling: Labeling,
    tasks: Sequence[Sequence[SampleRecord]],
    used: Sequence[tuple[list[SampleRecord], Sample]],
) -> None:
    """Tell people how many samples cannot be learned from: not read, or drawn with labels that are gone."""
    records = [record for task in tasks for record in task]
    lacking = len(records) - sum(len(found) for found, _ in used)
    if lacking:
        reason = f"{lacking} of {len(records)} samples are left out, as their images or files cannot be read"
        service.failures.record(project, "samples", reason, "The worker's log names them and why")
    else:
        service.failures.clear(project, "samples")
    drawn = {label for record in records for label in (*record.labels, *record.parked)}
    gone = sorted(label for label in drawn if not labeling.number(label))
    if gone:
        reason = f"annotations hold labels that the configuration does not have: {', '.join(gone)}"
        step = "Their pixels are left out of training. If a label was renamed, name the regions' labels anew too"
        service.failures.record(project, "labels", reason, step)
    else:
        service.failures.clear(project, "labels")


def measured(trained: Trained, training: list[Sample], validation: list[Sample]) -> dict[str, Any]:
    """What a version's card says of its training and of how good it is.

    `trained_on` are the tasks its weights have seen: all of them, unless there were enough to validate on others;
    `trained_on_images` the sha256 of their pictures, without which a version is of a release that split by tasks.
    """
    held, config = trained.held, trained.decoder.config
    kept_apart = validation if held is not None and not trained.cross_validated else []
    seen = [*training, *(sample for sample in validation if not kept_apart)]
    return {
        "training_images": len(seen),
        "validation_images": len(kept_apart),
        "trained_on": sorted({sample.task for sample in seen}),
        "trained_on_images": sorted({sample.group for sample in seen}),
        "steps": trained.steps,
        "seconds": round(trained.seconds, 2),
        "separate": list(config.separate),
        "temperature": round(config.temperature, 4),
        "cross_validated": trained.cross_validated,
        "validation": _metrics(held),
        "per_task": held.per_task if held else {},
        "ece": round(held.ece(least=NEUTRAL_TEMPERATURE if trained.cross_validated else 0.0), 4) if held else None,
    }


def premature(service: Service, project: str, ingredients: dict[str, Any], asked: bool) -> str:
    """Why there is no need to train yet, "" if there is: too few annotations differ from the newest version's.

    One that differs is new, changed or withdrawn. One is enough if somebody has `asked`, and anything else that
    differs, such as the labels, is enough by itself.
    """
    cards = service.versions.cards(project)
    card = cards[-1] if cards else {}
    if any(card.get(name) != value for name, value in ingredients.items() if name != "annotations"):
        return ""
    now, then = (set(each["annotations"].items()) for each in (ingredients, card))
    different = len({annotation for annotation, _ in now ^ then})
    if not different:
        return f"{UNCHANGED} since version {card['version']}"
    wanted = 1 if asked else service.settings.retrain_every
    return f"{different} of {wanted} annotations differ from version {card['version']}'s" if different < wanted else ""


def gate(
    service: Service,
    project: str,
    labeling: Labeling,
    trained: Trained,
    validation: list[Sample],
    seen: Callable[[Normalization], list[Sample]] | None = None,
    check: Callable[[], None] = lambda: None,
    drawn: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[str, bool]:
    """Why the new decoder may be served or not, and whether: not if the current one is better beyond the noise.

    Image by image the mean IoU of the new one is compared with the current one's: on the validation images that the
    current one's weights have not seen, or, where those are too few, as both did in cross-validation. Of images that
    have chosen something of the current one its card knows the IoU of what others would have chosen; that counts while
    they are annotated as they were: `drawn` has each task's annotations with their `updated_at`. `seen` gives all
    samples by another normalisation, should the current one have another; `check` is called for each.
    """
    try:
        current = service.decoder_for(project, labeling)
        card = service.versions.card(project, service.versions.current(project)) if current is not None else {}
    except (Unavailable, FileNotFoundError) as error:
        return f"promoted: {error}", True
    if current is None:
        return "promoted: nothing that fits the labels and the SAM was served", True
    held, enough = trained.held, service.recipe.enough
    if held is None:
        return "promoted: of no image is it known how decoders do that have not learned from it", True
    if trained.cross_validated:
        served = card.get("per_task", {}) if card.get("cross_validated") else {}
        tasks = _one_of_each(held, served, alone="trained_on_images" not in card)
        kind = "images left out in cross-validation by both"
        return judge({task: held.per_task[task] for task in tasks}, served, kind, enough)
    if seen is not None and current.config.normalisation != trained.decoder.config.normalisation:
        groups = {sample.group for sample in validation}
        validation = [sample for sample in seen(current.config.normalisation) if sample.group in groups]
    used = _used(card, validation)
    unseen = [sample for sample in validation if sample.group not in used]
    served = _known(card, validation, drawn) | validate(current, unseen, check).per_task
    kind = "images that neither has learned from"
    return judge({task: held.per_task[task] for task in _one_of_each(held, served)}, served, kind, enough)


def _used(card: dict[str, Any], samples: Sequence[Sample]) -> set[str]:
    """The images, of some samples, that a version has learned from or that have chosen something of it."""
    images, tasks = set(card.get("trained_on_images", ())), {*card.get("trained_on", ()), *card.get("per_task", ())}
    return {sample.group for sample in samples if sample.group in images or sample.task in tasks}


def _known(
    card: dict[str, Any], samples: Sequence[Sample], drawn: Mapping[str, Mapping[str, str]] | None
) -> dict[str, float]:
    """The IoU that a version's card has of tasks that it has not learned from and that are annotated as they were.

    A version of a release that split by tasks was measured on the very images that had chosen it: nothing is known.
    """
    if "trained_on_images" not in card or card.get("cross_validated"):
        return {}
    then, learned = card.get("annotations", {}), set(card["trained_on_images"])
    known: dict[str, float] = card.get("per_task", {})
    return {
        sample.task: known[sample.task]
        for sample in samples
        if sample.task in known
        and sample.group not in learned
        and (drawn is None or all(then.get(one) == at for one, at in drawn.get(sample.task, {}).items()))
    }


def _one_of_each(held: HeldOut, others: Collection[str], alone: bool = False) -> list[str]:
    """Tasks that were measured and are among others, one for each image; `alone`: of images in one task only."""
    by_image: dict[str, list[str]] = {}
    for task, image in sorted(held.image_of.items()):
        by_image.setdefault(image, []).append(task)
    kept = (tasks for tasks in by_image.values() if len(tasks) == 1 or not alone)
    return [found[0] for tasks in kept if (found := [task for task in tasks if task in others])]


def judge(new: dict[str, float], served: dict[str, float], images: str, enough: int) -> tuple[str, bool]:
    """The verdict on a new version, and whether it is promoted, from each task's IoU by it and by the one served.

    It is kept back if the mean difference is below minus two standard errors: that holds back one in twenty or so of
    equally good ones, where below one it would be one in six. With fewer than `enough` tasks in common the error itself
    is a guess (a nuclei project's second version, of 15 images, was once held back for the first, of 3, by these 3);
    then the new version, as it knows the newer annotations, is promoted. `images`: what they are, for the sentence.
    """
    found = paired(new, served)
    if found.n < enough:
        return f"promoted: to compare it with the current version takes {enough} {images}, not {found.n}", True
    promoted = found.mean >= -2 * found.error
    word = "promoted" if promoted else "kept back"
    difference = f"mean IoU {found.mean:+.4f} ± {found.error:.4f} against the current version's"
    return f"{word}: {difference}, on {found.n} {images}", promoted


def load_task(
    service: Service, embedder: ImageEmbedder, project: str, labeling: Labeling, records: Sequence[SampleRecord]
) -> tuple[list[SampleRecord], Sample] | None:
    """The samples of a task, the newest first, as the one that training reads, and those that it was made of.

    None, with a line in the log, if none of them can be read.
    """
    read = [(each, sample) for each in records if (sample := load_sample(service, embedder, project, labeling, each))]
    if len(read) < 2:
        return ([read[0][0]], read[0][1]) if read else None
    maps = [sample.label_map for _, sample in read]
    agreed = majority(maps)
    objects = agreed_objects(agreed, maps, [sample.instances for _, sample in read])
    return [each for each, _ in read], replace(read[0][1], label_map=agreed, instances=objects)


def load_sample(
    service: Service, embedder: ImageEmbedder, project: str, labeling: Labeling, record: SampleRecord
) -> Sample | None:
    """A stored sample as training reads it; None, with a line in the log, if it or its image is not there any more."""
    service.check_stop()
    try:
        embedding = embedder.embedding_of(record.image, record.url)
        drawn = service.store.label_map(project, record)
        objects = service.store.objects(project, record)
    except (SkylightError, ImageError, FileNotFoundError) as error:  # the last: another worker has replaced it just now
        log.error("project %s annotation %s is left out: %s", project, record.annotation, error)
        record_error(error)
        return None
    return Sample(str(record.task), embedding, remap(drawn, record.labels, labeling.labels), objects, record.image)


def remap(label_map: NDArray[np.uint8], drawn: tuple[str, ...], wanted: tuple[str, ...]) -> NDArray[np.uint8]:
    """A label map (H, W) uint8 drawn with other labels, in those of now; a label that is gone becomes "ignore"."""
    if drawn == wanted:
        return label_map
    table = np.full(256, IGNORE, np.uint8)
    table[0] = 0
    for k, label in enumerate(drawn, 1):
        table[k] = wanted.index(label) + 1 if label in wanted else IGNORE
    remapped: NDArray[np.uint8] = table[label_map]
    return remapped


def _metrics(held: HeldOut | None) -> dict[str, Any] | None:
    if held is None:
        return None
    return {
        "mean_iou": round(held.scores.mean, 4),
        "error": None if held.error is None else round(held.error, 4),
        "iou": {k: round(v, 4) for k, v in held.scores.per_label.items()},
    }

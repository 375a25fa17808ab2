"""Training: from a project's accepted annotations to a new version, promoted if it is not worse than the served one."""

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rq.timeouts import JobTimeoutException

from skylight.backend.errors import POISON_ERRORS
from skylight.backend.images.embedder import ImageEmbedder
from skylight.backend.labelstudio.label_config import Labeling
from skylight.backend.learning.dataset import TaskSample, accepted, by_task, load_tasks, training_samples
from skylight.backend.learning.gate import decide_promotion
from skylight.backend.queue.progress import reporter
from skylight.backend.queue.training_attempts import TrainingAttempts
from skylight.backend.service import Service
from skylight.backend.store.samples import SampleRecord
from skylight.model.decoder import network
from skylight.model.decoder.calibration import NEUTRAL_TEMPERATURE
from skylight.model.decoder.held_out import HeldOut
from skylight.model.decoder.network import DecoderConfig
from skylight.model.decoder.sample_spill import SampleSpill
from skylight.model.decoder.samples import Sample
from skylight.model.decoder.training import Trained, train
from skylight.model.decoder.validation_split import in_validation
from skylight.model.images.normalization import PER_IMAGE, Normalization
from skylight.model.runtime.cpu import trim_malloc

IN_MEMORY = 100_000_000  # bytes of samples, some 50 of 512 px; all 500 of one training took it to 2.3 GB
FORGET_EVERY = 4  # steps, of 8 crops, each of which reads most of an embedding's pages, 1.3 MB; or samples looked at
UNCHANGED = "nothing has changed"
TRY_AGAIN = "Look at the reason before in the worker's log; 'Train now', or any change of the annotations, tries again"

Tasks = Sequence[Sequence[SampleRecord]]  # each task's samples that are learned from

log = logging.getLogger(__name__)


def train_version(service: Service, project: str, asked: bool = False) -> int:
    """Train on all accepted samples and publish a version; promote it if it is not worse.

    Gives its number if it is served now, else 0. `asked`: somebody wants it now, however few annotations are new, and
    also if it has failed before. Raises Diverged, OSError, MemoryError and what torch raises; the version served stays.
    """
    settings, labeling = service.settings, service.labeling(service.store.config(project))
    tasks = by_task(accepted(service.store.samples(project), settings.accept), settings.consensus)
    if len(tasks) < settings.min_annotations or not any(record.regions for task in tasks for record in task):
        log.info("project %s: %d of %d annotated tasks", project, len(tasks), settings.min_annotations)
        return 0
    with SampleSpill(settings.home / "scratch", IN_MEMORY) as spill:
        return _Training(service, project, labeling, tasks, spill).run(asked)


class _Training:
    """One training of one project."""

    def __init__(self, service: Service, project: str, labeling: Labeling, tasks: Tasks, spill: SampleSpill) -> None:
        self.service, self.project, self.labeling, self.tasks, self.spill = service, project, labeling, tasks, spill

    def run(self, asked: bool) -> int:
        """As `train_version`."""
        service, project = self.service, self.project
        embedder, loaded = self._load()
        record_left_out(service, project, self.labeling, self.tasks, loaded)
        samples = training_samples(embedder, loaded, self.spill)
        training = [sample for sample in samples if not in_validation(sample.group)]
        validation = [sample for sample in samples if in_validation(sample.group)]
        if not training:
            training, validation = validation, []
        if not training:
            return 0
        config = DecoderConfig(
            self.labeling.labels, embedder.segmenter.encoder_id, normalisation=embedder.normalization
        )
        inputs = self._inputs(config, loaded)
        attempts = TrainingAttempts(service.queue.redis, project, inputs)
        if not self._is_due(inputs, attempts, asked):
            return 0
        attempts.record_begin()
        check = _check(service, self.spill)
        try:
            report = reporter(service.queue, project, "train")
            trained = train(training, validation, config, service.recipe, report, check)
        except (*POISON_ERRORS, JobTimeoutException):
            attempts.record_failure()
            raise
        drawn = {sample.task: {str(one.annotation): one.updated_at for one in records} for records, sample in loaded}
        verdict, promoted = decide_promotion(
            service, project, self.labeling, trained, validation, self._load_with, check, drawn
        )
        card = {
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **inputs,
            **measurements(trained, training, validation),
            "promoted": promoted,
            "verdict": verdict,
        }
        number = service.versions.publish(project, lambda path: network.save(trained.decoder, path), card)
        if promoted:
            service.versions.promote(project, number)
        attempts.record_success()
        service.failures.clear(project, "train")
        text = "project %s: version %d of %d images in %.1f s: %s"
        log.info(text, project, number, len(loaded), trained.seconds, verdict)
        return number if promoted else 0

    def _load(self) -> tuple[ImageEmbedder, list[TaskSample]]:
        """All tasks' samples, and the embedder whose normalization they have: the project's, settled by them."""
        embedder = self.service.embedder_for(self.project)
        loaded = self._load_tasks(embedder)
        trim_malloc()  # 70 to 380 MB of 500 images: what was read of those that are on the spill now
        quantiles = [sample.embedding.quantiles for _, sample in loaded if sample.embedding.quantiles is not None]
        settled = self.service.normalizations.settle(self.project, quantiles)
        if settled != embedder.normalization:
            embedder = self.service.embedder.with_normalization(settled)
            loaded = self._load_tasks(embedder)
            self.service.prefetch_requests.request_all(self.project)
        return embedder, loaded

    def _load_tasks(self, embedder: ImageEmbedder) -> list[TaskSample]:
        return load_tasks(self.service, embedder, self.project, self.labeling, self.tasks, self.spill)

    def _load_with(self, normalization: Normalization) -> list[Sample]:
        """All samples with another normalization."""
        embedder = self.service.embedder.with_normalization(normalization)
        return training_samples(embedder, self._load_tasks(embedder), self.spill)

    def _inputs(self, config: DecoderConfig, loaded: Sequence[TaskSample]) -> dict[str, Any]:
        """Everything that decides what comes of the training, as the version's card has it."""
        return {
            "labels": list(config.labels),
            "encoder_id": config.encoder_id,
            "layout": network.LAYOUT,
            "annotations": {str(record.annotation): record.updated_at for records, _ in loaded for record in records},
            "consensus": self.service.settings.consensus,
            "recipe": asdict(self.service.recipe),
            "normalisation": None if config.normalisation == PER_IMAGE else config.normalisation.to_json(),
        }

    def _is_due(self, inputs: dict[str, Any], attempts: TrainingAttempts, asked: bool) -> bool:
        """Whether to train; else the log says why not."""
        if reason := reason_to_wait(self.service, self.project, inputs, asked):
            log.info("project %s is not trained: %s", self.project, reason)
            if reason.startswith(UNCHANGED):
                self.service.failures.clear(self.project, "train")
            return False
        if attempts.reason_to_stop and not asked:
            log.warning("project %s is not trained: %s", self.project, attempts.reason_to_stop)
            reason = f"training is given up: {attempts.reason_to_stop}"
            self.service.failures.record(self.project, "train", reason, TRY_AGAIN)
            return False
        return True


def _check(service: Service, spill: SampleSpill) -> Callable[[], None]:
    """A function that a training calls now and then: it ends the training if it must, and frees memory."""
    calls = itertools.count(1)

    def check() -> None:
        service.check_stop()
        if next(calls) % FORGET_EVERY == 0:
            spill.release_memory()
            trim_malloc()

    return check


def record_left_out(
    service: Service,
    project: str,
    labeling: Labeling,
    tasks: Sequence[Sequence[SampleRecord]],
    loaded: Sequence[TaskSample],
) -> None:
    """Record how many samples cannot be learned from: not readable, or drawn with labels that are gone."""
    records = [record for task in tasks for record in task]
    missing = len(records) - sum(len(read) for read, _ in loaded)
    if missing:
        reason = f"{missing} of {len(records)} samples are left out, as their images or files cannot be read"
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


def measurements(trained: Trained, training: list[Sample], validation: list[Sample]) -> dict[str, Any]:
    """The entries of a version's card on its training and on how good it is.

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


def reason_to_wait(service: Service, project: str, inputs: dict[str, Any], asked: bool) -> str:
    """Why there is no need to train yet, "" if there is: too few annotations differ from the newest version's.

    One that differs is new, changed or withdrawn. One is enough if somebody has `asked`, and anything else that
    differs, such as the labels, is enough by itself.
    """
    cards = service.versions.cards(project)
    card = cards[-1] if cards else {}
    if any(card.get(name) != value for name, value in inputs.items() if name != "annotations"):
        return ""
    now, then = (set(each["annotations"].items()) for each in (inputs, card))
    different = len({annotation for annotation, _ in now ^ then})
    if not different:
        return f"{UNCHANGED} since version {card['version']}"
    wanted = 1 if asked else service.settings.retrain_every
    return f"{different} of {wanted} annotations differ from version {card['version']}'s" if different < wanted else ""


def _metrics(held: HeldOut | None) -> dict[str, Any] | None:
    if held is None:
        return None
    return {
        "mean_iou": round(held.scores.mean, 4),
        "error": None if held.error is None else round(held.error, 4),
        "iou": {label: round(iou, 4) for label, iou in held.scores.per_label.items()},
    }

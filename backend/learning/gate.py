"""The gate: whether a new version is promoted, by its IoU image by image against the version that is served."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from skylight.backend.errors import Unavailable
from skylight.backend.labelstudio.label_config import Labeling
from skylight.backend.service import Service
from skylight.model.decoder.held_out import HeldOut, validate
from skylight.model.decoder.samples import Sample
from skylight.model.decoder.training import Trained
from skylight.model.evaluation.metrics import paired_difference
from skylight.model.images.normalization import Normalization


def decide_promotion(
    service: Service,
    project: str,
    labeling: Labeling,
    trained: Trained,
    validation: list[Sample],
    load_with: Callable[[Normalization], list[Sample]] | None = None,
    check: Callable[[], None] = lambda: None,
    drawn: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[str, bool]:
    """The verdict on a new decoder, and whether it is promoted: not if the current one is better beyond the noise.

    Image by image the mean IoU of the new one is compared with the current one's: on the validation images that the
    current one's weights have not seen, or, where those are too few, as both did in cross-validation. For images by
    which a choice of the current one was made, its card has the IoU of decoders chosen without them; that counts while
    they are annotated as they were: `drawn` has each task's annotations with their `updated_at`. `load_with` loads all
    samples with another normalisation, should the current one have another; `check` is called for each.
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
        return compare_scores({task: held.per_task[task] for task in tasks}, served, kind, enough)
    if load_with is not None and current.config.normalisation != trained.decoder.config.normalisation:
        groups = {sample.group for sample in validation}
        validation = [sample for sample in load_with(current.config.normalisation) if sample.group in groups]
    used = _used(card, validation)
    unseen = [sample for sample in validation if sample.group not in used]
    served = _known(card, validation, drawn) | validate(current, unseen, check).per_task
    kind = "images that neither has learned from"
    return compare_scores({task: held.per_task[task] for task in _one_of_each(held, served)}, served, kind, enough)


def _used(card: dict[str, Any], samples: Sequence[Sample]) -> set[str]:
    """The images, of some samples, that a version has learned from or by which a choice of it was made."""
    images, tasks = set(card.get("trained_on_images", ())), {*card.get("trained_on", ()), *card.get("per_task", ())}
    return {sample.group for sample in samples if sample.group in images or sample.task in tasks}


def _known(
    card: dict[str, Any], samples: Sequence[Sample], drawn: Mapping[str, Mapping[str, str]] | None
) -> dict[str, float]:
    """The IoU that a version's card has of tasks that it has not learned from and that are annotated as they were.

    A version of a release that split by tasks was measured on the very images by which it was chosen: nothing is known.
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
    return [shared[0] for tasks in kept if (shared := [task for task in tasks if task in others])]


def compare_scores(new: dict[str, float], served: dict[str, float], images: str, enough: int) -> tuple[str, bool]:
    """The verdict on a new version, and whether it is promoted, from each task's IoU by it and by the one served.

    It is kept back if the mean difference is below minus two standard errors: about one in twenty of equally good
    versions is, where below one error it would be one in six. With fewer than `enough` tasks in common the error itself
    is a guess (see docs/decisions/promotion.md); then the new version, which knows the newer annotations, is promoted.
    `images`: what the tasks' images are, for the sentence.
    """
    difference = paired_difference(new, served)
    if difference.n < enough:
        return f"promoted: to compare it with the current version takes {enough} {images}, not {difference.n}", True
    promoted = difference.mean >= -2 * difference.error
    word = "promoted" if promoted else "kept back"
    text = f"mean IoU {difference.mean:+.4f} ± {difference.error:.4f} against the current version's"
    return f"{word}: {text}, on {difference.n} {images}", promoted

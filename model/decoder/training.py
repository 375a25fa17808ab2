"""Training of a domain decoder: samples in, a decoder and its measured quality out.

The encoder never runs here: a sample is an embedding and a label map, and every step reads crops of a few of them.
With enough validation images the decoder learns from the others and is measured on them. With fewer it learns from all,
and is measured by cross-validation: decoders trained without some of the images are measured on these.

No image that is measured on has chosen anything of what it measures: docs/decisions/honest-validation.md
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from skylight.model.decoder.calibration import NEUTRAL_TEMPERATURE
from skylight.model.decoder.crop_sampler import CropSampler
from skylight.model.decoder.early_stopping import EarlyStopping
from skylight.model.decoder.held_out import HeldOut, validate
from skylight.model.decoder.losses import crop_loss, distance_loss
from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from skylight.model.decoder.samples import Sample, separable_labels
from skylight.model.decoder.validation_split import parts
from skylight.model.evaluation.metrics import LabelScores
from skylight.model.runtime.cpu import has_bfloat16

SECOND_RATE = 0.3  # factor on the learning rate of the second attempt, after a training that diverged

log = logging.getLogger(__name__)
_initializing = threading.Lock()  # torch draws a network's initial weights from the process's generator


class Diverged(ArithmeticError):
    """A training's loss, or its weights, became infinite or NaN."""


@dataclass(frozen=True)
class TrainConfig:
    """How a decoder is trained. docs/decisions/decoder-constants.md has the measurements that chose the defaults."""

    steps: int = 520  # at most, with up to `many` images
    first_steps: int = 300  # with one image, and
    image_steps: int = 30  # more for each further image
    # With more images than `many` the steps grow in proportion to them, up to `longest` times.
    many: int = 20
    longest: float = 2.0
    batch: int = 8  # crops per step
    crop: float = 0.25  # side of a crop, as a share of the embedding's
    centred: float = 0.3  # share of crops laid around an object, since most of an image is background
    learning_rate: float = 1.5e-3  # AdamW, one cycle
    weight_decay: float = 0.02
    check_every: int = 60  # steps between checkpoints; more where there are more steps than `steps`
    patience: int = 4  # checkpoints without a better one before it stops
    checked: int = 24  # validation images that a checkpoint is measured on, at most
    enough: int = 5  # validation images; fewer choose nothing, as their noise would cost 0.04 mIoU
    folds: int = 4  # of the cross-validation where there are fewer; below 2 there is none
    fold_steps: float = 0.25  # of the steps that the decoder itself gets
    seed: int = 0

    def steps_of(self, samples: int) -> int:
        """How many steps a training on so many samples has."""
        few = min(self.steps, self.first_steps + self.image_steps * (samples - 1))
        return round(few * min(max(samples / self.many, 1.0), self.longest))


@dataclass(frozen=True)
class Trained:
    """A decoder and its measured quality."""

    decoder: DomainDecoder
    held: HeldOut | None  # of it, or of its folds, on images it was not trained on; None with a single image
    cross_validated: bool  # measured by decoders of the same recipe trained without these images
    steps: int  # of the checkpoint that was selected
    seconds: float

    @property
    def scores(self) -> LabelScores | None:
        """IoU per label on `held`'s images."""
        return self.held.scores if self.held else None


def train(
    training: Sequence[Sample],
    validation: Sequence[Sample],
    config: DecoderConfig,
    how: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
    progress: Callable[[int, int], None] = lambda step, steps: None,
    check: Callable[[], None] = lambda: None,
) -> Trained:
    """Train a decoder; the same samples and seed give the same one on the same machine.

    `progress` is called with the step and the number of steps. `check` is called for every sample and before every
    step, also from another thread, and ends the training by raising. A training that diverges is repeated once, with
    another seed and a lower rate. Raises Diverged if that diverges too, and ValueError without training samples.
    """
    if not training:
        raise ValueError("training needs at least one sample")
    started = time.monotonic()
    context, detail = training[0].embedding.context, training[0].embedding.detail
    config = replace(
        config,
        context=0 if context is None else len(context),
        detail=0 if detail is None else len(detail),
        separate=separable_labels([*training, *validation], config.labels, check),
    )
    if len({sample.group for sample in validation}) >= how.enough:
        decoder, steps, held = _fit_with_retry(training, config, how, validation, progress, check)
        cross_validated = False
    else:
        decoder, steps, held = _fit_and_cross_validate([*training, *validation], config, how, progress, check)
        cross_validated = held is not None
    if held is not None:
        # Folds of shorter trainings are less confident than the final decoder, so their temperature may only raise it.
        fitted = held.temperature()
        config = replace(config, temperature=max(fitted, NEUTRAL_TEMPERATURE) if cross_validated else fitted)
    decoder.config = config
    seconds = time.monotonic() - started
    return Trained(decoder.eval().requires_grad_(False), held, cross_validated, steps, seconds)


def _fit_and_cross_validate(
    samples: Sequence[Sample],
    config: DecoderConfig,
    how: TrainConfig,
    progress: Callable[[int, int], None],
    check: Callable[[], None],
) -> tuple[DomainDecoder, int, HeldOut | None]:
    """As `fit` on all samples, and beside it `cross_validate`, each with half of the threads.

    A step is too small for two cores: 20 ms with one thread, 16 with two.
    """
    threads = torch.get_num_threads()

    def cross_validated() -> HeldOut | None:
        torch.set_num_threads(max(threads // 2, 1))
        return cross_validate(samples, config, how, check)

    with ThreadPoolExecutor(1) as executor:
        try:
            held = executor.submit(cross_validated)
            torch.set_num_threads(max(threads - threads // 2, 1))
            decoder, steps, _ = _fit_with_retry(samples, config, how, (), progress, check)
        finally:
            torch.set_num_threads(threads)
        return decoder, steps, held.result()


def fit(
    samples: Sequence[Sample],
    config: DecoderConfig,
    how: TrainConfig,
    validation: Sequence[Sample] = (),
    progress: Callable[[int, int], None] = lambda step, steps: None,
    check: Callable[[], None] = lambda: None,
) -> tuple[DomainDecoder, int, HeldOut | None]:
    """The training loop: a decoder, its number of steps, and its scores on `validation`, which select the checkpoint.

    Raises Diverged.
    """
    with _initializing:
        torch.manual_seed(how.seed)
        decoder = DomainDecoder(config).to(memory_format=torch.channels_last)
    # Fused, an optimizer's step takes 1.1 ms instead of 2.3, of the 25 ms of a whole one.
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay, fused=True)
    steps = how.steps_of(len(samples))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.learning_rate, total_steps=steps, pct_start=0.15)
    rng = np.random.default_rng(how.seed)
    crops = CropSampler(samples, len(config.labels), rng, how.batch, how.crop, how.centred, check)
    stopping = EarlyStopping(validation, how.patience) if validation else None
    checked = validation[:: max(-(-len(validation) // how.checked), 1)]
    check_every = round(how.check_every * max(steps / how.steps, 1))
    half = has_bfloat16()  # a step takes half as long, where the processor has it
    for step in range(1, steps + 1):
        check()
        batch = crops.draw()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits, distance = decoder(batch.features, batch.thumbnail, batch.detail, batch.classes)
        logits = logits.float() if batch.offsets is None else logits.float() + batch.offsets[:, None, None]
        loss = crop_loss(logits, batch.targets) + distance_loss(distance.float(), batch.distance)
        optimizer.zero_grad()
        if not torch.isfinite(loss):
            raise Diverged(f"the training diverged: its loss was {float(loss.detach())} at step {step} of {steps}")
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(step, steps)
        if stopping and (step % check_every == 0 or step == steps):
            stopping.add(decoder, step, validate(decoder, checked, check))
            if stopping.stopped:
                break
    selected, step = (stopping.decoder, stopping.step) if stopping else (decoder, steps)
    if not all(bool(torch.isfinite(weights).all()) for weights in selected.parameters()):
        raise Diverged(f"the training diverged: after {steps} steps some weights were no numbers")
    if not stopping:
        return selected, step, None
    held = stopping.best if len(checked) == len(validation) else validate(selected, validation, check)
    return selected, step, stopping.cross_fitted(held)


def _fit_with_retry(
    samples: Sequence[Sample],
    config: DecoderConfig,
    how: TrainConfig,
    validation: Sequence[Sample] = (),
    progress: Callable[[int, int], None] = lambda step, steps: None,
    check: Callable[[], None] = lambda: None,
) -> tuple[DomainDecoder, int, HeldOut | None]:
    """As `fit`; if that diverges, once more with another seed and a lower rate."""
    try:
        return fit(samples, config, how, validation, progress, check)
    except Diverged as error:
        log.warning("%s; it is tried again with another seed and a lower rate", error)
        slower = replace(how, seed=how.seed + 1, learning_rate=how.learning_rate * SECOND_RATE)
        return fit(samples, config, slower, validation, progress, check)


def cross_validate(
    samples: Sequence[Sample], config: DecoderConfig, how: TrainConfig, check: Callable[[], None] = lambda: None
) -> HeldOut | None:
    """Scores of decoders trained without some images on these images, with every image left out once.

    Which images are left out together follows from the hash of their `group`. Those of a fold whose training diverges,
    also at a lower rate, are not measured. None with one image, or if none could be measured.
    """
    images = {sample.group for sample in samples}
    folds = min(how.folds, len(images))
    if folds < 2:
        return None
    shorter = replace(
        how,
        steps=max(round(how.steps * how.fold_steps), 1),
        first_steps=max(round(how.first_steps * how.fold_steps), 1),
        image_steps=round(how.image_steps * how.fold_steps),
    )
    held = HeldOut(config.labels)
    for left_out in map(set, parts(images, folds)):
        rest = [sample for sample in samples if sample.group not in left_out]
        try:
            decoder, _, _ = _fit_with_retry(rest, config, shorter, check=check)
        except Diverged as error:
            log.warning("%d of %d images are not measured: %s", len(left_out), len(images), error)
            continue
        for sample in samples:
            if sample.group in left_out:
                check()
                held.add(decoder, sample)
    return held if held.images else None

"""Training a domain decoder: samples in, a decoder and what is known of it out.

The encoder never runs here: a sample is an embedding and a label map, and every step reads crops of a few of them.
With enough validation images the decoder learns from the others and is measured on them. With fewer it learns from all,
and is measured by cross-validation: decoders trained without some of the images are asked about these.

No image that is measured on has chosen anything of what it measures. Which step's weights are kept is chosen by the
validation images; on each half of them those weights are measured that the other half alone would have kept. What is
measured has temperature 1, and where a temperature is judged it is the one that the other half gives. See
docs/decisions/honest-validation.md.
"""

import copy
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from skylight.model.decoder.crops import Batch, CropSource, Sample
from skylight.model.decoder.edge_refinement import FOREGROUND_LOGIT_BIAS, with_background
from skylight.model.decoder.inference import Prediction, predict_pixels
from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from skylight.model.evaluation.metrics import Calibration
from skylight.model.evaluation.simulated_clicks import LabelScores
from skylight.model.masks.instance_map import touching
from skylight.model.masks.label_map import IGNORE
from skylight.model.runtime.cpu import has_bfloat16

__all__ = ["Diverged", "Sample", "TrainConfig", "Trained", "in_validation", "train", "validate"]

VALIDATION_SHARE = 0.2
# A label's touching objects are separated if such a share of its pixels lies in single objects, and such a share of
# these comes within a cell of the answer of another one. Panoptic quality so and by components, 11 kinds, after 10
# images of nuclei, pits, craters, 5 of the others: seven with 0.19 or more (nuclei, cats, metal powder) gain 0.01 to
# 0.38 on average; pits, craters and precipitates, with 0.08 or less, lose up to 0.03 or, precipitates of one seed, gain
# as much; lesions, with 0.08 to 0.23, lose 0.06 in one of six trainings, in the others nothing.
SINGLE_OBJECTS, TOUCHING = 0.8, 0.15
CALIBRATION_CELLS = 4096  # per image, at random
TEMPERATURES = np.geomspace(0.5, 5, 47)
SAME_LOSS = 1e-9  # difference of two temperatures' losses that says nothing
NEUTRAL = 1.0  # temperature of a decoder of which nothing is known
log = logging.getLogger(__name__)
SECOND_RATE = 0.3  # of the learning rate, in the second try of a training whose loss was no number
_drawing = threading.Lock()  # torch draws a network's first weights from the process's generator


class Diverged(ArithmeticError):
    """A training's loss, or its weights, became infinite or no number."""


@dataclass(frozen=True)
class TrainConfig:
    """How a decoder is trained.

    The defaults were chosen with 5 annotated images each of procedural pits, nuclei and lesions on coffee leaves, mean
    IoU on 8 others. Small batches make the most of the time: 200 steps of 16 crops 0.625, 0.759, 0.655; 400 steps of 8,
    as long, 0.708, 0.790, 0.672 at the better of two seeds (0.47 at the other: one image of eight). Rates of
    4e-3 and 8e-3 gained nothing.
    """

    steps: int = 520  # at most, with up to `many` images
    first_steps: int = 300  # with one image, and
    image_steps: int = 30  # more for each further image
    # With more than so many, as many times the steps as there are times the images, up to `longest`. Twice the steps of
    # 40 images: THEMIS 0.686 to 0.712 mIoU, nuclei 0.860 to 0.864, procedural pits 0.933 to 0.949 (one seed, 20 test
    # images); three times no more. For 5 or 10 images it depends: pits 0.906 to 0.927 by three times, but nuclei 0.746
    # to 0.646 where the steps of several trainings add up.
    many: int = 20
    longest: float = 2.0
    batch: int = 8  # crops per step
    crop: float = 0.25  # side of a crop, as a share of the embedding's
    centred: float = 0.3  # share of crops laid around an object, since most of a picture is background
    learning_rate: float = 1.5e-3  # AdamW, one cycle
    weight_decay: float = 0.02
    check_every: int = 60  # steps between looks at the validation samples; more where there are more steps than `steps`
    patience: int = 4  # looks without a better one before it stops
    checked: int = 24  # validation images looked at each time, at most: 100 would take as long as the steps between
    enough: int = 5  # validation images; fewer choose nothing: 0.04 mIoU was lost to their noise
    folds: int = 4  # of the cross-validation where there are fewer; below 2 there is none. 2 folds said too little of
    # nuclei, docs/decisions/honest-validation.md; with 4 it takes as long as the training, beside which it runs.
    fold_steps: float = 0.25  # of the steps that the decoder itself gets
    seed: int = 0

    def steps_of(self, samples: int) -> int:
        """How many steps a training on so many samples has."""
        few = min(self.steps, self.first_steps + self.image_steps * (samples - 1))
        return round(few * min(max(samples / self.many, 1.0), self.longest))


@dataclass(frozen=True)
class Trained:
    """A decoder and what is known of it."""

    decoder: DomainDecoder
    held: "HeldOut | None"  # how it, or its like, does on images it was not trained on; None with a single image
    cross_validated: bool  # its like: decoders of the same recipe trained without these images
    steps: int  # of the weights that were kept
    seconds: float

    @property
    def scores(self) -> LabelScores | None:
        """IoU per label on `held`'s images."""
        return self.held.scores if self.held else None


class HeldOut:
    """What a decoder, or several, said of images that it was not trained on, at temperature 1."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.scores = LabelScores(labels)
        self.per_task: dict[str, float] = {}  # mean foreground IoU of each, over all its annotations
        self.image_of: dict[str, str] = {}  # the `Sample.group` of each task
        self._by_task: dict[str, LabelScores] = {}
        self._by_image: dict[str, LabelScores] = {}
        self._odds: dict[str, list[Tensor]] = {}  # (K, N) of an image's labels at some of its pixels
        self._classes: dict[str, list[Tensor]] = {}  # (N,) and which of them, 1 for the first, is true there; 0: none

    @property
    def images(self) -> frozenset[str]:
        """The different pictures it was measured on, by `Sample.group`."""
        return frozenset(self._by_image)

    @property
    def error(self) -> float | None:
        """Standard error of `scores.mean` with these pictures, by leaving each out once; None with fewer than two.

        The jackknife (Efron & Stein 1981): the mean IoU is a ratio of sums, whose pictures are not alike.
        """
        count = len(self._by_image)
        if count < 2:
            return None
        without = np.array([self.scores.without(each).mean for each in self._by_image.values()])
        return float(np.sqrt((count - 1) * without.var()))

    def mean_of(self, images: Collection[str]) -> float:
        """Mean foreground IoU over some of the images; those that were not measured do not count."""
        scores = LabelScores(self.scores.labels)
        for image in images:
            if image in self._by_image:
                scores.include(self._by_image[image])
        return scores.mean

    def without_odds(self) -> "HeldOut":
        """The scores alone: neither temperature nor calibration."""
        other = HeldOut(self.scores.labels)
        other.scores, other.image_of, other.per_task = self.scores, self.image_of, self.per_task
        other._by_task, other._by_image = self._by_task, self._by_image
        return other

    def with_scores(self, sources: Mapping[str, "HeldOut"]) -> "HeldOut":
        """The same with the scores of some images, by `Sample.group`, as others have them."""
        other = HeldOut(self.scores.labels)
        other.image_of, other._odds, other._classes = self.image_of, self._odds, self._classes
        for task, image in self.image_of.items():
            other._by_task[task] = sources.get(image, self)._by_task[task]
            other.per_task[task] = other._by_task[task].mean
        for image in self._by_image:
            other._by_image[image] = sources.get(image, self)._by_image[image]
            other.scores.include(other._by_image[image])
        return other

    def add(self, decoder: DomainDecoder, sample: Sample) -> None:
        """Ask a decoder about a sample."""
        prediction = predict_pixels(neutral(decoder), sample.embedding)
        found = prediction.winner
        for scores, key in ((self._by_task, sample.task), (self._by_image, sample.group)):
            scores.setdefault(key, LabelScores(self.scores.labels)).add(found, sample.label_map)
        self.scores.add(found, sample.label_map)
        self.image_of[sample.task] = sample.group
        self.per_task[sample.task] = self._by_task[sample.task].mean
        known = torch.from_numpy(np.flatnonzero(sample.label_map.ravel() != IGNORE))
        some = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[:CALIBRATION_CELLS]]
        odds, classes = _odds(prediction, sample, some)
        self._odds.setdefault(sample.group, []).append(odds)
        self._classes.setdefault(sample.group, []).append(classes)

    def temperature(self, leaving_out: Collection[str] = ()) -> float:
        """The one by which the logits must be divided for the likeliest probabilities of all other images' pixels.

        `NEUTRAL` if there are none. Of several that are as good, the one next to it.
        """
        images = [image for image in self._odds if image not in leaving_out]
        pairs = [pair for image in images for pair in zip(self._odds[image], self._classes[image], strict=True)]
        count = sum(len(classes) for _, classes in pairs)
        if not count:
            return NEUTRAL
        classes = torch.cat([classes for _, classes in pairs])
        odds = torch.cat([odds for odds, _ in pairs], 1)
        losses = np.array([float(F.cross_entropy(with_background(odds / t).T, classes)) for t in TEMPERATURES])
        good = np.flatnonzero(losses <= losses.min() + SAME_LOSS)
        if not len(good):  # none of them is a number
            return NEUTRAL
        return float(min(TEMPERATURES[good], key=lambda each: abs(np.log(each / NEUTRAL))))

    def ece(self, temperature: float | None = None, least: float = 0.0) -> float:
        """Expected calibration error of the probabilities at a temperature.

        Without one, of each half of the images at the temperature that the other half gives, at `least` such a one.
        """
        calibration = Calibration()
        order = sorted(self._odds, key=_hashed)
        halves = [set(order)] if temperature is not None or len(order) < 2 else [set(order[::2]), set(order[1::2])]
        for half in halves:
            tempered = max(self.temperature(half), least) if temperature is None else temperature
            for image in half:
                for odds, classes in zip(self._odds[image], self._classes[image], strict=True):
                    probabilities = with_background(odds / tempered).softmax(0).numpy()[:, None]
                    calibration.add(probabilities, classes.numpy().astype(np.uint8)[None])
        return calibration.ece


def neutral(decoder: DomainDecoder) -> DomainDecoder:
    """The same weights at temperature 1."""
    if decoder.config.temperature == NEUTRAL:
        return decoder
    other = copy.copy(decoder)
    other.config = replace(decoder.config, temperature=NEUTRAL)
    return other


def _odds(prediction: Prediction, sample: Sample, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-odds (K, N) of labels at some pixels (N,) of an image, and which of them, 1 for the first, is true there.

    Where not all labels are told apart at each pixel, the last of the K stands for the others together.
    """
    probabilities = torch.from_numpy(prediction.probabilities).flatten(1)[:, pixels]
    truth = torch.from_numpy(sample.label_map.ravel()[pixels.numpy()].astype(np.int64))
    if prediction.classes is not None:
        rest = (1 - probabilities.sum(0, keepdim=True)).clamp(min=0)
        probabilities = torch.cat([probabilities, rest])
        same = torch.from_numpy(prediction.classes).flatten(1)[1:, pixels] == truth
        truth = torch.where(truth == 0, 0, torch.where(same.any(0), same.int().argmax(0) + 1, len(same) + 1))
    said = probabilities.clamp(min=1e-6).log()
    return said[1:] - said[:1] - FOREGROUND_LOGIT_BIAS, truth


def _hashed(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def in_validation(group: str) -> bool:
    """Whether an image validates instead of trains: fixed by the hash of its `Sample.group`, so it never changes sides.

    In however many tasks it is, it is on one side.
    """
    return _hashed(group)[0] < 256 * VALIDATION_SHARE


def train(
    training: Sequence[Sample],
    validation: Sequence[Sample],
    config: DecoderConfig,
    how: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
    progress: Callable[[int, int], None] = lambda step, steps: None,
    check: Callable[[], None] = lambda: None,
) -> Trained:
    """Train a decoder; the same samples and seed give the same one on the same machine.

    `check` is called for every sample and before every step, also from another thread, and ends the training by
    raising. A training that diverges is tried once more, with another seed and a lower rate. Raises Diverged if that
    diverges too, and ValueError without training samples.
    """
    if not training:
        raise ValueError("training needs at least one sample")
    started = time.monotonic()
    context, detail = training[0].embedding.context, training[0].embedding.detail
    config = replace(
        config,
        context=0 if context is None else len(context),
        detail=0 if detail is None else len(detail),
        separate=separable([*training, *validation], config.labels, check),
    )
    if len({sample.group for sample in validation}) >= how.enough:
        decoder, steps, held = _calmer(training, config, how, validation, progress, check)
        cross_validated = False
    else:
        decoder, steps, held = _beside([*training, *validation], config, how, progress, check)
        cross_validated = held is not None
    if held is not None:
        # Decoders of shorter trainings are less sure of themselves than the one that is kept: by theirs, 0.78, the ECE
        # on 14 images of nuclei was 0.015, as it was 0.011; 1.36 would have been best. So it only ever tempers.
        found = held.temperature()
        config = replace(config, temperature=max(found, NEUTRAL) if cross_validated else found)
    decoder.config = config
    seconds = time.monotonic() - started
    return Trained(decoder.eval().requires_grad_(False), held, cross_validated, steps, seconds)


def _beside(
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

    def held() -> HeldOut | None:
        torch.set_num_threads(max(threads // 2, 1))
        return cross_validate(samples, config, how, check)

    with ThreadPoolExecutor(1) as side:
        try:
            coming = side.submit(held)
            torch.set_num_threads(max(threads - threads // 2, 1))
            decoder, steps, _ = _calmer(samples, config, how, (), progress, check)
        finally:
            torch.set_num_threads(threads)
        return decoder, steps, coming.result()


def fit(
    samples: Sequence[Sample],
    config: DecoderConfig,
    how: TrainConfig,
    validation: Sequence[Sample] = (),
    progress: Callable[[int, int], None] = lambda step, steps: None,
    check: Callable[[], None] = lambda: None,
) -> tuple[DomainDecoder, int, HeldOut | None]:
    """The training loop: a decoder, its steps, and how it does on `validation`, by which the steps are then chosen.

    Raises Diverged.
    """
    with _drawing:
        torch.manual_seed(how.seed)
        decoder = DomainDecoder(config).to(memory_format=torch.channels_last)
    # Fused, an optimizer's step takes 1.1 ms instead of 2.3, of the 25 ms of a whole one.
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay, fused=True)
    steps = how.steps_of(len(samples))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.learning_rate, total_steps=steps, pct_start=0.15)
    rng = np.random.default_rng(how.seed)
    crops = CropSource(samples, len(config.labels), rng, how.batch, how.crop, how.centred, check)
    looks = _Looks(validation, how.patience) if validation else None
    some = validation[:: max(-(-len(validation) // how.checked), 1)]
    check_every = round(how.check_every * max(steps / how.steps, 1))
    half = has_bfloat16()  # a step takes half as long, where the processor has it
    for step in range(1, steps + 1):
        check()
        batch = crops.draw()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits, distance = decoder(batch.features, batch.picture, batch.detail, batch.classes)
        logits = logits.float() if batch.offsets is None else logits.float() + batch.offsets[:, None, None]
        loss = crop_loss(logits, batch.targets) + distance_loss(distance.float(), batch)
        optimizer.zero_grad()
        if not torch.isfinite(loss):
            raise Diverged(f"the training diverged: its loss was {float(loss.detach())} at step {step} of {steps}")
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(step, steps)
        if looks and (step % check_every == 0 or step == steps):
            looks.look(decoder, step, validate(decoder, some, check))
            if looks.over:
                break
    kept, step = (looks.decoder, looks.step) if looks else (decoder, steps)
    if not all(bool(torch.isfinite(weights).all()) for weights in kept.parameters()):
        raise Diverged(f"the training diverged: after {steps} steps some weights were no numbers")
    if not looks:
        return kept, step, None
    held = looks.best if len(some) == len(validation) else validate(kept, validation, check)
    return kept, step, looks.cross_fitted(held)


class _Choice:
    """Which of several looks some images would keep, and whether they would have stopped since."""

    def __init__(self, patience: int) -> None:
        self.patience, self.count, self.at, self.score, self.over = patience, 0, 0, -1.0, False

    def see(self, score: float) -> bool:
        """The next look's score; gives whether it is kept, for now."""
        if self.over:
            return False
        number, self.count = self.count, self.count + 1
        if score >= self.score:
            self.at, self.score = number, score
            return True
        self.over = number - self.at >= self.patience
        return False


class _Looks:
    """The looks at the validation images on the way: which weights are kept, and which each half of them would keep."""

    def __init__(self, validation: Sequence[Sample], patience: int) -> None:
        images = sorted({sample.group for sample in validation}, key=_hashed)
        halves = (images[::2], images[1::2]) if len(images) > 1 else ()
        self._all = _Choice(patience)
        self._halves = [(half, _Choice(patience)) for half in halves]
        self._seen: list[HeldOut] = []
        self.decoder: DomainDecoder
        self.step: int
        self.best: HeldOut

    def look(self, decoder: DomainDecoder, step: int, held: "HeldOut") -> None:
        """What a decoder says of some validation images after a step."""
        for half, choice in self._halves:
            choice.see(held.mean_of(half))
        if self._all.see(held.scores.mean):
            self.decoder, self.step, self.best = copy.deepcopy(decoder), step, held
        self._seen.append(held.without_odds())

    @property
    def over(self) -> bool:
        """Whether neither all images nor one of their halves waits for anything better."""
        return self._all.over and all(choice.over for _, choice in self._halves)

    def cross_fitted(self, held: "HeldOut") -> "HeldOut":
        """What the decoder that is kept said, but on images that were looked at, the one that the other half keeps."""
        sources: dict[str, HeldOut] = {}
        for (half, _), (_, other) in zip(self._halves, self._halves[::-1], strict=True):
            sources |= {image: self._seen[other.at] for image in half if image in self.best.images}
        return held.with_scores(sources)


def cross_validate(
    samples: Sequence[Sample], config: DecoderConfig, how: TrainConfig, check: Callable[[], None] = lambda: None
) -> HeldOut | None:
    """How decoders trained without some images do on these, with every image left out once.

    Which images are left out together follows from the hash of their `group`. Those of a fold whose training diverges,
    also at a lower rate, are not measured. None with one image, or if none could be measured.
    """
    images = sorted({sample.group for sample in samples}, key=_hashed)
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
    for fold in range(folds):
        out = set(images[fold::folds])
        try:
            decoder, _, _ = _calmer(
                [sample for sample in samples if sample.group not in out], config, shorter, check=check
            )
        except Diverged as error:
            log.warning("%d of %d images are not measured: %s", len(out), len(images), error)
            continue
        for sample in samples:
            if sample.group in out:
                check()
                held.add(decoder, sample)
    return held if held.images else None


def _calmer(
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
        calmer = replace(how, seed=how.seed + 1, learning_rate=how.learning_rate * SECOND_RATE)
        return fit(samples, config, calmer, validation, progress, check)


def validate(decoder: DomainDecoder, samples: Sequence[Sample], check: Callable[[], None] = lambda: None) -> HeldOut:
    """How a decoder does on samples, at the images' own resolution and temperature 1."""
    held = HeldOut(decoder.config.labels)
    decoder.eval()
    for sample in samples:
        check()
        held.add(decoder, sample)
    return held


def crop_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy plus soft dice of the labels.

    `logits` (B, L + 1, h, w); `targets` (B, L + 1, h, w): each cell's share of every class, all zero where ignored.
    """
    known = targets.sum(1, keepdim=True)
    entropy = -(targets * logits.log_softmax(1)).sum() / known.sum().clamp(min=1)
    p, t = (logits.softmax(1) * known)[:, 1:], targets[:, 1:]
    dice = 1 - (2 * (p * t).sum((0, 2, 3)) + 1) / (p.sum((0, 2, 3)) + t.sum((0, 2, 3)) + 1)
    return entropy + dice.mean()


def distance_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Mean absolute error of the distance to the rim over the cells of known objects; logits (B, 1, h, w)."""
    known = batch.distance >= 0
    wrong = (logits.sigmoid() - batch.distance).abs() * known
    return wrong.sum() / known.sum().clamp(min=1)


def separable(
    samples: Sequence[Sample], labels: Sequence[str], check: Callable[[], None] = lambda: None
) -> tuple[str, ...]:
    """The labels whose pixels lie almost all in single objects, of which not too few touch."""
    total, single = np.zeros(256, np.int64), np.zeros(256, np.int64)
    objects, crowded = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for sample in samples:
        check()
        total += np.bincount(sample.label_map.ravel(), minlength=256)
        if sample.instances is not None:
            single += np.bincount(sample.label_map[sample.instances > 0], minlength=256)
            cell = max(round(max(sample.label_map.shape) / len(sample.embedding.thumbnail)), 1)
            step = max(cell // 2, 1)  # a picture of 4096 px has cells of 16
            numbers = sample.instances[::step, ::step]
            classes = np.where(numbers > 0, sample.label_map[::step, ::step], 0)
            for k, window in enumerate(ndimage.find_objects(classes)[: len(labels)], 1):
                if window is not None:
                    mine = np.where(classes[window] == k, numbers[window], 0)
                    there, close = touching(mine, cell // step)
                    objects[k], crowded[k] = objects[k] + there, crowded[k] + close
    every = total * SINGLE_OBJECTS <= single
    apart = objects * TOUCHING > crowded
    return tuple(label for k, label in enumerate(labels, 1) if total[k] and every[k] and not apart[k])

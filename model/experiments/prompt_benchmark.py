"""How well a SAM follows prompts on images that it was not trained on: `python -m
skylight.model.experiments prompts --data PACKS`.

For each pack and for procedural scenes, the mean IoU of the mask that SAM trusts most: after one click at the object's
deepest point or anywhere in it, after corrections where the answer is most wrong (Sofiiuk et al. 2022, arXiv
2102.06583, whose NoC@85 is the clicks to an IoU of 0.85), and for a loose box.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skylight.model.datasets import packs, synthetic_scenes
from skylight.model.evaluation.metrics import iou
from skylight.model.evaluation.simulated_clicks import any_point, correction_click, loose_box
from skylight.model.masks.clicked_parts import corrected
from skylight.model.masks.geometry import interior_point
from skylight.model.masks.instance_map import object_numbers
from skylight.model.sam import loading
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Embedding, Prompt

OBJECTS = 4  # per image, at most
SCENES = 40  # procedural; seeds neither of pretraining nor of the demo
FIRST_SEED = 50_000
ENOUGH = 0.85  # IoU at which NoC stops counting
MOST_CLICKS = 10  # counted; RITM counts up to 20
PROCEDURAL = "procedural pits"

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PromptScores:
    """One object's scores: IoU, but for `noc`."""

    centre: float  # one click at its deepest point
    best: float  # the best of the three masks after that click
    anywhere: float  # one click anywhere in it
    two: float  # the better of the answers to one and two clicks
    three: float  # the best within three clicks
    four: float
    noc: float  # clicks to an IoU of 0.85, at most 10
    box: float


HEADINGS = ("1 click", "best of 3", "1 anywhere", "<= 2", "<= 3", "<= 4 clicks", "NoC@85", "box")


def benchmark_objects(
    data: Path | None, limit: int, names: tuple[str, ...] = (), every: bool = False
) -> Iterator[tuple[str, NDArray[np.uint8], list[Mask]]]:
    """(pack, image, objects) of held-out or `every` image, at most `limit` of each pack, and of procedural scenes."""
    for item in packs.benchmark_images(data, limit, names, every) if data else ():
        image, instances = item.read()
        yield item.pack, image, [instances == k for k in object_numbers(instances)]
    for seed in range(FIRST_SEED, FIRST_SEED + (0 if names else SCENES)):
        scene = synthetic_scenes.scene(seed)
        yield PROCEDURAL, scene.image, [each.mask for each in scene.objects if each.kind == "pit"]


def prompt_scores(segmenter: Segmenter, embedding: Embedding, mask: Mask) -> PromptScores:
    """All scores of one object, (H, W) bool."""
    rng = np.random.default_rng(0)
    clicks = [(*interior_point(mask, rng, central=True), True)]
    reached: list[float] = []
    best, logits = 0.0, None
    shown: Mask | None = None
    while len(reached) < MOST_CLICKS:
        prompt = Prompt.of(clicks)
        answer = segmenter.segment(embedding, prompt, logits)
        best = best or max(iou(each, mask) for each in answer.masks)
        found = answer.masks[0]
        shown = found if shown is None else corrected(shown, found, prompt.points, prompt.positive)
        reached.append(iou(shown, mask))
        logits = answer.logits[0]
        wrong = correction_click(shown, mask, rng)
        if wrong is None or (reached[-1] >= ENOUGH and len(reached) >= 4):
            break
        clicks.append(wrong)
    noc = next((i for i, value in enumerate(reached, 1) if value >= ENOUGH), MOST_CLICKS)
    elsewhere = segmenter.segment(embedding, Prompt.of([(*any_point(mask, rng), True)]))
    boxed = segmenter.segment(embedding, Prompt.of(box=loose_box(mask, rng)))
    two, three, four = (max(reached[:n]) for n in (2, 3, 4))
    anywhere, box = iou(elsewhere.masks[0], mask), iou(boxed.masks[0], mask)
    return PromptScores(reached[0], best, anywhere, two, three, four, noc, box)


Table = dict[str, list[PromptScores]]


def measure(
    segmenter: Segmenter, data: Path | None, limit: int, names: tuple[str, ...] = (), every: bool = False
) -> Table:
    """Each pack's scores, of at most `OBJECTS` objects an image."""
    table: Table = {}
    for pack, image, objects in benchmark_objects(data, limit, names, every):
        embedding = segmenter.embed(image)
        table.setdefault(pack, []).extend(
            prompt_scores(segmenter, embedding, mask) for mask in packs.benchmark_objects(objects, OBJECTS)
        )
    return table


def report(title: str, table: Table) -> list[dict[str, object]]:
    """Print a table, a row for each pack and one for their mean; gives the same as rows of build/prompts.json."""
    print(f"\n{title:30}{'objects':>8}" + "".join(f"{name:>12}" for name in HEADINGS))
    means = {pack: np.mean([astuple(each) for each in scores], axis=0) for pack, scores in table.items() if scores}
    counts = {pack: str(len(table[pack])) for pack in means}
    real = [values for pack, values in means.items() if pack != PROCEDURAL]
    if len(real) > 1:
        means["mean over packs"], counts["mean over packs"] = np.mean(real, axis=0), ""
    rows: list[dict[str, object]] = []
    for pack, values in means.items():
        print(f"{pack:30}{counts[pack]:>8}" + "".join(f"{value:12.3f}" for value in values))
        for name, value in zip((field.name for field in fields(PromptScores)), values, strict=True):
            unit = "clicks" if name == "noc" else "IoU"
            rows.append({"what": f"{title}, {pack}: {name}", "measured": round(float(value), 4), "unit": unit})
    return rows


def main(arguments: Sequence[str]) -> None:
    """Command line: `python -m skylight.model.experiments prompts --help`."""
    parser = argparse.ArgumentParser(prog="python -m skylight.model.experiments prompts", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of packs; without it, procedural scenes only")
    parser.add_argument("--limit", type=int, default=40, help="images per pack")
    parser.add_argument("--sam", default="tiny")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument(
        "--left-out",
        nargs="+",
        action="append",
        default=[],
        metavar=("CHECKPOINT", "PACK"),
        help="weights, and the packs that they never saw: measured on all of these packs' images, in a second table",
    )
    given = parser.parse_args(arguments)
    rows = report("held-out images", measure(loading.load(given.sam, given.checkpoint), given.data, given.limit))
    never: Table = {}
    for file, *names in given.left_out:
        never |= measure(loading.load(given.sam, Path(file)), given.data, given.limit, tuple(names), every=True)
    if never:
        rows += report("packs never seen", never)
    out = Path("build/prompts.json")
    out.parent.mkdir(exist_ok=True)
    command = "python -m skylight.model.experiments prompts " + " ".join(arguments)
    out.write_text(json.dumps([{**row, "goal": "", "ok": None, "command": command} for row in rows], indent=1))

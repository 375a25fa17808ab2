"""How well a SAM follows prompts on images that it was not trained on: `python -m model.prompts --data PACKS`.

For each pack's held-out images and for procedural scenes: mean IoU of the mask that SAM trusts most after one click at
the object's deepest point, of the best of its candidates, of the best within three clicks, and for a loose box.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model import packs, sam, synthetic
from model.evaluate import correction_click, interior_point, iou, loose_box

SMALLEST = 60  # px; smaller objects are not prompted
OBJECTS = 4  # per image, at most
SCENES = 40  # procedural; seeds neither of pretraining nor of the demo
FIRST_SEED = 50_000
COLUMNS = ("one click", "best of its masks", "<= 3 clicks", "box")

Mask = NDArray[np.bool_]


def pictures(data: Path | None, limit: int) -> Iterator[tuple[str, NDArray[np.uint8], list[Mask]]]:
    """(pack, image, objects) of held-out images, at most `limit` of each pack, and of procedural scenes."""
    taken: dict[str, int] = {}
    for item in packs.images(data) if data else ():
        if item.held_out and taken.setdefault(item.pack, 0) < limit:
            taken[item.pack] += 1
            image, instances = item.read()
            yield item.pack, image, [instances == k for k in np.unique(instances)[1:]]
    for seed in range(FIRST_SEED, FIRST_SEED + SCENES):
        scene = synthetic.scene(seed)
        yield "procedural pits", scene.image, [each.mask for each in scene.objects if each.kind == "pit"]


def prompt_scores(segmenter: sam.Segmenter, embedding: sam.Embedding, mask: Mask) -> tuple[float, float, float, float]:
    """The four `COLUMNS` for one object, (H, W) bool."""
    rng = np.random.default_rng(0)
    clicks = [(*interior_point(mask, rng, central=True), True)]
    chosen, best = [], 0.0
    logits = None
    for turn in range(3):
        answer = segmenter.segment(embedding, sam.Prompt.of(clicks), logits)
        if turn == 0:
            best = max(iou(each, mask) for each in answer.masks)
        chosen.append(iou(answer.masks[0], mask))
        logits = answer.logits[0]
        wrong = correction_click(answer.masks[0], mask, rng)
        if wrong is None:
            break
        clicks.append(wrong)
    boxed = segmenter.segment(embedding, sam.Prompt.of(box=loose_box(mask, rng)))
    return chosen[0], best, max(chosen), iou(boxed.masks[0], mask)


def main() -> None:
    """Command line: `python -m model.prompts --help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of packs; without it, procedural scenes only")
    parser.add_argument("--limit", type=int, default=40, help="images per pack")
    parser.add_argument("--sam", default="tiny")
    parser.add_argument("--checkpoint", type=Path)
    given = parser.parse_args()
    segmenter = sam.load(given.sam, given.checkpoint)
    table: dict[str, list[tuple[float, float, float, float]]] = {}
    for pack, image, objects in pictures(given.data, given.limit):
        usable = [mask for mask in objects if SMALLEST <= mask.sum() <= 0.85 * mask.size]
        embedding = segmenter.embed(image)
        step = max(len(usable) // OBJECTS, 1)
        rows = [prompt_scores(segmenter, embedding, mask) for mask in usable[::step][:OBJECTS]]
        table.setdefault(pack, []).extend(rows)
    report(table)


def report(table: dict[str, list[tuple[float, float, float, float]]]) -> None:
    """Print the table and write its rows to build/prompts.json."""
    rows = []
    print(f"{'':26}{'objects':>8}" + "".join(f"{name:>19}" for name in COLUMNS))
    for pack, scores in table.items():
        means = np.mean(scores, axis=0)
        print(f"{pack:26}{len(scores):8}" + "".join(f"{value:19.3f}" for value in means))
        for name, value in zip(COLUMNS, means, strict=True):
            rows.append({"what": f"{pack}: {name}", "measured": round(float(value), 4), "unit": "IoU"})
    out = Path("build/prompts.json")
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps([{**row, "goal": "", "ok": None, "command": "python -m model.prompts"} for row in rows]))


if __name__ == "__main__":
    main()

"""Clicks that SAM needs with and without its previous answer as a mask prompt.

`python -m skylight.model.experiments refinement --data PACKS`

The simulated annotator clicks on every object twice: once SAM gets the points alone, once also the low-resolution
logits of its answer to all points but the last, its mask prompt (Kirillov et al. 2023, arXiv 2304.02643, section
"Efficient training"). Compared are the clicks to an IoU of 0.85 (NoC@85, Sofiiuk et al. 2022, arXiv 2102.06583).
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skylight.model.datasets import packs
from skylight.model.experiments.prompt_benchmark import ENOUGH, MOST_CLICKS, OBJECTS, PROCEDURAL, benchmark_objects
from skylight.model.experiments.simulated_annotator import click
from skylight.model.sam import loading
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Embedding


@dataclass(frozen=True)
class Clicks:
    """Clicks to an IoU of 0.85 with an object, with and without the previous logits; None if 10 did not suffice."""

    without: int | None
    refined: int | None


Table = dict[str, list[Clicks]]


def clicks_needed(segmenter: Segmenter, embedding: Embedding, truth: NDArray[np.bool_], refine: bool) -> int | None:
    """Clicks to an IoU of 0.85 with an object, (H, W) bool; None if it takes more than 10."""
    rng = np.random.default_rng(0)
    _, reached = click(segmenter, embedding, truth, rng, refine, ENOUGH, MOST_CLICKS - 1)
    return len(reached) if reached[-1] >= ENOUGH else None


def measure(segmenter: Segmenter, data: Path | None, limit: int) -> Table:
    """Each pack's clicks, of at most 4 objects in each of at most `limit` held-out images."""
    table: Table = {}
    for pack, image, objects in benchmark_objects(data, limit):
        embedding = segmenter.embed(image)
        table.setdefault(pack, []).extend(
            Clicks(*(clicks_needed(segmenter, embedding, mask, refine) for refine in (False, True)))
            for mask in packs.benchmark_objects(objects, OBJECTS)
        )
    return table


def report(table: Table) -> list[dict[str, object]]:
    """Print a row for each pack and one for the mean over packs; gives the same as rows of build/refinement.json."""
    print(f"{'NoC@85':30}{'objects':>8}{'without':>9}{'refined':>9}{'fewer':>8}{'+-':>7}{'failed':>8}{'refined':>9}")
    means = {pack: summary(found) for pack, found in table.items() if found}
    real = [values for pack, values in means.items() if pack != PROCEDURAL]
    if len(real) > 1:
        means["mean over packs"] = np.mean(real, axis=0)
    rows: list[dict[str, object]] = []
    for pack, (without, refined, fewer, error, failed, failed_refined) in means.items():
        count = str(len(table.get(pack, ()))) if pack in table else ""
        left = f"{pack:30}{count:>8}{without:9.2f}{refined:9.2f}{fewer:8.2f}"
        print(f"{left}{error:7.2f}{failed:8.1%}{failed_refined:9.1%}")
        for name, value in (("without", without), ("refined", refined)):
            rows.append({"what": f"NoC@85, {pack}: {name}", "measured": round(float(value), 3), "unit": "clicks"})
    return rows


def summary(found: Sequence[Clicks]) -> NDArray[np.float64]:
    """(6,): mean clicks without and with, mean and standard error of the difference, shares that failed.

    An object for which 10 clicks did not suffice counts as 10.
    """
    pairs = np.array([[each.without or MOST_CLICKS, each.refined or MOST_CLICKS] for each in found], np.float64)
    fewer = pairs[:, 0] - pairs[:, 1]
    error = fewer.std(ddof=1) / np.sqrt(len(fewer)) if len(fewer) > 1 else 0.0
    failed = np.mean([[each.without is None, each.refined is None] for each in found], axis=0)
    return np.array([*pairs.mean(axis=0), fewer.mean(), error, *failed])


def main(arguments: Sequence[str]) -> None:
    """Command line: `python -m skylight.model.experiments refinement --help`."""
    parser = argparse.ArgumentParser(prog="python -m skylight.model.experiments refinement", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of packs; without it, procedural scenes only")
    parser.add_argument("--limit", type=int, default=40, help="images per pack")
    parser.add_argument("--sam", default="tiny")
    parser.add_argument("--checkpoint", type=Path)
    given = parser.parse_args(arguments)
    rows = report(measure(loading.load(given.sam, given.checkpoint), given.data, given.limit))
    out = Path("build/refinement.json")
    out.parent.mkdir(exist_ok=True)
    command = "python -m skylight.model.experiments refinement " + " ".join(arguments)
    out.write_text(json.dumps([{**row, "goal": "", "ok": None, "command": command} for row in rows], indent=1))

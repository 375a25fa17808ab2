"""Comparison of annotation orders, by the images they need: `python -m skylight.model.experiments.acquisition_report
<results.csv>...`.

Reads what `skylight simulate --order ...` measured, and prints, for each pack and order, how many
annotated images the decoder took to reach a given IoU.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skylight.model.evaluation.metrics import PairedDifference, paired_difference
from skylight.model.experiments.report import packs
from skylight.model.experiments.results_csv import Results, Row
from skylight.model.experiments.targets import Figures
from skylight.model.storage import atomic_write

SHARE = 0.95  # of the final IoU of the random order: the target that the orders are compared at
BASELINE = "random"

Curve = list[tuple[int, float]]  # annotated images and IoU, rising


def curves(rows: Sequence[Row], pack: str, order: str) -> dict[str, Curve]:
    """One curve for each seed of a pack's decoder in an order."""
    found: dict[str, Curve] = {}
    for row in sorted(rows, key=lambda row: row.annotations):
        if (row.pack, row.order, row.method) == (pack, order, "decoder"):
            found.setdefault(str(row.seed), []).append((row.annotations, row.iou))
    return found


def price(curve: Curve, target: float) -> float:
    """Annotated images at which a curve first reaches an IoU, between its points by a straight line.

    At least its first number of images, which nothing was chosen for; its last one if it never reaches it.
    """
    before = curve[0]
    for point in curve:
        if point[1] >= target:
            rise = point[1] - before[1]
            share = (target - before[1]) / rise if rise > 0 else 1.0
            return before[0] + share * (point[0] - before[0])
        before = point
    return float(before[0])


def compare(
    rows: Sequence[Row], pack: str, order: str
) -> tuple[float, NDArray[np.float64], PairedDifference, PairedDifference] | None:
    """An order beside the random one: target IoU, images that it took each seed, and two differences over the seeds.

    These are of the images taken and of the mean IoU of the curve's points. Only numbers of images that were measured
    in both orders with every seed count: a run that ended early gains nothing by it. None if there are none.
    """
    ours, theirs = curves(rows, pack, order), curves(rows, pack, BASELINE)
    shared = set.intersection(*({size for size, _ in c} for c in (*ours.values(), *theirs.values()))) if ours else set()
    if not shared or not theirs:
        return None
    ours, theirs = ({seed: [p for p in c if p[0] in shared] for seed, c in each.items()} for each in (ours, theirs))
    target = SHARE * float(np.mean([curve[-1][1] for curve in theirs.values()]))
    prices, before = ({seed: price(c, target) for seed, c in each.items()} for each in (ours, theirs))
    means, others = ({seed: float(np.mean([v for _, v in c])) for seed, c in each.items()} for each in (ours, theirs))
    return target, np.array(list(prices.values())), paired_difference(prices, before), paired_difference(means, others)


def report(rows: Sequence[Row], command: str) -> tuple[str, Figures]:
    """The table as text, and its rows for build/orders.json: fewer images than at random is the goal."""
    lines: list[str] = []
    figures: Figures = []
    for pack in packs(rows):
        for order in dict.fromkeys(row.order for row in rows):
            found = compare(rows, pack, order)
            if found is None:
                continue
            target, prices, fewer, better = found
            spread = float(prices.std(ddof=1)) if len(prices) > 1 else 0.0
            line = f"{pack:24} {order:12} {target:6.3f} {prices.mean():6.1f} ±{spread:4.1f}"
            if order != BASELINE:
                line += f" {fewer.mean:+7.1f} ±{fewer.error:4.1f} {better.mean:+8.3f} ±{better.error:.3f}"
            lines.append(line)
            what = f"{pack}: images for IoU {target:.3f}, {order}"
            goal = "" if order == BASELINE else f"< {prices.mean() - fewer.mean:.1f}"
            ok = None if order == BASELINE else fewer.mean < 0
            measured = round(float(prices.mean()), 2)
            figures.append(
                {"what": what, "measured": measured, "unit": "images", "goal": goal, "ok": ok, "command": command}
            )
    head = f"{'pack':24} {'order':12} {'IoU':>6} {'images':>12} {'vs random':>13} {'mean IoU vs random':>20}"
    return "\n".join([head, *lines]), figures


def main() -> None:
    """Command line: print the table of results files, and write its rows to build/orders.json."""
    names = sys.argv[1:]
    if not names or not all(Path(name).is_file() for name in names):
        sys.exit(
            "usage: python -m skylight.model.experiments.acquisition_report "
            "<folder of skylight simulate>/results.csv ..."
        )
    rows = [row for name in names for row in Results(Path(name)).rows]
    text, figures = report(rows, " ".join(["python -m skylight.model.experiments.acquisition_report", *names]))
    print(text)
    atomic_write.write(Path("build/orders.json"), json.dumps(figures, indent=1).encode())


if __name__ == "__main__":
    main()

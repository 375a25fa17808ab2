"""The targets of `skylight simulate` as rows: the decoder's lead, its training time, the effort it saves."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from skylight.model.experiments.report import cell, curves, methods, packs, plot, sizes, spread
from skylight.model.experiments.results_csv import OTHERS, Row, to_csv
from skylight.model.storage import atomic_write

SOON = 10  # images; as many as the decoder must lead by
LEADS = 0.75  # share of packs in which it must: 3 of 4
QUICKER = 0.2  # of the fine-tuned U-Net's training time, at most
HELPED, SAVED = 20, 0.6  # after so many images, so much less effort than by clicks alone
COMMAND = "skylight simulate"

Figures = list[dict[str, object]]


def figure(what: str, measured: float, unit: str, goal: str = "", ok: bool | None = None) -> dict[str, object]:
    """A row of build/simulate.json."""
    return {"what": what, "measured": round(measured, 4), "unit": unit, "goal": goal, "ok": ok, "command": COMMAND}


def figures(rows: Sequence[Row]) -> Figures:
    """Every mean, then the goals."""
    out: Figures = []
    for pack in packs(rows):
        for method in methods(rows):
            for size in sizes(rows):
                found = spread(cell(rows, pack, method, size), lambda row: row.iou)
                if found:
                    out.append(figure(f"{pack}: {method} after {size} images", found[0], "IoU"))
    return out + lead_figures(rows) + time_figures(rows) + effort_figures(rows)


def leads(rows: Sequence[Row]) -> dict[str, float]:
    """Each pack's lead of the decoder over the best alternative, IoU, where it is least within `SOON` images."""
    found: dict[str, list[float]] = {}
    for pack in packs(rows):
        for size in (size for size in sizes(rows) if size <= SOON):
            ours = spread(cell(rows, pack, "decoder", size), lambda row: row.iou)
            theirs = [spread(cell(rows, pack, method, size), lambda row: row.iou) for method in OTHERS]
            best = max((mean for mean, _ in filter(None, theirs)), default=None)
            if ours and best is not None:
                found.setdefault(pack, []).append(ours[0] - best)
    return {pack: min(values) for pack, values in found.items()}


def lead_figures(rows: Sequence[Row]) -> Figures:
    """How far the decoder leads in each pack, and in how many packs."""
    found = leads(rows)
    if not found:
        return []
    what = f"the decoder's least lead over the best alternative, <= {SOON} images"
    won = sum(lead > 0 for lead in found.values())
    share = f">= {int(np.ceil(LEADS * len(found)))} of {len(found)}"
    return [
        *(figure(f"{pack}: {what}", lead, "IoU", "> 0", lead > 0) for pack, lead in found.items()),
        figure(f"packs in which the decoder leads, <= {SOON} images", won, "packs", share, won >= LEADS * len(found)),
    ]


def time_figures(rows: Sequence[Row]) -> Figures:
    """The decoder's training time over the fine-tuned U-Net's, within `SOON` images, wherever both were trained."""
    soon = [row for row in rows if row.annotations <= SOON]
    names = "decoder", "unet_imagenet"
    cells = [{(row.pack, row.annotations) for row in soon if row.method == name} for name in names]
    both = cells[0] & cells[1]
    ours, theirs = (
        spread(
            [row for row in soon if row.method == name and (row.pack, row.annotations) in both],
            lambda row: row.train_seconds,
        )
        for name in names
    )
    if ours is None or theirs is None:
        return []
    ratio = ours[0] / max(theirs[0], 1e-9)
    what = f"the decoder's training time over unet_imagenet's, <= {SOON} images"
    return [figure(what, ratio, "ratio", f"<= {QUICKER}", ratio <= QUICKER)]


def effort_figures(rows: Sequence[Row]) -> Figures:
    """Seconds of an annotator per image in the three ways, and what is saved after `HELPED` images.

    The saving is at equal quality: a region is left that is as good as the mask which clicks would have ended with.
    Clicks alone end wherever three corrections lead; to redo what they would not better is no fair price.
    """
    out: Figures = []
    for pack in packs(rows):
        mine = [row for row in rows if row.pack == pack and row.method == "decoder"]
        hand, clicks = spread(mine, lambda row: row.hand_seconds), spread(mine, lambda row: row.sam_seconds)
        if hand is None or clicks is None:
            continue
        out.append(figure(f"{pack}: effort per image without help", hand[0], "s"))
        out.append(figure(f"{pack}: effort per image with SAM", clicks[0], "s"))
        for size in sizes(mine):
            helped = spread(cell(mine, pack, "decoder", size), lambda row: row.preannotated_seconds)
            if helped:
                out.append(figure(f"{pack}: effort per image, pre-annotated after {size} images", helped[0], "s"))
            settled = spread(cell(mine, pack, "decoder", size), lambda row: row.settled_seconds)
            if settled:
                what = f"{pack}: the same, putting right only what clicks would better, after {size} images"
                out.append(figure(what, settled[0], "s"))
            equal = settled or helped
            if equal and size == HELPED:
                less = 1 - equal[0] / clicks[0]
                what = f"{pack}: effort saved against SAM alone after {size} images"
                out.append(figure(what, less, "share", f">= {SAVED}", less >= SAVED))
    return out


def write(rows: Sequence[Row], out: Path, build: Path) -> None:
    """Write OUT/curves.csv, the rows of `figures` to `build`, and OUT/curves.png. Raises PlotError, at last."""
    atomic_write.write(out / "curves.csv", to_csv(curves(rows)).encode())
    atomic_write.write(build, json.dumps(figures(rows), indent=1).encode())
    plot(rows, out / "curves.png")

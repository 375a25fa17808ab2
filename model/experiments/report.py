"""Report of `skylight simulate`: tables, and curves with mean and standard deviation."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from skylight.model.experiments.results_csv import Row

MEAN = "mean of packs"

Value = Callable[[Row], float | None]


class PlotError(RuntimeError):
    """matplotlib is not installed; the message says what to do."""


def spread(rows: Sequence[Row], value: Value) -> tuple[float, float] | None:
    """Mean and standard deviation (of a sample; 0 for one row) of a column over the seeds; None where it is empty."""
    values = [each for row in rows if (each := value(row)) is not None]
    if not values:
        return None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def packs(rows: Sequence[Row]) -> list[str]:
    """The packs, in order of appearance."""
    return list(dict.fromkeys(row.pack for row in rows))


def methods(rows: Sequence[Row]) -> list[str]:
    """The methods, in order of appearance."""
    return list(dict.fromkeys(row.method for row in rows))


def sizes(rows: Sequence[Row]) -> list[int]:
    """The numbers of annotated images, ascending."""
    return sorted({row.annotations for row in rows})


def cell(rows: Sequence[Row], pack: str, method: str, size: int) -> list[Row]:
    """One pack's, method's and size's rows, one per seed."""
    return [row for row in rows if (row.pack, row.method, row.annotations) == (pack, method, size)]


def mean_of_packs(rows: Sequence[Row], method: str, size: int, value: Value) -> tuple[float, float] | None:
    """Mean over packs of their means, and mean of their spreads; None unless every pack has this size."""
    found = [spread(cell(rows, pack, method, size), value) for pack in packs(rows)]
    known = [each for each in found if each is not None]
    if len(known) < len(found) or not known:
        return None
    return float(np.mean([mean for mean, _ in known])), float(np.mean([deviation for _, deviation in known]))


def table(rows: Sequence[Row], title: str, value: Value, digits: int = 2, asked: Sequence[int] = ()) -> str:
    """A table per pack, and of their mean: rows are methods, columns annotated images; "" without values.

    There is a column for each number of images that any pack has or that was `asked` for, "-" where a pack has fewer.
    """
    several = [*packs(rows), MEAN] if len(packs(rows)) > 1 else packs(rows)
    columns = sorted({*sizes(rows), *asked})
    blocks = []
    for pack in several:
        lines = []
        for method in methods(rows):
            found = [
                mean_of_packs(rows, method, size, value)
                if pack == MEAN
                else spread(cell(rows, pack, method, size), value)
                for size in columns
            ]
            if any(found):
                texts = [f"{each[0]:.{digits}f} ±{each[1]:.{digits}f}" if each else "-" for each in found]
                lines.append(f"  {method:14}" + "".join(f"{text:>14}" for text in texts))
        if lines:
            head = f"  {'images':14}" + "".join(f"{size:>14}" for size in columns)
            blocks.append("\n".join([f"{pack}: {title}", head, *lines]))
    return "\n\n".join(blocks)


def effort_table(rows: Sequence[Row]) -> str:
    """Mean seconds per image by hand, with SAM, and with pre-annotation after k images; empty without them."""
    lines = []
    for pack in packs(rows):
        columns = sizes([row for row in rows if row.pack == pack])
        first = spread(cell(rows, pack, "decoder", columns[0]), lambda row: row.hand_seconds)
        clicks = spread(cell(rows, pack, "decoder", columns[0]), lambda row: row.sam_seconds)
        if first is None or clicks is None:
            continue
        lines.append(f"{pack}: seconds of an annotator per image")
        lines.append(f"  {'without help':32}{first[0]:8.1f}\n  {'SAM (and after 0 images)':32}{clicks[0]:8.1f}")
        for size in columns:
            helped = spread(cell(rows, pack, "decoder", size), lambda row: row.preannotated_seconds)
            if helped:
                less = 1 - helped[0] / clicks[0]
                name = f"SAM + pre-annotation after {size}"
                lines.append(f"  {name:32}{helped[0]:8.1f} ±{helped[1]:.1f}  ({100 * less:.0f} % less than SAM)")
            settled = spread(cell(rows, pack, "decoder", size), lambda row: row.settled_seconds)
            if settled:
                less = 1 - settled[0] / clicks[0]
                name = "  only what clicks would better"
                lines.append(f"  {name:32}{settled[0]:8.1f} ±{settled[1]:.1f}  ({100 * less:.0f} % less than SAM)")
    return "\n".join(lines)


def report(rows: Sequence[Row], asked: Sequence[int] = (), notes: Sequence[str] = ()) -> str:
    """All tables, as text, with a column for each number of images that was `asked` for, and `notes` below them."""
    blocks = [
        table(rows, "IoU of the foreground on the test images", lambda row: row.iou, asked=asked),
        table(rows, "boundary F-score", lambda row: row.boundary_f, asked=asked),
        table(rows, "expected calibration error", lambda row: row.ece, 3, asked),
        table(rows, "AP50 of instances", lambda row: row.ap50, asked=asked),
        table(rows, "AP50 of connected components", lambda row: row.parts_ap50, asked=asked),
        table(rows, "AP50 of instances, refined by SAM", lambda row: row.refined_ap50, asked=asked),
        table(rows, "panoptic quality", lambda row: row.pq, asked=asked),
        table(rows, "panoptic quality of connected components", lambda row: row.parts_pq, asked=asked),
        table(rows, "panoptic quality, refined by SAM", lambda row: row.refined_pq, asked=asked),
        table(rows, "seconds of training", lambda row: row.train_seconds, 1, asked),
        effort_table(rows),
        "\n".join(notes),
    ]
    return "\n\n".join(block for block in blocks if block)


def curves(rows: Sequence[Row]) -> list[dict[str, object]]:
    """A row per pack, method and size: mean and standard deviation over the seeds of each measure."""
    out: list[dict[str, object]] = []
    instances = ("ap50", "pq", "parts_ap50", "parts_pq", "refined_ap50", "refined_pq")
    measures = ("iou", "boundary_f", "ece", *instances, "train_seconds", "predict_seconds", "clicks", "prompt_iou")
    for pack in packs(rows):
        for method in methods(rows):
            for size in sizes(rows):
                mine = cell(rows, pack, method, size)
                if not mine:
                    continue
                line: dict[str, object] = {"pack": pack, "method": method, "annotations": size, "seeds": len(mine)}
                for name in measures:
                    found = spread(mine, lambda row, name=name: getattr(row, name))  # type: ignore[misc]
                    line[f"{name}_mean"], line[f"{name}_std"] = (f"{x:.6g}" for x in found) if found else ("", "")
                out.append(line)
    return out


def plot(rows: Sequence[Row], path: Path) -> None:
    """IoU over annotated images: a panel per pack, a line per method with its spread shaded. Raises PlotError."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise PlotError(
            f"{path.name} needs matplotlib: pip install 'label-studio-skylight[simulate]', and run this again"
        ) from error
    names = packs(rows)
    figure = Figure(figsize=(4 * len(names), 3.6), layout="constrained")
    for panel, pack in zip(np.ravel(figure.subplots(1, len(names), squeeze=False)), names, strict=True):
        columns = sizes([row for row in rows if row.pack == pack])
        for k, method in enumerate(methods(rows)):
            found = [(size, spread(cell(rows, pack, method, size), lambda row: row.iou)) for size in columns]
            points = np.array([(size, *each) for size, each in found if each]).reshape(-1, 3)
            x, mean, deviation = points.T
            panel.plot(x, mean, marker="o", markersize=3, label=method, color=f"C{k}")
            panel.fill_between(x, mean - deviation, mean + deviation, alpha=0.15, color=f"C{k}")
        panel.set(title=pack, xscale="log", xlabel="annotated images", ylabel="IoU", ylim=(0, 1))
        panel.set_xticks(columns, [str(size) for size in columns], minor=False)
        panel.minorticks_off()
    figure.legend(*panel.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)

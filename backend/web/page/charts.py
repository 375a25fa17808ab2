"""The page's charts, as the coordinates of SVG: the learning curve, and the agreement with pre-annotations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from skylight.backend.learning.agreement import RECENT, Agreement, VersionSummary, running_mean

WIDTH, HEIGHT = 460, 240  # SVG units; the page scales them to its own width
LEFT, RIGHT, TOP, BOTTOM = 38, 14, 24, 40  # margins, SVG units: room for the ticks' texts
MAX_TICKS = 6  # on the x axis
IOU_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
MAX_DOTS = 200  # annotations in the chart of agreement
COLORS = 6  # of the lines; then they repeat


@dataclass(frozen=True)
class DataPoint:
    """A value, or where it is drawn, with its tooltip."""

    x: float
    y: float
    text: str
    hollow: bool = False


@dataclass(frozen=True)
class Series:
    """Values that belong together, in the order in which a line joins them."""

    name: str
    points: Sequence[DataPoint]
    joined: bool = True
    dots: bool = True
    color: int = 0


@dataclass(frozen=True)
class DrawnSeries:
    """A series in SVG units: `path` for a polyline, "" where it is not joined, and its dots."""

    name: str
    color: int
    path: str
    dots: Sequence[DataPoint]


@dataclass(frozen=True)
class Chart:
    """A chart of IoU, 0 to 1, over a count: everything a template needs, in SVG units."""

    title: str
    summary: str
    x_label: str
    y_label: str
    lines: Sequence[DrawnSeries]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def learning_chart(curve: Sequence[VersionSummary]) -> Chart | None:
    """Mean IoU over the number of annotations, and each label's if there are several; None before the first."""
    if not curve:
        return None
    mean = Series("mean of all labels", [_mean_point(version) for version in curve])
    labels = sorted({label for version in curve for label in version.per_label})
    per_label = [
        Series(label, _label_points(curve, label), color=i % (COLORS - 1) + 1)
        for i, label in enumerate(labels if len(labels) > 1 else ())
    ]
    first, last = curve[0], curve[-1]
    text = f"mean IoU {first.mean_iou:.2f} after {counted(first.annotations, 'annotation')}"
    if len(curve) > 1:
        text += f", {last.mean_iou:.2f} after {last.annotations}"
    return chart("Learning curve", text, "annotations", "IoU", [*reversed(per_label), mean])  # the mean on top


def _label_points(curve: Sequence[VersionSummary], label: str) -> list[DataPoint]:
    return [
        DataPoint(version.annotations, version.per_label[label], f"{label}: IoU {version.per_label[label]:.2f}")
        for version in curve
        if label in version.per_label
    ]


def _mean_point(version: VersionSummary) -> DataPoint:
    mean = version.mean_iou or 0.0
    text = f"version {version.number}: mean IoU {mean:.2f} after {counted(version.annotations, 'annotation')}"
    text += "" if version.promoted else ", kept back"
    return DataPoint(version.annotations, mean, text, hollow=not version.promoted)


def agreement_chart(agreements: Sequence[Agreement]) -> Chart | None:
    """IoU of the newest accepted annotations with the pre-annotation shown, and the running mean; None before the
    first.
    """
    if not agreements:
        return None
    means = running_mean([agreement.iou for agreement in agreements])
    first = max(len(agreements) - MAX_DOTS, 0)
    dots, line = [], []
    for i, (one, mean) in enumerate(zip(agreements[first:], means[first:], strict=True), 1):
        dots.append(DataPoint(i, one.iou, f"task {one.task}, begun with {one.version}: IoU {one.iou:.2f}"))
        line.append(DataPoint(i, mean, ""))
    which = f"the last {MAX_DOTS} accepted annotations" if first else "accepted annotations"
    return chart(
        "Agreement with the pre-annotation",
        f"running mean {means[-1]:.2f} after {counted(len(agreements), 'annotation')}",
        f"{which}, oldest first",
        "IoU",
        [
            Series("one annotation", dots, joined=False, color=1),
            Series(f"mean of the last {RECENT}", line, dots=False),
        ],
    )


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 image, 2 images."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def chart(title: str, summary: str, x_label: str, y_label: str, series: Sequence[Series]) -> Chart:
    """Lay out series over whole numbers from 0, with IoU in [0, 1] upwards. Raises ValueError without any point."""
    highest = max((point.x for line in series for point in line.points), default=-1.0)
    if highest < 0:
        raise ValueError("a chart needs at least one point")
    ticks = count_ticks(highest)
    span = max(highest, ticks[-1])
    lines = []
    for one in series:
        placed = [DataPoint(x_of(p.x, span), y_of(p.y), p.text, p.hollow) for p in one.points]
        path = " ".join(f"{point.x:g},{point.y:g}" for point in placed) if one.joined else ""
        lines.append(DrawnSeries(one.name, one.color, path, placed if one.dots else ()))
    x_ticks = [(x_of(value, span), f"{value:g}") for value in ticks]
    y_ticks = [(y_of(level), f"{level:g}") for level in IOU_TICKS]
    return Chart(title, summary, x_label, y_label, lines, x_ticks, y_ticks)


def x_of(value: float, span: float) -> float:
    """The x coordinate of a value from 0 to `span`, SVG units."""
    return round(LEFT + (WIDTH - LEFT - RIGHT) * value / span, 1)


def y_of(value: float) -> float:
    """The y coordinate of a value, clipped to [0, 1], SVG units from the top."""
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max(value, 0.0), 1.0), 1)


def count_ticks(highest: float) -> list[int]:
    """Whole, round, evenly spaced numbers from 0 to `highest` or little beyond, at most `MAX_TICKS` intervals."""
    rough = max(highest, 1) / (MAX_TICKS - 1)
    power = 10 ** math.floor(math.log10(rough)) if rough >= 1 else 1
    step = next(int(power * factor) for factor in (1, 2, 5, 10) if power * factor >= rough)
    return list(range(0, math.ceil(max(highest, 1) / step) * step + 1, step))

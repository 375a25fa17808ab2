"""The page's two charts: what a project has learned, and how much of what was shown was kept."""

from collections.abc import Sequence

from skylight.backend.learning.agreement import RECENT, Agreement, Version, running_mean
from skylight.backend.web.page.charts import Chart, Point, Series, chart

DOTS = 200  # annotations in the chart of agreement, at most
COLOURS = 6  # of the lines, by turns


def curve_chart(curve: Sequence[Version]) -> Chart | None:
    """Mean IoU over the number of annotations, and each label's if there are several; None before the first."""
    if not curve:
        return None
    series = [Series("mean of all labels", [_mean_point(each) for each in curve])]
    labels = sorted({label for each in curve for label in each.per_label})
    for i, label in enumerate(labels if len(labels) > 1 else ()):
        own = [
            Point(each.annotations, each.per_label[label], f"{label}: IoU {each.per_label[label]:.2f}")
            for each in curve
            if label in each.per_label
        ]
        series.append(Series(label, own, colour=i % (COLOURS - 1) + 1))
    first, last = curve[0], curve[-1]
    text = f"mean IoU {first.mean_iou:.2f} after {counted(first.annotations, 'annotation')}"
    if len(curve) > 1:
        text += f", {last.mean_iou:.2f} after {last.annotations}"
    return chart("Learning curve", text, "annotations", "IoU", [*reversed(series[1:]), series[0]])


def _mean_point(version: Version) -> Point:
    mean = version.mean_iou or 0.0
    text = f"version {version.number}: mean IoU {mean:.2f} after {counted(version.annotations, 'annotation')}"
    return Point(version.annotations, mean, text + ("" if version.promoted else ", kept back"), not version.promoted)


def agreement_chart(found: Sequence[Agreement]) -> Chart | None:
    """IoU of the newest accepted annotations with what was shown, and the running mean; None before the first."""
    if not found:
        return None
    means = running_mean([one.iou for one in found])
    first = max(len(found) - DOTS, 0)
    dots, line = [], []
    for i, (one, mean) in enumerate(zip(found[first:], means[first:], strict=True), 1):
        dots.append(Point(i, one.iou, f"task {one.task}, begun with {one.version}: IoU {one.iou:.2f}"))
        line.append(Point(i, mean, ""))
    which = f"the last {DOTS} accepted annotations" if first else "accepted annotations"
    return chart(
        "Agreement with the pre-annotation",
        f"running mean {means[-1]:.2f} after {counted(len(found), 'annotation')}",
        f"{which}, oldest first",
        "IoU",
        [
            Series("one annotation", dots, joined=False, colour=1),
            Series(f"mean of the last {RECENT}", line, dots=False),
        ],
    )


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 image, 2 images."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

"""The geometry of the page's charts: from values to the coordinates that a template draws as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 460, 240  # SVG units; the page scales them to its own width
LEFT, RIGHT, TOP, BOTTOM = 38, 14, 24, 40  # margins, SVG units: room for the ticks' texts
TICKS = 6  # on the x axis, at most
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)  # ticks of an IoU


@dataclass(frozen=True)
class Point:
    """A value: where it lies and what is said of it."""

    x: float
    y: float
    text: str
    hollow: bool = False


@dataclass(frozen=True)
class Series:
    """Values that belong together, in the order in which they are joined."""

    name: str
    points: Sequence[Point]
    joined: bool = True
    dots: bool = True
    colour: int = 0


@dataclass(frozen=True)
class Line:
    """A series as it is drawn: `path` for an SVG polyline, "" where it is not joined; dots in SVG units."""

    name: str
    colour: int
    path: str
    dots: Sequence[Point]


@dataclass(frozen=True)
class Chart:
    """A chart of IoU, 0 to 1, over a count: everything a template needs, in SVG units."""

    title: str
    summary: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def chart(title: str, summary: str, x_label: str, y_label: str, series: Sequence[Series]) -> Chart:
    """Lay out series over whole numbers from 0, with IoU in [0, 1] upwards. Raises ValueError without any point."""
    highest = max((point.x for each in series for point in each.points), default=-1.0)
    if highest < 0:
        raise ValueError("a chart needs at least one point")
    ticks = count_ticks(highest)
    span = max(highest, ticks[-1])

    def at(point: Point) -> Point:
        x, y = across(point.x, span), upwards(point.y)
        return Point(x, y, point.text, point.hollow)

    lines = []
    for each in series:
        placed = [at(point) for point in each.points]
        path = " ".join(f"{point.x:g},{point.y:g}" for point in placed) if each.joined else ""
        lines.append(Line(each.name, each.colour, path, placed if each.dots else ()))
    x_ticks = [(across(value, span), f"{value:g}") for value in ticks]
    y_ticks = [(upwards(level), f"{level:g}") for level in LEVELS]
    return Chart(title, summary, x_label, y_label, lines, x_ticks, y_ticks)


def across(value: float, span: float) -> float:
    """Where a value from 0 to `span` lies, from the left, SVG units."""
    return round(LEFT + (WIDTH - LEFT - RIGHT) * value / span, 1)


def upwards(value: float) -> float:
    """Where a value from 0 to 1 lies, from the top, SVG units."""
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max(value, 0.0), 1.0), 1)


def count_ticks(highest: float) -> list[int]:
    """Whole, round, evenly spaced numbers from 0 to `highest` or little beyond, at most `TICKS` of them."""
    rough = max(highest, 1) / (TICKS - 1)
    power = 10 ** math.floor(math.log10(rough)) if rough >= 1 else 1
    step = next(int(power * factor) for factor in (1, 2, 5, 10) if power * factor >= rough)
    return list(range(0, math.ceil(max(highest, 1) / step) * step + 1, step))

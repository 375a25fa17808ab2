"""The figures that have a goal, as shares of it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A bar for each figure with a goal that is not 0, how often it is met: 1 is just so, 2 twice as good."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = {}
    for row in rows:
        found = re.fullmatch(r"(<=|>=) ([0-9.e+]+)", row["goal"])
        if found and float(found[2]) and row["measured"] > 0:
            goal = float(found[2])
            bars[row["what"]] = goal / row["measured"] if found[1] == "<=" else row["measured"] / goal
    figure, axes = pyplot.subplots(figsize=(9, 0.28 * len(bars) + 1), layout="constrained")
    axes.barh(list(bars), list(bars.values()), color=["#2a7" if each >= 1 else "#c43" for each in bars.values()])
    axes.axvline(1, color="#333", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("times better than the goal")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)

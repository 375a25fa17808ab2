"""Interleaved timings, and the rows that come of them."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BUILD = Path(__file__).parents[2] / "build"


@dataclass(frozen=True)
class Times:
    """Seconds that something took, each time."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Milliseconds."""
        return float(np.median(self.seconds)) * 1000

    @property
    def p95(self) -> float:
        """Milliseconds, of the slowest twentieth."""
        return float(np.percentile(self.seconds, 95)) * 1000


def interleaved(what: Mapping[str, Callable[[], Any]], rounds: int, warm: int = 2) -> dict[str, Times]:
    """Run all in turn, round by round, so that whatever else the machine does meets all of them alike."""
    taken: dict[str, list[float]] = {name: [] for name in what}
    for i in range(warm + rounds):
        for name, run in what.items():
            started = time.perf_counter()
            run()
            if i >= warm:
                taken[name].append(time.perf_counter() - started)
    return {name: Times(tuple(each)) for name, each in taken.items()}


@dataclass
class Table:
    """Measured figures; printed as they come, and written to build/bench.json."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, what: str, measured: float, unit: str, most: float | None = None, least: float | None = None) -> None:
        """A figure, and the goal that it must not exceed or must reach."""
        goal = f"<= {most:g}" if most is not None else f">= {least:g}" if least is not None else ""
        met = measured <= most if most is not None else measured >= least if least is not None else None
        self.rows.append(
            {"what": what, "measured": round(measured, 4), "unit": unit, "goal": goal, "ok": met}
            | {"command": "make bench"}
        )
        mark = "" if met is None else ("  ok" if met else "  MISSED")
        print(f"  {what:66} {measured:10.3f} {unit:9} {goal}{mark}", flush=True)

    def times(self, what: str, times: Times, most: float | None = None) -> None:
        """Median and 95th percentile of some times."""
        self.add(f"{what}, p50 of {len(times.seconds)}", times.median, "ms", most)
        self.add(f"{what}, p95", times.p95, "ms")

    def write(self, path: Path) -> list[dict[str, Any]]:
        """All rows as JSON; those of parts that were not run this time are kept from the file. Gives all."""
        path.parent.mkdir(exist_ok=True)
        earlier = json.loads(path.read_text()) if path.is_file() else []
        new = {row["what"] for row in self.rows}
        whole = [row for row in earlier if row["what"] not in new] + self.rows
        path.write_text(json.dumps(whole, indent=1))
        return whole

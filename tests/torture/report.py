"""What a torture run found: one table on the screen, and the same as rows in build/torture.json."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BUILD = Path(__file__).parents[2] / "build"
COMMAND = "make torture"


@dataclass
class Report:
    """Faults and figures, printed as they come; parts that were not run this time are kept in the file."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def fault(self, what: str, injected: int, lost: int, recovered_s: float | None = None) -> None:
        """A fault, how often it was injected, how much was lost, and the longest time until all was well again."""
        after = f", recovered in {recovered_s:.1f} s" if recovered_s is not None else ""
        print(f"  {what:60} {injected:8d} times {lost:4d} lost{after}", flush=True)
        self._row(f"{what}: injected", injected, "times")
        self._row(f"{what}: lost", lost, "", most=0)
        if recovered_s is not None:
            self._row(f"{what}: recovered in", recovered_s, "s")

    def figure(
        self, what: str, measured: float, unit: str, most: float | None = None, least: float | None = None
    ) -> None:
        """Any other figure, and the goal that it must not exceed or must reach."""
        goal = f"<= {most:g}" if most is not None else f">= {least:g}" if least is not None else ""
        row = self._row(what, measured, unit, most, least)
        mark = {True: "  ok", False: "  MISSED", None: ""}[row["ok"]]
        print(f"  {what:60} {measured:10.3f} {unit:6} {goal}{mark}", flush=True)

    @property
    def missed(self) -> list[str]:
        """The figures that missed their goal."""
        return [row["what"] for row in self.rows if row["ok"] is False]

    def write(self, path: Path = BUILD / "torture.json") -> None:
        """All rows as JSON."""
        path.parent.mkdir(exist_ok=True)
        earlier = json.loads(path.read_text()) if path.is_file() else []
        new = {row["what"] for row in self.rows}
        path.write_text(json.dumps([row for row in earlier if row["what"] not in new] + self.rows, indent=1))

    def _row(
        self, what: str, measured: float, unit: str, most: float | None = None, least: float | None = None
    ) -> dict[str, Any]:
        goal = f"<= {most:g}" if most is not None else f">= {least:g}" if least is not None else ""
        met = measured <= most if most is not None else measured >= least if least is not None else None
        row = {"what": what, "measured": round(measured, 4), "unit": unit, "goal": goal, "ok": met, "command": COMMAND}
        self.rows.append(row)
        return row

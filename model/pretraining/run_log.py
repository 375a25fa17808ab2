"""The log of a pretraining run, as a table and a plot."""

import csv
from pathlib import Path

import numpy as np

from skylight.model.storage import atomic_write

LOG_STEPS = 20  # between two rows


class RunLog:
    """`log.csv` in the folder of a run, and `log.png` of it: a row every `LOG_STEPS` steps."""

    FIELDS = ("step", "seconds", "learning_rate", "loss", "iou_first", "iou_last")

    def __init__(self, folder: Path, step: int) -> None:
        """Rows from `step` on, which a run that ended after its last save has left, are cut off."""
        self.path = folder / "log.csv"
        rows = [row for row in self.rows() if int(row["step"]) < step]
        with atomic_write.replacing(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.FIELDS)
            writer.writeheader()
            writer.writerows(rows)

    def rows(self) -> list[dict[str, str]]:
        """All rows, oldest first."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def add(self, row: dict[str, float]) -> None:
        """Append a row."""
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.FIELDS).writerow(row)

    def plot(self) -> None:
        """Draw loss and IoU over the steps, if matplotlib (the extra `simulate`) is installed."""
        try:
            from matplotlib.figure import Figure  # an optional extra
        except ImportError:
            return
        rows = self.rows()
        steps = [int(row["step"]) for row in rows]
        figure = Figure(figsize=(8, 6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        losses = np.array([float(row["loss"]) for row in rows])
        width = min(25, len(losses))
        if width:
            above.plot(steps[width - 1 :], np.convolve(losses, np.full(width, 1 / width), "valid"))
        above.set_ylabel(f"loss, mean of {LOG_STEPS * width} steps")
        for field, name in (("iou_first", "first prompt"), ("iou_last", "last click")):
            below.plot(steps, [float(row[field]) for row in rows], label=name)
        below.set_ylabel("running IoU of the mask with the highest predicted IoU")
        below.set_xlabel("step")
        below.legend()
        figure.savefig(self.path.with_name("log.png"))

"""`make scale`: embeddings a second by one and two workers here, what a team of 50 would wait for, and pictures of
20,000 px; one table.

Rows go to build/scale.json. What a click, a training and a pre-annotation cost is taken from the rows of `make bench`
in build/bench.json, else from docs/performance.md; the table says which.
"""

import json
import os

import numpy as np

from tests.bench.timing import BUILD, Table
from tests.scale import rasters
from tests.scale.embedding import rate
from tests.scale.team import ANNOTATORS, IMAGES, PROJECTS, days, team, waits

# docs/performance.md, two CPU cores: ms, s, and pre-annotations a second.
DOCUMENTED = {
    "click 1024 px, tiny SAM, small object, p50": 28.0,
    "training, 20 images": 11.0,
    "pre-annotation from": 36.0,
}
INGEST_S = 0.1
# Label Studio 1.23.2's for a prediction of four polygons, on SQLite and two cores that other programs shared: 200 by
# one import, and one by one by `LabelStudio.create_prediction`.
SENT_S = 0.003, 0.2
GPU_TIMES = 50  # a GPU's embeddings a second over a core's: an assumption, to be measured on one


def main() -> None:
    """Measure, simulate, print, write."""
    table = Table()
    one, two = rate(1), rate(2)
    table.add("embeddings, tiny SAM, 1 worker", one, "images/s")
    table.add("embeddings, tiny SAM, 2 workers", two, "images/s")
    table.add(f"2 workers over 1, on {os.cpu_count()} cores", two / one, "times")
    click, training, predicted = (
        cost(table, what, unit) for what, unit in zip(DOCUMENTED, ("ms", "s", "images/s"), strict=True)
    )
    for service in team(click, training, INGEST_S):
        found = waits(service)
        what = f"{ANNOTATORS} annotators, {PROJECTS} projects: {service.name}"
        table.add(f"{what}, load of {service.servers}", service.load, "", most=0.8)
        table.add(f"{what}, p95 of the wait", float(np.percentile(found, 95)), "s")
    for servers in (2, 4, 6, 8):
        (service,) = (each for each in team(click, training, INGEST_S, workers=servers) if each.name == "training")
        table.add(f"training by {servers} workers, p95 of the wait", float(np.percentile(waits(service), 95)), "s")
    table.add(f"embedding {IMAGES} images once, by 2 workers here", days(IMAGES, two), "days")
    table.add(f"the same by a GPU {GPU_TIMES} times a core", days(IMAGES, GPU_TIMES * one), "days")
    table.add(f"predicting {IMAGES} embedded images once, by the cores here", days(IMAGES, predicted), "days")
    for how, seconds in zip(("many at once", "one by one"), SENT_S, strict=True):
        table.add(f"Label Studio storing {IMAGES} predictions, {how}", days(IMAGES, 1 / seconds), "days")
    rasters.run(table)
    for row in table.rows:
        row["command"] = "make scale"
    BUILD.mkdir(exist_ok=True)
    (BUILD / "scale.json").write_text(json.dumps(table.rows, indent=1))


def cost(table: Table, what: str, unit: str) -> float:
    """A figure of `make bench`, or the documentation's; its row says which."""
    path = BUILD / "bench.json"
    rows = json.loads(path.read_text()) if path.is_file() else []
    measured = (float(row["measured"]) for row in rows if row["what"].startswith(what))
    found = next(measured, None)
    table.add(
        f"taken from {'docs/performance.md' if found is None else path.name}: {what}", found or DOCUMENTED[what], unit
    )
    return found or DOCUMENTED[what]


if __name__ == "__main__":
    main()

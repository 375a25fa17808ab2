"""`make scale`: embeddings a second by one and two workers here, what a team of 50 would wait for, and pictures of
20,000 px; one table.

Rows go to build/scale.json. The team's costs are those of this machine; the click and the training as `make bench`
measured them, whose rows in build/bench.json are taken where they are there.
"""

import json
import os

import numpy as np

from ..bench.timing import BUILD, Table
from . import rasters
from .embedding import rate
from .team import ANNOTATORS, IMAGES, PROJECTS, days_to_embed, team, waits

CLICK_MS, TRAINING_S, INGEST_S = 28.0, 9.0, 0.1  # README: "How fast", two CPU cores
GPU_TIMES = 50  # a GPU's embeddings a second over a core's: an assumption, to be measured on one


def main() -> None:
    """Measure, simulate, print, write."""
    table = Table()
    one, two = rate(1), rate(2)
    table.add("embeddings, tiny SAM, 1 worker", one, "images/s")
    table.add("embeddings, tiny SAM, 2 workers", two, "images/s")
    table.add(f"2 workers over 1, on {os.cpu_count()} cores", two / one, "times")
    click, training = bench("clicks", CLICK_MS), bench("training", TRAINING_S)
    for service in team(click, training, INGEST_S):
        found = waits(service)
        what = f"{ANNOTATORS} annotators, {PROJECTS} projects: {service.name}"
        table.add(f"{what}, load of {service.servers}", service.load, "", most=0.8)
        table.add(f"{what}, p95 of the wait", float(np.percentile(found, 95)), "s")
    for servers in (2, 4, 6, 8):
        (service,) = (each for each in team(click, training, INGEST_S, workers=servers) if each.name == "training")
        table.add(f"training by {servers} workers, p95 of the wait", float(np.percentile(waits(service), 95)), "s")
    table.add(f"embedding {IMAGES} images once, by 2 workers here", days_to_embed(IMAGES, two), "days")
    table.add(f"the same by a GPU {GPU_TIMES} times a core", days_to_embed(IMAGES, GPU_TIMES * one), "days")
    rasters.run(table)
    for row in table.rows:
        row["command"] = "make scale"
    BUILD.mkdir(exist_ok=True)
    (BUILD / "scale.json").write_text(json.dumps(table.rows, indent=1))


def bench(what: str, default: float) -> float:
    """A figure of `make bench`, or the README's."""
    wanted = {"clicks": "click 1024 px, tiny SAM, large object, p50", "training": "training, 20 images"}[what]
    path = BUILD / "bench.json"
    rows = json.loads(path.read_text()) if path.is_file() else []
    return next((float(row["measured"]) for row in rows if row["what"].startswith(wanted)), default)


if __name__ == "__main__":
    main()

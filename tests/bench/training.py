"""From accepted annotations to a version that is served; and the pre-annotation of what is left."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from skylight.backend.learning.training import train_version
from skylight.backend.settings import Settings
from skylight.backend.store.samples import SampleRecord
from skylight.backend.store.versions import Versions
from skylight.model.datasets import synthetic_scenes
from skylight.model.decoder.inference import instances, predict_pixels
from skylight.model.images.decoding import content_hash
from tests.bench.serving import PROJECT, Service
from tests.bench.timing import Table
from tests.support.label_studio_double import CONFIG
from tests.support.planted_embeddings import png

SIZES = (20, 100, 500)
# s: what 20 images may take, and 500. A second training is of the same images and one more.
FIRST, LATER, MOST = 25.0, 15.0, 60.0
PREDICTED = 60  # images
FIRST_SEED = 40_000


def run(table: Table, broker: str) -> None:
    """Trainings in processes of their own, as a worker's, each with its memory; then predictions."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        fill(service_in(home, broker), SIZES[-1] + 1)
        for size in SIZES:
            first, later = (child(home, broker, number) for number in (size, size + 1))
            goals = (FIRST, LATER) if size == SIZES[0] else (MOST, MOST) if size == SIZES[-1] else (None, None)
            table.add(f"training, {size} images of 512 px, the first", first["seconds"], "s", goals[0])
            table.add(f"training, {size + 1} images, the next", later["seconds"], "s", goals[1])
            table.add(f"training, {size} images: peak memory", first["peak"], "MB", 1536)
            table.add(f"training, {size + 1} images: images encoded by the second", later["encoded"], "", 0)
            table.add(f"training, {size} images: mean IoU in validation", first["iou"], "IoU")
        table.add(f"pre-annotation from {PREDICTED} cached embeddings", later["predicted"], "images/s", None, 15)


def service_in(home: Path, broker: str) -> Service:
    """A service over a folder."""
    return Service(Settings(redis_url=broker, home=home, device="cpu"))


def fill(service: Service, count: int, project: str = PROJECT) -> None:
    """Embed procedural scenes, and keep their pits as accepted annotations."""
    for number in range(1, count + 1):
        scene = synthetic_scenes.scene(FIRST_SEED + number)
        digest = content_hash(png(scene.image))
        service.embedder.cache.get(digest, lambda: service.embedder.segmenter.embed(scene.image))  # noqa: B023
        objects = np.zeros(scene.image.shape[:2], np.uint16)
        for k, each in enumerate((each for each in scene.objects if each.kind == "pit"), 1):
            objects[each.mask] = k
        record = SampleRecord(number, number, "2026", f"/{number}.png", digest, objects.shape, ("Pit",), 1)
        service.store.put(project, record, (objects > 0).astype(np.uint8), objects)
    service.store.save_config(project, CONFIG)


def child(home: Path, broker: str, count: int) -> dict[str, float]:
    """A training of the first `count` annotations, measured by the process that does it."""
    environ = os.environ | {"REDIS_URL": broker}
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.training", str(home), str(count)]
    done = subprocess.run(command, env=environ, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """The child: train, then predict; prints what it took."""
    home, count = Path(sys.argv[1]), int(sys.argv[2])
    service = service_in(home, os.environ["REDIS_URL"])
    encoded = []
    segmenter = service.embedder.segmenter
    embed = segmenter.embed
    segmenter.embed = lambda image: (encoded.append(1), embed(image))[1]  # type: ignore[method-assign]
    service.store.samples = lambda project: [  # type: ignore[method-assign]
        record for record in type(service.store).samples(service.store, project) if record.annotation <= count
    ]
    started = time.perf_counter()
    train_version(service, PROJECT, asked=True)
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()  # getrusage's ru_maxrss would count the parent's before exec
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    versions: Versions = service.versions
    number = versions.numbers(PROJECT)[-1]
    decoder = service.decoder_of_version(PROJECT, number)
    assert decoder is not None
    records = service.store.samples(PROJECT)[:PREDICTED]
    started = time.perf_counter()
    for record in records:
        embedding = service.embedder.embedding_of(record.image, record.url)
        prediction = predict_pixels(decoder, embedding)
        list(instances(prediction, service.settings.min_area))
        assert 0 <= prediction.confidence <= 1
    rate = len(records) / (time.perf_counter() - started)
    iou = versions.card(PROJECT, number)["validation"]["mean_iou"]
    print(json.dumps({"seconds": seconds, "peak": peak, "encoded": len(encoded), "iou": iou, "predicted": rate}))


if __name__ == "__main__":
    main()

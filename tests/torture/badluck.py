"""Bits that turn in every kind of file, disks that fill up or become read-only, annotations that are nonsense."""

import logging
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import redis
import torch

from skylight.backend.errors import DamagedFile
from skylight.backend.images.embedder import ImageEmbedder
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.learning.reconcile import reconcile
from skylight.backend.learning.training import train_version
from skylight.backend.queue.retries import FIRST_PAUSE_SECONDS
from skylight.backend.service import Service
from skylight.backend.settings import Settings
from skylight.backend.store import migrations
from skylight.backend.web.app import create_app
from skylight.backend.worker import worker
from skylight.model.decoder.training import TrainConfig
from skylight.model.embeddings.cache import EmbeddingCache
from skylight.model.storage.checksums import unseal
from tests.support.bit_flips import fill, flip, small_disk, writable
from tests.support.label_studio_double import CONFIG, KEY, Studio, wait_until
from tests.support.planted_embeddings import Planted, brush, png, square
from tests.torture.report import Report

FLIPS = 40  # rounds for each kind of file
BITS = 12  # turned at most in a round
DISKS = 10
ODD = 300  # annotations
LABELING = parse_config(CONFIG)
KINDS = {
    "embedding": "embeddings/**/*.safetensors",
    "sample's record": "projects/*/samples/*.json",
    "label map or objects": "projects/*/samples/*.png",
    "decoder": "projects/*/versions/2/decoder.safetensors",
    "version's card": "projects/*/versions/2/card.json",
    "current version": "projects/*/current.json",
    "configuration": "projects/*/project.json",
    "address": "addresses/*/*",
    "anything, three files at once": "**/*",
}


@dataclass
class Scene:
    """A Skylight without processes, over a real broker, and a Label Studio."""

    studio: Studio
    settings: Settings
    project: str = ""

    def service(self) -> Service:
        """As after a restart."""
        made = Service(self.settings)
        made.recipe = TrainConfig(steps=2, batch=1)
        cache = EmbeddingCache(made.files, Planted.encoder_id, 2**20, on_damage=made._report_damaged_embedding)
        made._embedder = ImageEmbedder(Planted(), cache, made._fetch, 10**6)  # type: ignore[arg-type]
        return made

    def annotate(self, seed: int) -> dict[str, Any]:
        """A new task with a submitted square."""
        image, mask = square(seed)
        return self.studio.annotate(self.studio.add_task(self.project, png(image)), [brush(LABELING, mask)])


@contextmanager
def scene(home: Path) -> Iterator[Scene]:
    """Broker, Label Studio, one project with four samples and two versions."""
    with tempfile.TemporaryDirectory() as folder, Studio() as studio:
        socket = Path(folder) / "s"
        with subprocess.Popen([sys.executable, "-m", "skylight.backend.process.broker", folder, str(socket)]) as broker:
            connection = redis.Redis(unix_socket_path=str(socket))
            wait_until(lambda: _answers(connection))
            made = Scene(studio, Settings(studio.url, KEY, f"unix://{socket}", home, device="cpu"))
            made.project = studio.add_project()
            service = made.service()
            migrations.check(service.files, service.queue.redis)
            service.store.save_config(made.project, CONFIG)
            for seed in range(4):
                made.annotate(seed)
            reconcile(service, made.project)
            train_version(service, made.project)
            service.recipe = TrainConfig(steps=2, batch=1, seed=1)
            train_version(service, made.project)
            yield made
            broker.terminate()


def _answers(connection: redis.Redis) -> bool:
    with suppress(redis.ConnectionError):
        return bool(connection.ping())
    return False


def run(report: Report) -> None:
    """All faults. The log, which would be long, is off meanwhile."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    try:
        _run(report)
    finally:
        logging.disable(logging.NOTSET)


def _run(report: Report) -> None:
    with tempfile.TemporaryDirectory() as folder, scene(Path(folder) / "home") as made:
        _flips(report, made, Path(folder) / "sound")
        _nonsense(report, made)
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder) / "disk", 64) as mounted:
        if mounted:
            with scene(Path(folder) / "disk" / "home") as made:
                _disks(report, made, Path(folder) / "disk")
        else:
            print("  no disk may be mounted here: full and read-only ones are left out")
    _migrations(report)


def _truth(service: Service, project: str) -> dict[str, Any]:
    """What must come out of the store, whatever was done to it."""
    versions = {}
    for number in (1, 2):
        decoder = service.decoder_of_version(project, number)
        assert decoder is not None
        versions[number] = {name: value.clone() for name, value in decoder.state_dict().items()}
    found = service.store.samples(project)
    return {
        "samples": {each.annotation: service.store.label_map(project, each) for each in found},
        "embeddings": {each.image: service.embedder.embedding_of(each.image, each.url).features for each in found},
        "versions": versions,
    }


def _flips(report: Report, made: Scene, sound: Path) -> None:
    home, rng = made.settings.home, np.random.default_rng(0)
    truth = _truth(made.service(), made.project)
    shutil.copytree(home, sound)
    for kind, pattern in KINDS.items():
        lost, longest = 0, 0.0
        for _ in range(FLIPS):
            shutil.rmtree(home)
            shutil.copytree(sound, home)
            with redis.Redis.from_url(made.settings.redis_url) as connection:
                connection.flushall()
            files = sorted(path for path in home.glob(pattern) if path.is_file() and "lock" not in path.name)
            chosen = rng.choice(len(files), 3 if pattern == "**/*" else 1, replace=False)
            for index in chosen:
                if files[index].stat().st_size:
                    flip(files[index], rng, int(rng.integers(1, BITS + 1)))
            started = time.monotonic()
            problem = _problem(made, truth)
            longest = max(longest, time.monotonic() - started)
            if problem:
                lost += 1
                print(f"    {kind}: {[str(files[index].relative_to(home)) for index in chosen]}: {problem}")
        report.fault(f"bits turned: {kind}", FLIPS, lost, longest)
    shutil.rmtree(home)
    shutil.copytree(sound, home)


def _problem(made: Scene, truth: dict[str, Any]) -> str:
    """What is wrong after a restart, a look at the page, and two reconciliations; "" if all is as it was."""
    service = made.service()
    try:
        migrations.check(service.files, service.queue.redis)
        client = create_app(made.settings, service).test_client()
        pages = [client.get(path).status_code for path in ("/health", "/status", "/")]
        if pages != [200, 200, 200]:
            return f"pages answered {pages}"
        for record in service.store.samples(made.project):
            with suppress(DamagedFile, FileNotFoundError):
                if (service.store.label_map(made.project, record) != truth["samples"][record.annotation]).any():
                    return f"sample {record.annotation} is another"
        for _ in range(2):
            reconcile(service, made.project)
        for record in service.store.samples(made.project):
            with suppress(DamagedFile, FileNotFoundError):  # as a training does
                service.store.label_map(made.project, record)
                service.store.objects(made.project, record)
        reconcile(service, made.project)
        return _differs(service, made.project, truth)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is what this looks for)
        return f"{type(error).__name__}: {error}"
    finally:
        service.queue.redis.close()


def _differs(service: Service, project: str, truth: dict[str, Any]) -> str:
    found = {each.annotation: each for each in service.store.samples(project)}
    if found.keys() != truth["samples"].keys():
        return f"samples {sorted(found)} instead of {sorted(truth['samples'])}"
    for annotation, record in found.items():
        if (service.store.label_map(project, record) != truth["samples"][annotation]).any():
            return f"sample {annotation} is another"
        features = service.embedder.embedding_of(record.image, record.url).features
        if (features != truth["embeddings"][record.image]).any():
            return f"the embedding of sample {annotation} is another"
    decoder, number = service.decoder_for(project, LABELING), service.versions.current(project)
    if decoder is None or number not in truth["versions"]:
        return f"version {number} is served"
    weights = decoder.state_dict()
    if any((weights[name] != value).any() for name, value in truth["versions"][number].items()):
        return f"version {number} has other weights"
    return "" if service.store.config(project) == CONFIG else "another configuration"


def _nonsense(report: Report, made: Scene) -> None:
    """Annotations of which nothing can be read, between sound ones."""
    service, rng = made.service(), np.random.default_rng(1)
    before, sound = len(service.store.samples(made.project)), 0
    started = time.monotonic()
    for number in range(ODD):
        annotation = made.annotate(number)
        if number % 10 == 0:
            sound += 1
        else:
            _spoil(annotation["result"][0], rng)
    for _ in range(3):
        reconcile(service, made.project)
    kept, aside = len(service.store.samples(made.project)) - before, service.quarantine.of(made.project)
    unnamed = ODD - kept - sum(each.quarantined for each in aside)
    report.fault(
        "annotations of nonsense: sound ones lost", ODD - sound, max(sound - kept, 0), time.monotonic() - started
    )
    report.fault("annotations of nonsense: neither a sample nor listed", ODD - sound, unnamed)


def _spoil(region: dict[str, Any], rng: np.random.Generator) -> None:
    odd: tuple[Any, ...] = (None, -1, "x", [], {}, [[]], 10**9, float(rng.normal()), [1, 2, 3], "rle")
    value = odd[int(rng.integers(len(odd)))]
    where = int(rng.integers(4))
    if where == 0:
        region["value"] = value
    elif where == 1:
        region["value"]["rle"] = value
    elif where == 2:
        region["original_width"] = value
    else:
        region["value"]["rle"] = list(map(int, rng.integers(0, 256, 40)))


def _disks(report: Report, made: Scene, disk: Path) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for what in ("disk full", "store read-only"):
        lost, longest = 0, 0.0
        for number in range(DISKS):
            service = made.service()
            client = create_app(made.settings, service).test_client()
            annotation = made.annotate(1000 + number)
            image = made.studio.tasks[annotation["task"]]["data"]["image"]
            filler = fill(disk) if what == "disk full" else None
            if filler is None:
                writable(disk, False)
            body = made.studio.webhook("ANNOTATION_CREATED", made.project, annotation)
            answered = client.post("/webhook", json=body).status_code == 202
            digest, _ = service.embedder.embedding(image)
            said = service.embedder.embedding(image)[0] == digest
            worker.start(service).work(burst=True, logging_level="CRITICAL")
            told = any(each.what == "ingest" for each in service.failures.of(made.project))
            page = client.get("/")
            told &= page.status_code == 200 and b"ingest:" in page.data
            if filler:
                filler.unlink()
            else:
                writable(disk, True)
            started = time.monotonic()
            service.retries.request_due(time.time() + FIRST_PAUSE_SECONDS + 1)
            worker.start(service).work(burst=True, logging_level="CRITICAL")
            there = service.store.get(made.project, annotation["id"]) is not None
            longest = max(longest, time.monotonic() - started)
            if not (answered and said and told and there):
                lost += 1
                print(f"    {what}: answered {answered}, click {said}, told {told}, sample {there}")
        report.fault(what, DISKS, lost, longest)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _migrations(report: Report) -> None:
    """Eight processes start at once over a store of before there were layouts."""
    lost, rounds, files = 0, 3, 300
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            samples = home / "projects" / "1.1" / "samples"
            samples.mkdir(parents=True)
            for number in range(files):
                (samples / f"{number}.json").write_text(f'{{"annotation": {number}}}')
            with get_context("spawn").Pool(4) as pool:
                pool.map(_migrate, [home] * 8)
            found = [unseal(path.read_bytes())["annotation"] for path in samples.glob("*.json")]
            lost += sorted(found) != list(range(files)) or migrations.stored(home) != migrations.LAYOUT
    report.fault("eight processes that migrate at once", rounds, lost)


def _migrate(home: Path) -> None:
    migrations.check(Service(Settings(home=home, redis_url="unix:///nowhere/s")))

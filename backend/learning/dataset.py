"""From a project's samples to what a training reads: which annotations count, label maps of today's labels, tiles.

A picture larger than a tile is learned from by its tiles with something annotated in them, and some empty ones.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from skylight.backend.errors import SkylightError
from skylight.backend.images.embedder import ImageEmbedder
from skylight.backend.labelstudio.label_config import Labeling
from skylight.backend.service import Service
from skylight.backend.store.samples import SampleRecord
from skylight.backend.trace import record_error
from skylight.model.decoder.sample_spill import SampleSpill
from skylight.model.decoder.samples import Sample
from skylight.model.images.decoding import ImageError
from skylight.model.images.raster import Window
from skylight.model.images.tiling import tile_windows
from skylight.model.masks.consensus import agreed_objects, majority
from skylight.model.masks.label_map import IGNORE
from skylight.model.sam.types import Embedding

MOST_TILES = 64  # of a picture, with something in them: more would outweigh all other tasks
EMPTY_TILES = (2, 16)  # with nothing in them, the fewest and the most; in between as many as with something

TaskSample = tuple[list[SampleRecord], Sample]  # a task's sample, and the stored samples that it was made of

log = logging.getLogger(__name__)


def accepted(records: Sequence[SampleRecord], accept: str) -> list[SampleRecord]:
    """The samples that are learned from by the setting `accept`; all of them were submitted."""
    if accept == "submitted":
        return list(records)
    return [record for record in records if (record.reviewed if accept == "reviewed" else record.ground_truth)]


def by_task(records: Sequence[SampleRecord], consensus: str) -> list[list[SampleRecord]]:
    """Each task's samples that are learned from, the newest first: that one alone, unless `consensus` is "majority".

    A task whose image was replaced has samples of two images; those of the newest one's image vote.
    """
    tasks: dict[int, list[SampleRecord]] = {}
    for record in sorted(records, key=lambda record: (record.updated_at, record.annotation), reverse=True):
        tasks.setdefault(record.task, []).append(record)
    voting = [[record for record in task if record.image == task[0].image] for _, task in sorted(tasks.items())]
    return voting if consensus == "majority" else [task[:1] for task in voting]


def load_tasks(
    service: Service,
    embedder: ImageEmbedder,
    project: str,
    labeling: Labeling,
    tasks: Sequence[Sequence[SampleRecord]],
    spill: SampleSpill,
) -> list[TaskSample]:
    """All tasks as `load_task` reads them, without those that it cannot read."""
    loaded = (load_task(service, embedder, project, labeling, task) for task in tasks)
    return [(records, spill.put(sample)) for records, sample in filter(None, loaded)]


def load_task(
    service: Service, embedder: ImageEmbedder, project: str, labeling: Labeling, records: Sequence[SampleRecord]
) -> TaskSample | None:
    """A task's stored samples, the newest first, as the one that training reads, and those that it was made of.

    None, with a line in the log, if none of them can be read.
    """
    loaded = [(record, load_sample(service, embedder, project, labeling, record)) for record in records]
    read = [(record, sample) for record, sample in loaded if sample is not None]
    if len(read) < 2:
        return ([read[0][0]], read[0][1]) if read else None
    maps = [sample.label_map for _, sample in read]
    agreed = majority(maps)
    objects = agreed_objects(agreed, maps, [sample.instances for _, sample in read])
    return [record for record, _ in read], replace(read[0][1], label_map=agreed, instances=objects)


def load_sample(
    service: Service, embedder: ImageEmbedder, project: str, labeling: Labeling, record: SampleRecord
) -> Sample | None:
    """A stored sample as training reads it; None, with a line in the log, if it or its image is not there any more."""
    service.check_stop()
    try:
        embedding = embedder.embedding_of(record.image, record.url)
        drawn = service.store.label_map(project, record)
        objects = service.store.objects(project, record)
    except (SkylightError, ImageError, FileNotFoundError) as error:  # the last: another worker has replaced it just now
        log.error("project %s annotation %s is left out: %s", project, record.annotation, error)
        record_error(error)
        return None
    return Sample(str(record.task), embedding, remap(drawn, record.labels, labeling.labels), objects, record.image)


def remap(label_map: NDArray[np.uint8], drawn: tuple[str, ...], wanted: tuple[str, ...]) -> NDArray[np.uint8]:
    """A label map (H, W) uint8 drawn with other labels, in those of now; a label that is gone becomes "ignore"."""
    if drawn == wanted:
        return label_map
    table = np.full(256, IGNORE, np.uint8)
    table[0] = 0
    for k, label in enumerate(drawn, 1):
        table[k] = wanted.index(label) + 1 if label in wanted else IGNORE
    remapped: NDArray[np.uint8] = table[label_map]
    return remapped


def training_samples(embedder: ImageEmbedder, loaded: Sequence[TaskSample], spill: SampleSpill) -> list[Sample]:
    """The samples of all tasks, or in place of one of a large picture those of its tiles."""
    return [
        part if part is sample else spill.put(part)
        for records, sample in loaded
        for part in split_into_tiles(embedder, records[0], sample)
    ]


def split_into_tiles(embedder: ImageEmbedder, record: SampleRecord, sample: Sample) -> list[Sample]:
    """The samples that are learned from in place of one: itself, unless its picture is larger than a tile.

    Pixels without data become "ignore". Which tiles are chosen follows from the picture alone. If it cannot be read
    now, none, with a line in the log.
    """
    if embedder.large is None or max(record.size) <= embedder.side:
        return [_ignore_unknown(sample)]
    try:
        digest, raster = embedder.open(record.url)
        if digest != record.image or isinstance(raster, Embedding):
            log.error("annotation %s is left out: its address shows another image now", record.annotation)
            return []
        samples = []
        for window in choose_tiles(sample.label_map, tile_windows(record.size, embedder.side), digest, raster.known):
            row, column, height, width = window
            part = np.s_[row : row + height, column : column + width]
            embedding = embedder.tile_embedding(digest, raster, window)
            objects = None if sample.instances is None else sample.instances[part].copy()
            label_map, known = sample.label_map[part].copy(), raster.known(window)
            if known is not None:
                label_map[~known] = IGNORE
            samples.append(Sample(sample.task, embedding, label_map, objects, sample.image))
        return samples
    except (SkylightError, ImageError) as error:
        log.error("annotation %s is left out: %s", record.annotation, error)
        return []


def _ignore_unknown(sample: Sample) -> Sample:
    """A sample whose pixels without data are "ignore"."""
    known = sample.embedding.known_mask()
    if known is None or known.shape != sample.label_map.shape:
        return sample
    return replace(sample, label_map=np.where(known, sample.label_map, np.uint8(IGNORE)))


def choose_tiles(
    label_map: NDArray[np.uint8],
    tiles: Sequence[Window],
    seed: str,
    known: Callable[[Window], NDArray[np.bool_] | None] = lambda window: None,
) -> list[Window]:
    """The tiles of a label map (H, W) uint8 that are learned from: up to `MOST_TILES`, and some of `EMPTY_TILES`.

    `known` as of a raster: a tile without data teaches nothing.
    """
    order = sorted(tiles, key=lambda window: hashlib.sha256(f"{seed}{window}".encode()).digest())
    full, empty = [], []
    for window in order:
        row, column, height, width = window
        part = label_map[row : row + height, column : column + width]
        if ((part != 0) & (part != IGNORE)).any():
            full.append(window)
        elif (part != IGNORE).any():
            empty.append(window)
    full = full[:MOST_TILES]
    with_data = (window for window in empty if (pixels := known(window)) is None or pixels.any())
    return full + list(islice(with_data, min(max(len(full), EMPTY_TILES[0]), EMPTY_TILES[1])))

"""What is learned from a picture larger than a tile: the tiles with something annotated in them, some empty ones."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from skylight.backend.errors import SkylightError
from skylight.backend.images.embedder import ImageEmbedder
from skylight.backend.store.samples import SampleRecord
from skylight.model.decoder.samples import Sample
from skylight.model.images.decoding import ImageError
from skylight.model.images.raster import Window
from skylight.model.mapping.tiled_inference import windows
from skylight.model.masks.label_map import IGNORE
from skylight.model.sam.types import Embedding

MOST = 64  # tiles of a picture with something in them: more would outweigh all other tasks
EMPTY = (2, 16)  # of those with nothing, the fewest and the most; between them as many as with something

log = logging.getLogger(__name__)


def pieces(embedder: ImageEmbedder, record: SampleRecord, sample: Sample) -> list[Sample]:
    """The samples that are learned from in the place of one: itself, unless its picture is larger than a tile.

    Pixels without data are ignored. Which tiles are chosen follows from the picture alone. If it cannot be read now,
    none, with a line in the log.
    """
    if embedder.large is None or max(record.size) <= embedder.side:
        return [_where_known(sample)]
    try:
        digest, raster = embedder.open(record.url)
        if digest != record.image or isinstance(raster, Embedding):
            log.error("annotation %s is left out: its address shows another image now", record.annotation)
            return []
        made = []
        for window in chosen(sample.label_map, windows(record.size, embedder.side), digest, raster.known):
            row, column, height, width = window
            part = np.s_[row : row + height, column : column + width]
            embedding = embedder.tile_embedding(digest, raster, window)
            objects = None if sample.instances is None else sample.instances[part].copy()
            label_map, there = sample.label_map[part].copy(), raster.known(window)
            if there is not None:
                label_map[~there] = IGNORE
            made.append(Sample(sample.task, embedding, label_map, objects, sample.image))
        return made
    except (SkylightError, ImageError) as error:
        log.error("annotation %s is left out: %s", record.annotation, error)
        return []


def _where_known(sample: Sample) -> Sample:
    """A sample that does not say anything of pixels without data."""
    there = sample.embedding.known_mask()
    if there is None or there.shape != sample.label_map.shape:
        return sample
    return replace(sample, label_map=np.where(there, sample.label_map, np.uint8(IGNORE)))


def chosen(
    label_map: NDArray[np.uint8],
    tiles: Sequence[Window],
    seed: str,
    known: Callable[[Window], NDArray[np.bool_] | None] = lambda window: None,
) -> list[Window]:
    """The tiles that are learned from, of a label map (H, W) uint8: at most `MOST` with something, `EMPTY` without.

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
    full = full[:MOST]
    there = (window for window in empty if (pixels := known(window)) is None or pixels.any())
    return full + list(islice(there, min(max(len(full), EMPTY[0]), EMPTY[1])))

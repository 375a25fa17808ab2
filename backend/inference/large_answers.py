"""Answers about pictures larger than a tile: a click looks at one tile of it, a decoder at all, one after the other."""

import dataclasses
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.backend.images.embedder import Pictures
from skylight.backend.inference.clicks import answered, drawn, in_turn
from skylight.backend.labelstudio.label_config import Labeling
from skylight.backend.labelstudio.prompts import Asked
from skylight.backend.labelstudio.region_validator import check_regions
from skylight.backend.labelstudio.region_writer import Part, characters_of, draw
from skylight.backend.limits import MAX_ANSWERED_LARGE, MAX_CHARACTERS
from skylight.backend.service import Service
from skylight.model.decoder.network import DomainDecoder
from skylight.model.images.raster import Raster, Window
from skylight.model.mapping import tiled_inference
from skylight.model.mapping.component_merging import Map
from skylight.model.sam.types import Prompt

WIDER = 3  # times that a click looks again at a window of twice the side, if its object goes on beyond

log = logging.getLogger(__name__)


def click_large(
    service: Service,
    pictures: Pictures,
    labeling: Labeling,
    task: dict[str, Any],
    asked: Asked,
    digest: str,
    raster: Raster,
) -> tuple[list[dict[str, Any]], float]:
    """As `predict.click`, for a large picture: from the tile whose centre is nearest to the prompt.

    If the mask goes on beyond the tile, the answer is that of a window of twice the side around it.
    """
    here, asked = in_turn(service, task, asked, digest, raster.size)
    window = tiled_inference.nearest(raster.size, pictures.side, *_extent(asked.prompt))
    for left in range(WIDER, -1, -1):
        place = *here, window  # logits are of one window
        embedding = pictures.tile(digest, raster, window)
        prompt = _moved(asked.prompt, window)
        mask, expected = answered(service, pictures.segmenter, embedding, place, asked, prompt)
        further = tiled_inference.wider(raster.size, window, mask)
        if further is None or not left:
            break
        window = further
    return drawn(service, labeling, task, asked, mask, expected, Part(window[0], window[1], raster.size))


def preannotation_large(
    service: Service, decoder: DomainDecoder, labeling: Labeling, digest: str, raster: Raster
) -> tuple[list[dict[str, Any]], float]:
    """As `predict.preannotation`, for a large picture; SAM is not asked about its regions."""
    config, pictures = decoder.config, service.pictures.seen(decoder.config.normalisation)
    separated = frozenset(config.labels.index(label) for label in config.separate)
    found = Map(raster.size, len(config.labels), separated)
    regions: list[dict[str, Any]] = []
    characters = 0
    try:
        strips = tiled_inference.strips(
            decoder, pictures.segmenter, raster, pictures.side, lambda window: pictures.tile(digest, raster, window)
        )
        for _ in found.fill(strips):
            pass
        for each in found.objects(service.settings.min_area, surest_first=True):
            if len(regions) >= MAX_ANSWERED_LARGE:
                what = "a picture has more than %d objects; those with the lowest scores are not sent"
                log.warning(what, MAX_ANSWERED_LARGE)
                break
            if characters >= MAX_CHARACTERS:
                what = "%d regions of a picture take %d MB; the others are not sent: use PolygonLabels"
                log.warning(what, len(regions), characters // 10**6)
                break
            output = labeling.output(labeling.labels[each.label])
            part = Part(each.top, each.left, raster.size)
            label = output.spelled(labeling.labels[each.label])
            new = draw(output, each.mask, label, each.score, part_of=part)
            characters += sum(characters_of(region["value"]) for region in new)
            regions += new
        check_regions(regions, labeling, raster.size)
        return regions, round(found.confidence, 4)
    finally:
        found.close()


def _extent(prompt: Prompt) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The corners, xy px, between which a prompt lies, without its negative points."""
    corners = [prompt.points[prompt.positive]]
    if prompt.box is not None:
        corners.append(prompt.box.reshape(2, 2))
    there = np.concatenate(corners)
    return there.min(0), there.max(0)


def _moved(prompt: Prompt, window: Window) -> Prompt:
    """A prompt in px of a window, without the negative points that lie beyond it."""
    row, column, height, width = window
    points = prompt.points - np.array([column, row], np.float32)
    kept = prompt.positive | ((points >= 0) & (points < (width, height))).all(1)
    box = None if prompt.box is None else prompt.box - np.tile(np.array([column, row], np.float32), 2)
    return dataclasses.replace(prompt, points=points[kept], positive=prompt.positive[kept], box=box)

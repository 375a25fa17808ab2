"""Answers about pictures larger than a tile: a click looks at one tile of it, a decoder at all, one after the other."""

import dataclasses
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.checks import check_regions
from backend.drawing import Part, draw
from backend.errors import BadRequest
from backend.labeling import Labeling
from backend.overlap import covered
from backend.pictures import Pictures
from backend.question import Asked
from backend.service import Service
from model import tiles
from model.decoder import DomainDecoder
from model.objects import Map
from model.rasters import Raster, Window
from model.sam import Prompt

WIDER = 3  # times that a click looks again at a window of twice the side, if its object goes on beyond
MOST_OBJECTS = 5000  # regions of one pre-annotation, the biggest of each label first: the editor shows no more of them

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
    if asked.size != raster.size:
        shown, real = asked.size, raster.size
        raise BadRequest(f"the browser shows the image as (height, width) {shown}, but it is {real}; reload the task")
    here = str(task.get("id")), digest, asked.output.image, asked.index, asked.label
    asked = service.turns.with_box(here, asked, task.get("drafts"))
    if asked.prompt.box is None and not asked.prompt.positive.any():
        raise BadRequest("there is no object in the negative clicks alone; click inside one first")
    window = tiles.nearest(raster.size, pictures.side, *_extent(asked.prompt))
    for _ in range(WIDER + 1):
        place = *here, window  # logits are of one window
        earlier = service.turns.before(place, asked)
        embedding = pictures.tile(digest, raster, window)
        prompt = _moved(asked.prompt, window)
        found = pictures.segmenter.segment(embedding, prompt, earlier, candidates=1)
        service.turns.keep(place, asked, found.logits[0])
        mask = found.masks[0]
        further = tiles.wider(raster.size, window, mask)
        if further is None:
            break
        window = further
    part = Part(window[0], window[1], raster.size)
    if service.settings.avoid_overlap:
        row, column, height, width = window
        mask = mask & ~covered(task, asked, labeling)[row : row + height, column : column + width]
    score = min(max(float(found.scores[0]), 0.0), 1.0)
    regions = draw(asked.output, mask, asked.label, score, asked.index, asked.rotation, part)
    check_regions(regions, labeling, raster.size)
    return regions, score if regions else 0.0


def preannotation_large(
    service: Service, decoder: DomainDecoder, labeling: Labeling, digest: str, raster: Raster
) -> tuple[list[dict[str, Any]], float]:
    """As `predict.preannotation`, for a large picture; SAM is not asked about its regions."""
    config, pictures = decoder.config, service.pictures.seen(decoder.config.normalisation)
    separated = frozenset(config.labels.index(label) for label in config.separate)
    found = Map(raster.size, len(config.labels), separated)
    regions: list[dict[str, Any]] = []
    try:
        strips = tiles.strips(
            decoder, pictures.segmenter, raster, pictures.side, lambda window: pictures.tile(digest, raster, window)
        )
        for _ in found.fill(strips):
            pass
        for each in found.objects(service.settings.min_area):
            if len(regions) >= MOST_OBJECTS:
                log.warning("a picture has more than %d objects; the others are not sent", MOST_OBJECTS)
                break
            output = labeling.output(labeling.labels[each.label])
            part = Part(each.top, each.left, raster.size)
            label = output.spelled(labeling.labels[each.label])
            regions += draw(output, each.mask, label, each.score, part_of=part)
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

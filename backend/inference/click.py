"""A click or box, answered by a mask of the Segment Anything model (SAM) as regions of Label Studio."""

import dataclasses
import logging
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.backend.errors import BadRequest
from skylight.backend.images.embedder import ImageEmbedder
from skylight.backend.labelstudio.image_urls import image_url
from skylight.backend.labelstudio.label_config import Labeling
from skylight.backend.labelstudio.prompts import ClickRequest, read_prompt
from skylight.backend.labelstudio.region_fields import Region, label_of, regions_in
from skylight.backend.labelstudio.region_reader import is_mask, read_mask
from skylight.backend.labelstudio.region_validator import check_regions
from skylight.backend.labelstudio.region_writer import Placement, draw_regions
from skylight.backend.service import Service
from skylight.model.images.normalization import PER_IMAGE, Normalization
from skylight.model.images.raster import Raster, Window
from skylight.model.mapping import tiled_inference
from skylight.model.masks.clicked_parts import corrected
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Embedding, Prompt

Size = tuple[int, int]  # height, width in pixels
Mask = NDArray[np.bool_]

WIDER = 3  # times that a click looks again at a window of twice the side, if its object goes on beyond


log = logging.getLogger(__name__)


def click(
    service: Service, labeling: Labeling, task: dict[str, Any], context: dict[str, Any], how: Normalization = PER_IMAGE
) -> tuple[list[dict[str, Any]], float]:
    """SAM's best mask for the prompt in a context, as regions, and SAM's own estimate of its IoU.

    It goes on from the answer to the same points but the last, see `clicks.answered`.
    """
    embedder = service.embedder.with_normalization(how)
    asked = read_prompt(context, labeling, lambda output, index: embedder.open(image_url(task, output, index))[1].size)
    if asked is None:
        return [], 0.0
    url = image_url(task, asked.output, asked.index)
    digest, embedding = embedder.open(url)
    if not isinstance(embedding, Embedding):
        return click_large(service, embedder, labeling, task, asked, digest, embedding)
    place, asked = resume_session(service, task, asked, digest, embedding.size)
    mask, expected = segment_prompt(service, embedder.segmenter, embedding, place, asked, asked.prompt)
    return mask_regions(service, labeling, task, asked, mask, expected, Placement(0, 0, embedding.size))


def click_large(
    service: Service,
    embedder: ImageEmbedder,
    labeling: Labeling,
    task: dict[str, Any],
    asked: ClickRequest,
    digest: str,
    raster: Raster,
) -> tuple[list[dict[str, Any]], float]:
    """As `predict.click`, for a large picture: from the tile whose centre is nearest to the prompt.

    If the mask goes on beyond the tile, the answer is that of a window of twice the side around it.
    """
    here, asked = resume_session(service, task, asked, digest, raster.size)
    window = tiled_inference.nearest(raster.size, embedder.side, *_extent(asked.prompt))
    for left in range(WIDER, -1, -1):
        place = *here, window  # logits are of one window
        embedding = embedder.tile_embedding(digest, raster, window)
        prompt = _moved(asked.prompt, window)
        mask, expected = segment_prompt(service, embedder.segmenter, embedding, place, asked, prompt)
        further = tiled_inference.wider(raster.size, window, mask)
        if further is None or not left:
            break
        window = further
    return mask_regions(service, labeling, task, asked, mask, expected, Placement(window[0], window[1], raster.size))


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


def resume_session(
    service: Service, task: dict[str, Any], asked: ClickRequest, digest: str, size: Size
) -> tuple[tuple[Hashable, ...], ClickRequest]:
    """The conversation that a prompt on an image of `size` belongs to, and the prompt with what is still on the screen.

    Raises BadRequest if the browser knows the image in another size, or if nothing is clicked but what is not it.
    """
    if asked.size != size:
        raise BadRequest(
            f"the browser shows the image as (height, width) {asked.size}, but it is {size}; reload the task"
        )
    place = str(task.get("id")), digest, asked.output.image, asked.index, asked.label
    asked = service.click_sessions.restore_box(place, asked, task.get("drafts"))
    if asked.prompt.box is None and not asked.prompt.positive.any():
        raise BadRequest("there is no object in the negative clicks alone; click inside one first")
    return place, asked


def segment_prompt(
    service: Service, segmenter: Segmenter, embedding: Embedding, place: Hashable, asked: ClickRequest, prompt: Prompt
) -> tuple[Mask, float]:
    """The mask (H, W) bool for a prompt in px of an embedded image, or part of one, and its expected IoU.

    It goes on from the answer to the clicks before, which is on the screen: its logits are given back to SAM, and
    where SAM's new answer disagrees with a click, or the old one agrees with all, the old one stays, see `corrected`.
    """
    before = service.click_sessions.previous(place, asked)
    found = segmenter.segment(embedding, prompt, None if before is None else before.logits, candidates=1)
    mask = found.masks[0]
    if before is not None and before.mask.shape == mask.shape:
        mask = corrected(before.mask, mask, prompt.points, prompt.positive)
    service.click_sessions.record(place, asked, found.logits[0], mask)
    return mask, float(found.scores[0])


def mask_regions(
    service: Service,
    labeling: Labeling,
    task: dict[str, Any],
    asked: ClickRequest,
    mask: Mask,
    expected: float,
    part: Placement,
) -> tuple[list[dict[str, Any]], float]:
    """A mask (h, w) bool of a part of the image as regions, and its `expected` IoU, 0 if there are none.

    With `SKYLIGHT_AVOID_OVERLAP` it is cut where another of the label is on the task.
    """
    if service.settings.avoid_overlap:
        height, width = mask.shape
        there = covered_pixels(task, asked, labeling)[part.top : part.top + height, part.left : part.left + width]
        mask = mask & ~there
    score = min(max(expected, 0.0), 1.0)
    regions = draw_regions(asked.output, mask, asked.label, score, asked.index, asked.rotation, part)
    check_regions(regions, labeling, part.size)
    return regions, score if regions else 0.0


def covered_pixels(task: Mapping[str, Any], asked: ClickRequest, labeling: Labeling) -> NDArray[np.bool_]:
    """Where masks of the label asked for already are on the image asked about, (H, W) bool.

    Those in the annotator's drafts and in the annotations of the task, whoever made them; not in an annotation of
    which there is a draft, as that is newer, nor in a skipped one. What cannot be read is left out, with a line in the
    log.
    """
    found = np.zeros(asked.size, bool)
    for region in _regions(task):
        try:
            if _is_meant(region, asked, labeling):
                found |= read_mask(region, asked.size)
        except BadRequest as error:
            log.warning("task %s: %s", task.get("id"), error)
    return found


def _regions(task: Mapping[str, Any]) -> Iterator[Region]:
    drafts = regions_in(task.get("drafts"))
    redrawn = {draft.get("annotation") for draft in drafts}
    annotations = regions_in(task.get("annotations"))
    kept = (each for each in annotations if not each.get("was_cancelled") and each.get("id") not in redrawn)
    for each in (*drafts, *kept):
        yield from regions_in(each)


def _is_meant(region: Region, asked: ClickRequest, labeling: Labeling) -> bool:
    same_image = region.get("to_name") == asked.output.image and (region.get("item_index") or 0) == (asked.index or 0)
    return same_image and is_mask(region, labeling) and asked.output.spelled(label_of(region)) == asked.label

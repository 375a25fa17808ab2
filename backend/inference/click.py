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
from skylight.model.images import tiling
from skylight.model.images.normalization import PER_IMAGE, Normalization
from skylight.model.images.raster import Raster, Window
from skylight.model.masks.clicked_parts import corrected
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Embedding, Prompt

Size = tuple[int, int]  # height, width in pixels
Mask = NDArray[np.bool_]

WIDER = 3  # times that a click is answered again from a window of twice the side, if its object goes on beyond


log = logging.getLogger(__name__)


def click(
    service: Service, labeling: Labeling, task: dict[str, Any], context: dict[str, Any], how: Normalization = PER_IMAGE
) -> tuple[list[dict[str, Any]], float]:
    """SAM's best mask for the prompt in a context, as regions, and SAM's own estimate of its IoU.

    It continues the answer to the same points but the last, see `segment_prompt`.
    """
    embedder = service.embedder.with_normalization(how)
    request = read_prompt(
        context, labeling, lambda output, index: embedder.open(image_url(task, output, index))[1].size
    )
    if request is None:
        return [], 0.0
    url = image_url(task, request.output, request.index)
    digest, embedding = embedder.open(url)
    if not isinstance(embedding, Embedding):
        return click_large(service, embedder, labeling, task, request, digest, embedding)
    session, request = resume_session(service, task, request, digest, embedding.size)
    mask, expected = segment_prompt(service, embedder.segmenter, embedding, session, request, request.prompt)
    return mask_regions(service, labeling, task, request, mask, expected, Placement(0, 0, embedding.size))


def click_large(
    service: Service,
    embedder: ImageEmbedder,
    labeling: Labeling,
    task: dict[str, Any],
    request: ClickRequest,
    digest: str,
    raster: Raster,
) -> tuple[list[dict[str, Any]], float]:
    """As `click`, for a large image: from the tile whose centre is nearest to the prompt.

    If the mask goes on beyond the tile, the answer is that of a window of twice the side around it.
    """
    image_session, request = resume_session(service, task, request, digest, raster.size)
    window = tiling.nearest_window(raster.size, embedder.side, *_extent(request.prompt))
    for left in range(WIDER, -1, -1):
        session = *image_session, window  # logits are of one window
        embedding = embedder.tile_embedding(digest, raster, window)
        prompt = _move_prompt(request.prompt, window)
        mask, expected = segment_prompt(service, embedder.segmenter, embedding, session, request, prompt)
        further = tiling.enlarged_window(raster.size, window, mask)
        if further is None or not left:
            break
        window = further
    return mask_regions(service, labeling, task, request, mask, expected, Placement(window[0], window[1], raster.size))


def _extent(prompt: Prompt) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The corners, xy px, between which a prompt lies, without its negative points."""
    corners = [prompt.points[prompt.positive]]
    if prompt.box is not None:
        corners.append(prompt.box.reshape(2, 2))
    points = np.concatenate(corners)
    return points.min(0), points.max(0)


def _move_prompt(prompt: Prompt, window: Window) -> Prompt:
    """A prompt in px of a window, without the negative points that lie beyond it."""
    row, column, height, width = window
    points = prompt.points - np.array([column, row], np.float32)
    inside = prompt.positive | ((points >= 0) & (points < (width, height))).all(1)
    box = None if prompt.box is None else prompt.box - np.tile(np.array([column, row], np.float32), 2)
    return dataclasses.replace(prompt, points=points[inside], positive=prompt.positive[inside], box=box)


def resume_session(
    service: Service, task: dict[str, Any], request: ClickRequest, digest: str, size: Size
) -> tuple[tuple[Hashable, ...], ClickRequest]:
    """The session that a prompt on an image of `size` belongs to, and the prompt with a box that is still shown.

    Raises BadRequest if the browser knows the image in another size, or if there are negative clicks only.
    """
    if request.size != size:
        raise BadRequest(
            f"the browser shows the image as (height, width) {request.size}, but it is {size}; reload the task"
        )
    session = str(task.get("id")), digest, request.output.image, request.index, request.label
    request = service.click_sessions.restore_box(session, request, task.get("drafts"))
    if request.prompt.box is None and not request.prompt.positive.any():
        raise BadRequest("there is no object in the negative clicks alone; click inside one first")
    return session, request


def segment_prompt(
    service: Service,
    segmenter: Segmenter,
    embedding: Embedding,
    session: Hashable,
    request: ClickRequest,
    prompt: Prompt,
) -> tuple[Mask, float]:
    """The mask (H, W) bool for a prompt in px of an embedded image, or part of one, and its expected IoU.

    It continues the answer to the clicks before, which is on the screen: SAM gets its logits, and where SAM's new
    answer disagrees with a click, or the old one agrees with all, the old one stays, see `corrected`.
    """
    before = service.click_sessions.previous(session, request)
    answer = segmenter.segment(embedding, prompt, None if before is None else before.logits, candidates=1)
    mask = answer.masks[0]
    if before is not None and before.mask.shape == mask.shape:
        mask = corrected(before.mask, mask, prompt.points, prompt.positive)
    service.click_sessions.record(session, request, answer.logits[0], mask)
    return mask, float(answer.scores[0])


def mask_regions(
    service: Service,
    labeling: Labeling,
    task: dict[str, Any],
    request: ClickRequest,
    mask: Mask,
    expected: float,
    part: Placement,
) -> tuple[list[dict[str, Any]], float]:
    """A mask (h, w) bool of a part of the image as regions, and its `expected` IoU, 0 if there are none.

    With `SKYLIGHT_AVOID_OVERLAP` it is cut where another of the label is on the task.
    """
    if service.settings.avoid_overlap:
        height, width = mask.shape
        covered = covered_pixels(task, request, labeling)[part.top : part.top + height, part.left : part.left + width]
        mask = mask & ~covered
    score = min(max(expected, 0.0), 1.0)
    regions = draw_regions(request.output, mask, request.label, score, request.index, request.rotation, part)
    check_regions(regions, labeling, part.size)
    return regions, score if regions else 0.0


def covered_pixels(task: Mapping[str, Any], request: ClickRequest, labeling: Labeling) -> NDArray[np.bool_]:
    """The pixels of the requested image that masks of the requested label cover already, (H, W) bool.

    Those in the annotator's drafts and in the annotations of the task, whoever made them; not in an annotation of
    which there is a draft, as that is newer, nor in a skipped one. What cannot be read is left out, with a line in the
    log.
    """
    covered = np.zeros(request.size, bool)
    for region in _regions(task):
        try:
            if _is_same_label(region, request, labeling):
                covered |= read_mask(region, request.size)
        except BadRequest as error:
            log.warning("task %s: %s", task.get("id"), error)
    return covered


def _regions(task: Mapping[str, Any]) -> Iterator[Region]:
    drafts = regions_in(task.get("drafts"))
    redrawn = {draft.get("annotation") for draft in drafts}
    annotations = regions_in(task.get("annotations"))
    others = (one for one in annotations if not one.get("was_cancelled") and one.get("id") not in redrawn)
    for annotation in (*drafts, *others):
        yield from regions_in(annotation)


def _is_same_label(region: Region, request: ClickRequest, labeling: Labeling) -> bool:
    same_image = region.get("to_name") == request.output.image and (region.get("item_index") or 0) == (
        request.index or 0
    )
    return same_image and is_mask(region, labeling) and request.output.own_label(label_of(region)) == request.label

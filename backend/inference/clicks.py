"""What a click on a small picture and one on a part of a large picture have in common."""

from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.backend.errors import BadRequest
from skylight.backend.inference.overlap import covered
from skylight.backend.labelstudio.label_config import Labeling
from skylight.backend.labelstudio.prompts import Asked
from skylight.backend.labelstudio.region_validator import check_regions
from skylight.backend.labelstudio.region_writer import Part, draw
from skylight.backend.service import Service
from skylight.model.masks.clicked_parts import corrected
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Embedding, Prompt

Size = tuple[int, int]  # height, width in pixels
Mask = NDArray[np.bool_]


def in_turn(
    service: Service, task: dict[str, Any], asked: Asked, digest: str, size: Size
) -> tuple[tuple[Hashable, ...], Asked]:
    """The conversation that a prompt on an image of `size` belongs to, and the prompt with what is still on the screen.

    Raises BadRequest if the browser knows the image in another size, or if nothing is clicked but what is not it.
    """
    if asked.size != size:
        raise BadRequest(
            f"the browser shows the image as (height, width) {asked.size}, but it is {size}; reload the task"
        )
    place = str(task.get("id")), digest, asked.output.image, asked.index, asked.label
    asked = service.turns.with_box(place, asked, task.get("drafts"))
    if asked.prompt.box is None and not asked.prompt.positive.any():
        raise BadRequest("there is no object in the negative clicks alone; click inside one first")
    return place, asked


def answered(
    service: Service, segmenter: Segmenter, embedding: Embedding, place: Hashable, asked: Asked, prompt: Prompt
) -> tuple[Mask, float]:
    """The mask (H, W) bool for a prompt in px of an embedded image, or part of one, and its expected IoU.

    It goes on from the answer to the clicks before, which is on the screen: its logits are given back to SAM, and
    where SAM's new answer disagrees with a click, or the old one agrees with all, the old one stays, see `corrected`.
    """
    before = service.turns.before(place, asked)
    found = segmenter.segment(embedding, prompt, None if before is None else before.logits, candidates=1)
    mask = found.masks[0]
    if before is not None and before.mask.shape == mask.shape:
        mask = corrected(before.mask, mask, prompt.points, prompt.positive)
    service.turns.keep(place, asked, found.logits[0], mask)
    return mask, float(found.scores[0])


def drawn(
    service: Service,
    labeling: Labeling,
    task: dict[str, Any],
    asked: Asked,
    mask: Mask,
    expected: float,
    part: Part,
) -> tuple[list[dict[str, Any]], float]:
    """A mask (h, w) bool of a part of the image as regions, and its `expected` IoU, 0 if there are none.

    With `SKYLIGHT_AVOID_OVERLAP` it is cut where another of the label is on the task.
    """
    if service.settings.avoid_overlap:
        height, width = mask.shape
        there = covered(task, asked, labeling)[part.top : part.top + height, part.left : part.left + width]
        mask = mask & ~there
    score = min(max(expected, 0.0), 1.0)
    regions = draw(asked.output, mask, asked.label, score, asked.index, asked.rotation, part)
    check_regions(regions, labeling, part.size)
    return regions, score if regions else 0.0

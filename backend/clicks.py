"""What a click on a small picture and one on a part of a large picture have in common."""

from collections.abc import Hashable
from typing import Any

from backend.checks import check_regions
from backend.drawing import Part, draw
from backend.errors import BadRequest
from backend.labeling import Labeling
from backend.overlap import covered
from backend.question import Asked
from backend.service import Service
from model.sam import Segmentation

Size = tuple[int, int]  # height, width in pixels


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


def drawn(
    service: Service, labeling: Labeling, task: dict[str, Any], asked: Asked, found: Segmentation, part: Part
) -> tuple[list[dict[str, Any]], float]:
    """The best mask, of a part of the image, as regions, and SAM's own estimate of its IoU, 0 if there is none.

    With `SKYLIGHT_AVOID_OVERLAP` it is cut where another of the label is on the task.
    """
    mask = found.masks[0]
    if service.settings.avoid_overlap:
        height, width = mask.shape
        there = covered(task, asked, labeling)[part.top : part.top + height, part.left : part.left + width]
        mask = mask & ~there
    score = min(max(float(found.scores[0]), 0.0), 1.0)
    regions = draw(asked.output, mask, asked.label, score, asked.index, asked.rotation, part)
    check_regions(regions, labeling, part.size)
    return regions, score if regions else 0.0

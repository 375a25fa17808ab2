"""Masks that are on a task already, so that a click does not cover them again."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.backend.errors import BadRequest
from skylight.backend.labelstudio.label_config import Labeling
from skylight.backend.labelstudio.prompts import Asked
from skylight.backend.labelstudio.region_reader import Item, holds_mask, items_of, label_of, read_mask

log = logging.getLogger(__name__)


def covered(task: Mapping[str, Any], asked: Asked, labeling: Labeling) -> NDArray[np.bool_]:
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


def _regions(task: Mapping[str, Any]) -> Iterator[Item]:
    drafts = items_of(task.get("drafts"))
    redrawn = {draft.get("annotation") for draft in drafts}
    annotations = items_of(task.get("annotations"))
    kept = (each for each in annotations if not each.get("was_cancelled") and each.get("id") not in redrawn)
    for each in (*drafts, *kept):
        yield from items_of(each)


def _is_meant(region: Item, asked: Asked, labeling: Labeling) -> bool:
    same_image = region.get("to_name") == asked.output.image and (region.get("item_index") or 0) == (asked.index or 0)
    return same_image and holds_mask(region, labeling) and asked.output.spelled(label_of(region)) == asked.label

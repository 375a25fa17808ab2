"""A model of annotation effort: an annotator's actions are counted, and each has its seconds.

A log is a `Counter` of actions, so that the same function gives the seconds of real actions. Most seconds come from the
keystroke-level model (Card, Moran & Newell 1980, CACM 23(7)) and the model human processor (the same, 1983).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from skimage import measure

from skylight.model.evaluation.metrics import iou, match_instances
from skylight.model.masks.rasterize import polygon_mask

SATISFIED = 0.85  # IoU with the object in mind from which on nothing is corrected any more
MOST_VERTICES = 96  # of an outline


class Action(StrEnum):
    """An annotator's actions; the names of the fields of `Costs`."""

    OPEN = "open"
    LOOK = "look"
    CLICK = "click"
    WAIT = "wait"
    ACCEPT = "accept"
    UNDO = "undo"
    LABEL = "label"
    DELETE = "delete"
    VERTEX = "vertex"
    SUBMIT = "submit"


ActionLog = Counter[Action]


@dataclass(frozen=True)
class Costs:
    """Seconds per action."""

    # An image comes up, assumed to take 1 s, and is taken in: M of the keystroke-level model, 1.35 s.
    open: float = 2.35
    # One fixation: an object is found, or a mask is judged. Model human processor: eye movement 0.23, perceive 0.10,
    # decide 0.07. The same for a mask that SAM gave after a click and for a pre-annotated one.
    look: float = 0.4
    # A point prompt: aim, P 1.1, press and release, B 0.1 each. Annotators who only had to point at objects took
    # 2.4 s for the first of a class in an image and 0.9 s for each further one (Bearman et al. 2016, ECCV).
    click: float = 1.3
    wait: float = 0.5  # from a click to its mask on the screen; assumed: mask decoder, network and drawing
    accept: float = 0.28  # a key: K of an average typist
    undo: float = 0.28  # a key
    label: float = 0.28  # a key, once per image in which something is drawn
    delete: float = 1.58  # aim and click, 1.3, and a key
    # A corner of an outline drawn by hand: aim and click, 1.3. For scale: COCO's polygons took 79 s each (Lin et al.
    # 2014, ECCV: 22 worker hours per 1,000), 61 corners at this price.
    vertex: float = 1.3
    submit: float = 1.3  # aim and click


def seconds(log: Mapping[Action, int], costs: Costs = Costs()) -> float:  # noqa: B008 (frozen)
    """The seconds of a log. Raises ValueError for an action that has no cost."""
    unknown = set(log) - {field.name for field in fields(Costs)}
    if unknown:
        raise ValueError(
            f"no seconds are known for {sorted(unknown)}; there are {[field.name for field in fields(Costs)]}"
        )
    return float(sum(count * getattr(costs, action) for action, count in log.items()))


def image_log(objects: Sequence[ActionLog], reviewed: ActionLog | None = None) -> ActionLog:
    """One image: opened, all that was done to its objects, the label chosen if something was drawn, submitted."""
    log: ActionLog = Counter({Action.OPEN: 1, Action.SUBMIT: 1})
    if objects:
        log[Action.LABEL] += 1
    for each in objects:
        log.update(each)
    log.update(reviewed or {})
    return log


def outline_log(vertices: int) -> ActionLog:
    """One object outlined by hand: found, each corner clicked, and the first one again."""
    return Counter({Action.LOOK: 1, Action.VERTEX: vertices + 1})


def click_log(reached: Sequence[float]) -> ActionLog:
    """One object clicked: found, then click, wait and judge for each IoU in `reached`, going back to the best mask.

    If no mask touched the object, all are undone and nothing is accepted.
    """
    clicks = len(reached)
    best = int(np.argmax(reached)) if clicks and max(reached) > 0 else -1
    return Counter(
        {
            Action.LOOK: 1 + clicks,
            Action.CLICK: clicks,
            Action.WAIT: clicks,
            Action.UNDO: clicks - 1 - best,
            Action.ACCEPT: int(best >= 0),
        }
    )


def review_log(
    found: Sequence[NDArray[np.bool_]],
    truth: NDArray[np.uint16],
    reached: Mapping[int, Sequence[float]],
    settle: bool = False,
) -> ActionLog:
    """One pre-annotated image, looked over and put right, from opening it to submitting it.

    `found` are the regions, (H, W) bool; `truth` (H, W) uint16 the instances; `reached` the IoU after each click SAM
    would need, by instance: only these must be annotated. Every region is looked at. One with an IoU of `SATISFIED` to
    its object stays, as does one on an object that need not be annotated. Any other is deleted, and its object, like
    those without a region, is clicked as in an empty image. Who knows how to `settle` also leaves a region that is as
    good as the mask which the clicks would end with.
    """
    matching = match_instances(found, truth)
    partners = matching.partners.tolist()
    overlaps = dict(zip(partners, matching.overlaps.tolist(), strict=True))
    enough = {number: min(SATISFIED, max(turns)) if settle else SATISFIED for number, turns in reached.items()}
    fine = {number for number in partners if number and overlaps[number] >= enough.get(number, 0)}
    wrong = sum(number not in fine for number in partners)
    log: ActionLog = Counter({Action.LOOK: len(found), Action.DELETE: wrong})
    return image_log([click_log(turns) for number, turns in reached.items() if number not in fine], log)


def outline_vertices(mask: NDArray[np.bool_], satisfied: float = SATISFIED) -> int:
    """How many evenly spaced corners an object's outline needs to reach an IoU of `satisfied`; a disc needs 7.

    `mask` (H, W) bool, not empty. Of an object in parts only the outline of the longest is drawn; at most
    `MOST_VERTICES`.
    """
    rows, columns = np.nonzero(mask)
    window = np.pad(mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], 1)
    outline = max(_contours(window), key=len)[:, ::-1] + 0.5  # xy; pixels' middles are .5
    size = np.array(window.shape[::-1])
    for count in range(3, MOST_VERTICES):
        corners = outline[np.linspace(0, len(outline) - 1, count, endpoint=False).round().astype(int)]
        if iou(polygon_mask(corners / size * 100, *window.shape), window) >= satisfied:
            return count
    return MOST_VERTICES


def _contours(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """A mask's closed outlines, each (N, 2) rows and columns."""
    lines: list[NDArray[np.float64]] = measure.find_contours(mask.astype(np.float32), 0.5)  # type: ignore[no-untyped-call]
    return lines

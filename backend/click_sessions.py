"""The turns of a conversation with SAM: what it answered last about an object is given back with the next click.

Kept in this process for a few minutes. Where it is missing (another process, a restart) a click is answered from its
points alone.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.backend.labelstudio.prompts import ClickRequest

KEPT = 256  # answers; one is 128 kB at 256 x 256 cells, as float16, and its mask at most an eighth of a byte a pixel
SECONDS = 300.0  # how long; whoever looks at a mask for longer begins anew

Logits = NDArray[np.float32]
Mask = NDArray[np.bool_]
Place = Hashable  # the task, the image and the label that a conversation is about


@dataclass(frozen=True)
class PreviousAnswer:
    """An answer: logits (4h, 4w) float32, to be given back to SAM, and the mask (H, W) bool, which is on the screen."""

    logits: Logits
    mask: Mask


@dataclass(frozen=True)
class _Kept:
    """An answer as it is kept: float16 logits, and the bits of the mask's bounding box."""

    logits: NDArray[np.float16]
    size: tuple[int, int]  # H, W px of the mask
    rows: slice
    columns: slice
    bits: NDArray[np.uint8]
    since: float  # s

    @classmethod
    def of(cls, logits: Logits, mask: Mask, since: float) -> "_Kept":
        """Packed."""
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        down, across = (slice(int(each[0]), int(each[-1]) + 1) if len(each) else slice(0) for each in (rows, columns))
        size = mask.shape[0], mask.shape[1]
        return cls(logits.astype(np.float16), size, down, across, np.packbits(mask[down, across]), since)

    def unpacked(self) -> PreviousAnswer:
        """As it came."""
        mask = np.zeros(self.size, bool)
        part = mask[self.rows, self.columns]
        part[:] = np.unpackbits(self.bits, count=part.size).reshape(part.shape)
        return PreviousAnswer(self.logits.astype(np.float32), mask)


@dataclass(frozen=True)
class _Box:
    """The rectangle drawn last at a place."""

    identity: tuple[Hashable, ...]  # its id first
    corners: NDArray[np.float32]  # (4,) x0, y0, x1, y1 px
    drafts: frozenset[Hashable]  # those there were, with the time of their last change
    points: tuple[Hashable, ...]  # those that have been added to it
    since: float  # s


class ClickSessions:
    """The last answers, thread-safe. Two annotators do not meet, as the editor gives every prompt a random id."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._answers: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._boxes: OrderedDict[Place, _Box] = OrderedDict()

    def previous(self, place: Place, asked: ClickRequest) -> PreviousAnswer | None:
        """The answer to the same box and as many of the first points as possible, but not to all."""
        with self._lock:
            for count in range(len(asked.points) - 1, -1, -1):
                found = self._answers.get((place, asked.box, asked.points[:count]))
                if found is not None and self._is_fresh(found.since):
                    break
            else:
                return None
        return found.unpacked()

    def record(self, place: Place, asked: ClickRequest, logits: Logits, mask: Mask) -> None:
        """Keep an answer: logits (4h, 4w) float32 and mask (H, W) bool."""
        kept = _Kept.of(logits, mask, self.clock())
        with self._lock:
            key = place, asked.box, asked.points
            self._answers[key] = kept
            _shorten(self._answers, key)

    def restore_box(self, place: Place, asked: ClickRequest, drafts: object) -> ClickRequest:
        """The same prompt, with the rectangle that is still on the annotator's screen, if it is known to be.

        The editor sends regions of one kind: with a click after a rectangle come the points alone, though the
        rectangle is there still. It is not if a point is outside of it, if other points than before begin, or if a
        newer one of the annotator's `drafts` does not have it.
        """
        found = [draft for draft in drafts if isinstance(draft, Mapping)] if isinstance(drafts, list) else []
        with self._lock:
            if asked.box is not None and asked.prompt.box is not None:
                marks = frozenset(map(_mark, found))
                self._boxes[place] = _Box(asked.box, asked.prompt.box, marks, asked.points, self.clock())
                _shorten(self._boxes, place)
                return asked
            box = self._boxes.pop(place, None)
            if box is None or not self._is_fresh(box.since) or not _goes_on(box, asked) or _is_gone(box, found):
                return asked
            self._boxes[place] = replace(box, points=asked.points, since=self.clock())
        return replace(asked, box=box.identity, prompt=replace(asked.prompt, box=box.corners))

    def _is_fresh(self, since: float) -> bool:
        return self.clock() - since < SECONDS


def _shorten(kept: OrderedDict[Any, Any], newest: Hashable) -> None:
    kept.move_to_end(newest)
    while len(kept) > KEPT:
        kept.popitem(last=False)


def _goes_on(box: _Box, asked: ClickRequest) -> bool:
    """Whether the points are those before, with some more or some fewer, and all in the rectangle."""
    inside = (asked.prompt.points >= box.corners[:2]) & (asked.prompt.points <= box.corners[2:])
    same = all(one == other for one, other in zip(box.points, asked.points, strict=False))
    return bool(inside.all()) and same


def _is_gone(box: _Box, drafts: Sequence[Mapping[str, Any]]) -> bool:
    newer = [draft for draft in drafts if _mark(draft) not in box.drafts]
    return bool(newer) and not any(_holds(draft.get("result"), box.identity[0]) for draft in newer)


def _holds(result: object, id: Hashable) -> bool:
    return isinstance(result, list) and any(isinstance(region, Mapping) and region.get("id") == id for region in result)


def _mark(draft: Mapping[str, Any]) -> Hashable:
    return str(draft.get("id")), str(draft.get("updated_at"))

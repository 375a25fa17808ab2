"""What SAM answered last about each object, so that the next click refines that mask.

Kept in this process for a few minutes. Where an answer is missing (another process, a restart), a click is answered
from its points alone. Why: docs/decisions/mask-feedback.md.
"""

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from cachetools import TTLCache
from numpy.typing import NDArray

from skylight.backend.labelstudio.prompts import ClickRequest

MAX_ANSWERS = 256  # one is 128 kB at 256 x 256 cells, as float16, and its mask at most an eighth of a byte a pixel
TTL_SECONDS = 300.0  # how long an answer is kept; whoever looks at a mask for longer begins anew

Logits = NDArray[np.float32]
Mask = NDArray[np.bool_]
SessionKey = Hashable  # the task, the image and the label that a session is about


@dataclass(frozen=True)
class PreviousAnswer:
    """SAM's last answer: logits (4h, 4w) float32, to be given back to SAM, and the mask (H, W) bool on the screen."""

    logits: Logits
    mask: Mask


@dataclass(frozen=True)
class _PackedAnswer:
    """An answer as it is kept: float16 logits, and the bits of the mask's bounding box."""

    logits: NDArray[np.float16]
    size: tuple[int, int]  # H, W px of the mask
    rows: slice
    columns: slice
    bits: NDArray[np.uint8]

    @classmethod
    def pack(cls, logits: Logits, mask: Mask) -> "_PackedAnswer":
        rows, columns = (_extent(np.flatnonzero(mask.any(axis))) for axis in (1, 0))
        size = mask.shape[0], mask.shape[1]
        return cls(logits.astype(np.float16), size, rows, columns, np.packbits(mask[rows, columns]))

    def unpack(self) -> PreviousAnswer:
        mask = np.zeros(self.size, bool)
        part = mask[self.rows, self.columns]
        part[:] = np.unpackbits(self.bits, count=part.size).reshape(part.shape)
        return PreviousAnswer(self.logits.astype(np.float32), mask)


@dataclass(frozen=True)
class _Box:
    """The rectangle drawn last in a session."""

    identity: tuple[Hashable, ...]  # its id first
    corners: NDArray[np.float32]  # (4,) x0, y0, x1, y1 px
    drafts: frozenset[Hashable]  # the annotator's drafts at that time, with the time of their last change
    points: tuple[Hashable, ...]  # those that have been added to it


class ClickSessions:
    """The last answers and rectangles, thread-safe.

    Sessions of two annotators do not mix, as the editor gives every prompt a random id. `clock` counts seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._answers: TTLCache[Hashable, _PackedAnswer] = TTLCache(MAX_ANSWERS, TTL_SECONDS, clock)
        self._boxes: TTLCache[SessionKey, _Box] = TTLCache(MAX_ANSWERS, TTL_SECONDS, clock)

    def previous(self, session: SessionKey, request: ClickRequest) -> PreviousAnswer | None:
        """The answer to the same box and as many of the first points as possible, but not to all."""
        with self._lock:
            for count in range(len(request.points) - 1, -1, -1):
                answer = self._answers.get((session, request.box, request.points[:count]))
                if answer is not None:
                    break
            else:
                return None
        return answer.unpack()

    def record(self, session: SessionKey, request: ClickRequest, logits: Logits, mask: Mask) -> None:
        """Keep an answer: logits (4h, 4w) float32 and mask (H, W) bool."""
        answer = _PackedAnswer.pack(logits, mask)
        with self._lock:
            self._answers[session, request.box, request.points] = answer

    def restore_box(self, session: SessionKey, request: ClickRequest, drafts: object) -> ClickRequest:
        """The same request, with the rectangle that is still on the annotator's screen, if it is known to be.

        The editor sends regions of one kind: with a click after a rectangle come the points alone, though the
        rectangle is there still. It is not if a point is outside of it, if other points than before begin, or if a
        newer one of the annotator's `drafts` does not have it.
        """
        known_drafts = [draft for draft in drafts if isinstance(draft, Mapping)] if isinstance(drafts, list) else []
        with self._lock:
            if request.box is not None and request.prompt.box is not None:
                states = frozenset(map(_draft_state, known_drafts))
                self._boxes[session] = _Box(request.box, request.prompt.box, states, request.points)
                return request
            box = self._boxes.pop(session, None)
            if box is None or not _continues(box, request) or _was_removed(box, known_drafts):
                return request
            self._boxes[session] = replace(box, points=request.points)
        return replace(request, box=box.identity, prompt=replace(request.prompt, box=box.corners))


def _extent(indices: NDArray[np.intp]) -> slice:
    """From the first index to the last; an empty slice if there is none."""
    return slice(int(indices[0]), int(indices[-1]) + 1) if len(indices) else slice(0)


def _continues(box: _Box, request: ClickRequest) -> bool:
    """Whether the points are those before, with some more or some fewer, and all in the rectangle."""
    inside = (request.prompt.points >= box.corners[:2]) & (request.prompt.points <= box.corners[2:])
    same = all(old == new for old, new in zip(box.points, request.points, strict=False))
    return bool(inside.all()) and same


def _was_removed(box: _Box, drafts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether drafts were saved since the rectangle was drawn, none of which has it."""
    newer = [draft for draft in drafts if _draft_state(draft) not in box.drafts]
    return bool(newer) and not any(_has_region(draft.get("result"), box.identity[0]) for draft in newer)


def _has_region(result: object, id: Hashable) -> bool:
    return isinstance(result, list) and any(isinstance(region, Mapping) and region.get("id") == id for region in result)


def _draft_state(draft: Mapping[str, Any]) -> Hashable:
    return str(draft.get("id")), str(draft.get("updated_at"))

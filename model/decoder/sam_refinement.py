"""Refinement of the decoder's regions by SAM: where both agree on an object, the sharper mask is taken."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skylight.model.decoder.inference import Instance, Prediction
from skylight.model.evaluation.metrics import iou
from skylight.model.masks.clicked_parts import clicked_parts
from skylight.model.masks.geometry import interior_point
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Embedding, MaskLogits, Prompt, Segmentation

AGREE = 0.7  # IoU from which on two masks are of the same object
LOOSE = 2  # px by which a prompt's box is larger than the object on each side, as one drawn by hand
OFFSET = 1.0  # logits above and below 0 at which a mask must stay the same, as in segment-anything's own generator
MARGIN = 2  # cells of SAM's answer around an object in which masks are compared: as far as either boundary is soft
OUTSIDE = -30.0  # logit where a mask cannot be

Window = tuple[slice, slice]


def refine(
    segmenter: Segmenter, embedding: Embedding, prediction: Prediction, regions: Iterable[Instance]
) -> Iterator[Instance]:
    """Each region with SAM's mask instead of the decoder's, if the two agree and SAM's is sharper.

    SAM is prompted with the region's box and deepest point; its best mask is taken without the pixels that belong to
    another region. Label, score and order stay. `regions` are disjoint masks of `prediction`, none empty, as
    `instances` gives them; the results are disjoint, too.
    """
    owner = np.zeros(embedding.size, np.int32)
    rest = []
    for number, region in enumerate(regions, 1):
        owner[region.mask] = number
        rest.append((number, region.label, region.score))  # not its mask: hundreds of large ones would fill the memory
    for number, label, score in rest:
        own = owner == number
        mask = _sharper(segmenter, embedding, prediction, label, own, own | (owner == 0))
        owner[own] = 0
        owner[mask] = number
        yield Instance(label, mask, score)


def _sharper(
    segmenter: Segmenter,
    embedding: Embedding,
    prediction: Prediction,
    label: int,
    own: NDArray[np.bool_],
    free: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """The decoder's mask `own` or SAM's, (H, W) bool; `free` (H, W) bool is where no other region lies."""
    prompt = prompt_for(own)
    answer = segmenter.segment(embedding, prompt, candidates=1)
    mask = answer.masks[0] & free
    if iou(mask, own) < AGREE:
        return own
    cell = max(embedding.size) / answer.logits.shape[-1]
    window = _window(own, round(MARGIN * cell))
    theirs = _scaled(_cut(answer, embedding), window)
    corner = np.array([window[1].start, window[0].start], np.float32)
    theirs[(theirs > 0) & ~clicked_parts(theirs > 0, prompt.points - corner)] = OUTSIDE  # as of the mask
    theirs = theirs[free[window]]
    ours = prediction.of(label, window)[free[window]]
    return mask if stability(theirs) > stability(_logit(ours)) else own


def _cut(answer: Segmentation, embedding: Embedding) -> MaskLogits:
    """The logits that the first mask is cut from; of a SAM that does not give them, its low-resolution ones."""
    if answer.mask_logits:
        return answer.mask_logits[0]
    rows, columns = embedding.extent(answer.logits.shape[-1])
    return MaskLogits(answer.logits[0, :rows, :columns], (0, 0, *embedding.size))


def prompt_for(mask: NDArray[np.bool_]) -> Prompt:
    """A prompt for the object of a mask (H, W) bool, as a person would give it: a loose box and a click at its deepest
    point.

    Raises ValueError if the mask is empty.
    """
    if not mask.any():
        raise ValueError("SAM cannot be prompted for an empty mask: leave it out")
    rows, columns = _window(mask, LOOSE)
    box = columns.start, rows.start, columns.stop - 1, rows.stop - 1
    return Prompt.of([(*interior_point(mask, np.random.default_rng(0), central=True), True)], box)


def stability(logits: NDArray[np.float32]) -> float:
    """Stability of a mask against its threshold, in [0, 1]: IoU of the masks of logits over +1 and over -1.

    The stability score of Kirillov et al. 2023 (arXiv 2304.02643, "Automatic mask generation"); 0 without a mask.
    """
    low = np.count_nonzero(logits > -OFFSET)
    return np.count_nonzero(logits > OFFSET) / low if low else 0.0


def _logit(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    sure = np.clip(probability, 1e-6, 1 - 1e-6)
    logits: NDArray[np.float32] = np.log(sure / (1 - sure))
    return logits


def _window(mask: NDArray[np.bool_], margin: int) -> Window:
    """The bounding box of a (H, W) bool mask, `margin` px larger on each side, within the image."""
    spans = []
    for axis, length in enumerate(mask.shape):
        lines = np.flatnonzero(mask.any(1 - axis))
        spans.append(slice(max(int(lines[0]) - margin, 0), min(int(lines[-1]) + 1 + margin, length)))
    return spans[0], spans[1]


def _scaled(cut: MaskLogits, window: Window) -> NDArray[np.float32]:
    """A cut's logits, bilinear, at the image's pixels in a window; beyond the cut's own window `OUTSIDE`."""
    row, column, height, width = cut.window
    scale = np.array(cut.logits.shape) / (height, width)
    start = np.array([window[0].start - row, window[1].start - column])
    shape = tuple(span.stop - span.start for span in window)
    scaled: NDArray[np.float32] = ndimage.affine_transform(
        cut.logits, scale, (start + 0.5) * scale - 0.5, shape, order=1, mode="nearest"
    )
    rows, columns = (np.arange(length) + first for length, first in zip(shape, start, strict=True))
    inside = ((rows >= 0) & (rows < height))[:, None] & (columns >= 0) & (columns < width)
    scaled[~inside] = OUTSIDE
    return scaled

"""A simulated annotator, who knows the truth and clicks on an image's objects, and a cache of the annotations."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skylight.model.evaluation.metrics import iou
from skylight.model.evaluation.simulated_clicks import correction_click
from skylight.model.experiments.annotation_cost import SATISFIED
from skylight.model.masks.geometry import interior_point
from skylight.model.masks.instance_map import instance_map
from skylight.model.masks.label_map import IGNORE
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Embedding, Prompt
from skylight.model.storage import atomic_write

CORRECTIONS = 3  # clicks after the first, at most
SMALLEST = 30  # px; smaller objects are overlooked, they stay background
MOST_OBJECTS = 40  # per image; the others are left as unknown, or one image of 370 nuclei would be a day's work


@dataclass(frozen=True)
class Annotated:
    """The annotation of an image, and the IoUs on the way to it.

    `label_map` (H, W) uint8: 0, 1, and 255 where an object was not asked for; `instances` (H, W) uint16, see
    `instances.instance_map`; `reached`: the IoU with the truth after each click, by the true instance's number.
    """

    label_map: NDArray[np.uint8]
    instances: NDArray[np.uint16]
    reached: dict[int, list[float]]

    @property
    def clicks(self) -> int:
        """Point prompts given."""
        return sum(map(len, self.reached.values()))

    @property
    def accepted(self) -> list[float]:
        """IoU of the mask accepted for each object; 0 where every mask was rejected."""
        return [max(turns) for turns in self.reached.values()]


def click(
    segmenter: Segmenter,
    embedding: Embedding,
    truth: NDArray[np.bool_],
    rng: np.random.Generator,
    refine: bool = False,
    enough: float = SATISFIED,
    corrections: int = CORRECTIONS,
) -> tuple[NDArray[np.bool_] | None, list[float]]:
    """One object, (H, W) bool: the best mask seen, (H, W) bool, and the IoU after each click.

    The first click is at the deepest point, up to `corrections` more where the mask is most wrong, as long as its IoU
    is not `enough`; with `refine` SAM is given its answer before with each of these. None if no mask touched the
    object.
    """
    clicks = [(*interior_point(truth, rng, central=True), True)]
    best: NDArray[np.bool_] | None = None
    reached: list[float] = []
    logits = None
    while True:
        answer = segmenter.segment(embedding, Prompt.of(clicks), logits, candidates=1)
        mask, logits = answer.masks[0], answer.logits[0] if refine else None
        value = iou(mask, truth)
        if value > max(reached, default=0.0):
            best = mask
        reached.append(value)
        wrong = correction_click(mask, truth, rng)
        if value >= enough or wrong is None or len(reached) > corrections:
            return best, reached
        clicks.append(wrong)


def annotate(
    segmenter: Segmenter, embedding: Embedding, truth: NDArray[np.uint16], most_objects: int | None = MOST_OBJECTS
) -> Annotated:
    """Annotate an image whose true instances are (H, W) uint16; every object if `most_objects` is None.

    Which objects are asked for where there are too many, and every click, follow from the truth alone.
    """
    rng = np.random.default_rng(0)
    areas = np.bincount(truth.ravel())
    wanted = [number for number in range(1, len(areas)) if areas[number] >= SMALLEST]
    chosen = wanted
    if most_objects is not None and len(wanted) > most_objects:
        chosen = sorted(rng.choice(wanted, most_objects, replace=False).tolist())
    label_map = np.zeros(truth.shape, np.uint8)
    label_map[np.isin(truth, sorted(set(wanted) - set(chosen)))] = IGNORE
    reached: dict[int, list[float]] = {}
    masks = []
    for number in chosen:
        mask, reached[number] = click(segmenter, embedding, truth == number, rng)
        if mask is not None:
            masks.append(mask)
            label_map[mask] = 1
    height, width = truth.shape
    return Annotated(label_map, instance_map(masks, (height, width)), reached)


def pack(annotated: Annotated) -> bytes:
    """As the bytes of an .npz file."""
    buffer = io.BytesIO()
    numbers = [number for number, turns in annotated.reached.items() for _ in turns]
    turns = [value for turns in annotated.reached.values() for value in turns]
    np.savez_compressed(
        buffer,
        label_map=annotated.label_map,
        instances=annotated.instances,
        numbers=np.array(numbers, np.int64),
        reached=np.array(turns, np.float64),
    )
    return buffer.getvalue()


def unpack(path: Path) -> Annotated:
    """From its file. Raises FileNotFoundError."""
    with np.load(path, allow_pickle=False) as held:
        reached: dict[int, list[float]] = {}
        for number, value in zip(held["numbers"].tolist(), held["reached"].tolist(), strict=True):
            reached.setdefault(number, []).append(value)
        return Annotated(held["label_map"], held["instances"], reached)


def cached(path: Path, compute: Callable[[], Annotated]) -> Annotated:
    """What the file holds, or what `compute` gives, which the file then holds."""
    if not path.is_file():
        atomic_write.write(path, pack(compute()))
    return unpack(path)


def fingerprint(image: NDArray[np.uint8], truth: NDArray[np.uint16]) -> str:
    """Of an image and its true instances, 16 hex digits; for the name of a cached annotation's file."""
    digest = hashlib.sha256(np.ascontiguousarray(image).tobytes())
    digest.update(np.ascontiguousarray(truth).tobytes())
    return digest.hexdigest()[:16]

"""Metrics of masks, label maps, instances and probabilities, and paired comparisons."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skylight.model.masks.label_map import IGNORE

MATCH_IOU = 0.5  # above it a pair of disjoint regions can match no other (Kirillov et al. 2018, arXiv 1801.00868)
TOLERANCE_SHARE = 0.0075  # of the diagonal, how far a rim may be off: 5.4 px at 512 x 512; DAVIS takes 0.8 %
BINS = 15  # of the calibration histogram, equally wide, as in Guo et al. 2017


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks of one shape; 1 if both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def boundary_f(found: NDArray[np.bool_], truth: NDArray[np.bool_], tolerance: float | None = None) -> float:
    """F-score in [0, 1] of two (H, W) bool masks' rims that may lie `tolerance` px apart; 1 if both are empty.

    Precision is the share of the found rim within the tolerance of the true one, recall the reverse (Csurka et al.
    2013, Perazzi et al. 2016). Where a mask meets the image's border is no rim. Without a tolerance it is 0.75 % of
    the diagonal, at least 1 px. Raises ValueError if the shapes differ.
    """
    if found.shape != truth.shape:
        raise ValueError(f"masks of one image have one shape, not {found.shape} and {truth.shape}")
    reach = max(TOLERANCE_SHARE * math.hypot(*found.shape), 1.0) if tolerance is None else tolerance
    rims = _rim(found), _rim(truth)
    if not (rims[0].any() and rims[1].any()):
        return float(np.array_equal(found, truth))
    (window,) = ndimage.find_objects((rims[0] | rims[1]).view(np.uint8))
    ours, theirs = rims[0][window], rims[1][window]
    precision = float((ndimage.distance_transform_edt(~theirs)[ours] <= reach).mean())
    recall = float((ndimage.distance_transform_edt(~ours)[theirs] <= reach).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a mask with one of their four neighbours in the image outside it."""
    rim: NDArray[np.bool_] = mask & ~ndimage.binary_erosion(mask, border_value=1)
    return rim


@dataclass(frozen=True)
class Matching:
    """The matched pairs of predicted masks and true objects of one image.

    `partners` (N,) int64: the true object's number per found region, 0 without one; `overlaps` (N,) float64: their
    IoU, 0 without a partner; `truths`: how many true objects there are.
    """

    partners: NDArray[np.int64]
    overlaps: NDArray[np.float64]
    truths: int

    @property
    def tp(self) -> int:
        """True positives."""
        return int(np.count_nonzero(self.partners))

    @property
    def fp(self) -> int:
        """False positives."""
        return len(self.partners) - self.tp

    @property
    def fn(self) -> int:
        """False negatives."""
        return self.truths - self.tp

    @property
    def summed_iou(self) -> float:
        """IoU summed over the matched pairs."""
        return float(self.overlaps.sum())


def match_instances(
    found: Sequence[NDArray[np.bool_]], truth: NDArray[np.uint16], scores: Sequence[float] | None = None
) -> Matching:
    """Match found masks (H, W) bool, which may overlap, to an instance map (H, W) uint16 (0 none) at IoU > 0.5.

    Nothing is matched twice: pairs are taken by descending score, then by descending IoU; without scores by IoU alone.
    Disjoint masks never compete. Raises ValueError if a mask is not of the map's shape
    or the scores are not as many as the masks.
    """
    if scores is not None and len(scores) != len(found):
        raise ValueError(f"every found mask needs one score: {len(found)} masks, {len(scores)} scores")
    index, number, overlap, truths = _overlaps(found, truth)
    rank = overlap if scores is None else np.asarray(scores, np.float64)[index]
    partners, overlaps = np.zeros(len(found), np.int64), np.zeros(len(found))
    taken: set[int] = set()
    for pair in np.lexsort((-overlap, -rank)):
        i, k = int(index[pair]), int(number[pair])
        if not partners[i] and k not in taken:
            partners[i], overlaps[i] = k, overlap[pair]
            taken.add(k)
    return Matching(partners, overlaps, truths)


def _overlaps(
    found: Sequence[NDArray[np.bool_]], truth: NDArray[np.uint16]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], int]:
    """The pairs with IoU > 0.5: index of the mask, number of the object, IoU; and how many objects there are."""
    for mask in found:
        if mask.shape != truth.shape:
            raise ValueError(f"a found mask has shape {mask.shape}, the instance map {truth.shape}: scale the mask")
    flat = truth.ravel()
    areas = np.bincount(flat, minlength=1)
    under = [flat[np.flatnonzero(mask)].astype(np.int64) for mask in found]  # the truth beneath each mask
    sizes = np.array([len(part) for part in under], np.int64)
    keys = [part + i * len(areas) for i, part in enumerate(under)]
    pairs, shared = np.unique(np.concatenate(keys) if keys else np.zeros(0, np.int64), return_counts=True)
    index, number = np.divmod(pairs, len(areas))
    overlap = shared / (sizes[index] + areas[number] - shared)
    good = (number > 0) & (overlap > MATCH_IOU)
    return index[good], number[good], overlap[good], int(np.count_nonzero(areas[1:]))


class LabelScores:
    """Intersections and unions per label, summed over images; label maps are (H, W) uint8, 255 is ignored."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.images = 0
        self._intersections = np.zeros(len(labels), np.int64)
        self._unions = np.zeros(len(labels), np.int64)

    def add(self, found: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """Count one image: predicted and true label map, (H, W) uint8."""
        self.images += 1
        known = truth != IGNORE
        pairs = np.bincount(found[known].astype(np.uint16) << 8 | truth[known], minlength=1 << 16).reshape(256, 256)
        same = pairs.diagonal()
        labels = slice(1, len(self.labels) + 1)
        self._intersections += same[labels]
        self._unions += (pairs.sum(0) + pairs.sum(1) - same)[labels]

    def include(self, other: "LabelScores") -> None:
        """Add the images of `other`."""
        self.images += other.images
        self._intersections += other._intersections
        self._unions += other._unions

    def without(self, other: "LabelScores") -> "LabelScores":
        """The scores without the images of `other`, all of which are in these."""
        rest = LabelScores(self.labels)
        rest.images = self.images - other.images
        rest._intersections += self._intersections - other._intersections
        rest._unions += self._unions - other._unions
        return rest

    @property
    def per_label(self) -> dict[str, float]:
        """IoU of each label that occurs in a truth or a prediction."""
        rows = zip(self.labels, self._intersections, self._unions, strict=True)
        return {label: float(i / u) for label, i, u in rows if u}

    @property
    def mean(self) -> float:
        """Mean foreground IoU over the labels of `per_label`; 1 if there was nothing and nothing was found."""
        values = self.per_label.values()
        return sum(values) / len(values) if values else 1.0


class InstanceScores:
    """Average precision and panoptic quality of one label's instances, over all images that were added."""

    def __init__(self) -> None:
        self.images = 0
        self.count = 0  # true objects seen
        self._hits: list[bool] = []
        self._scores: list[float] = []
        self._tp, self._summed_iou = 0, 0.0

    def add(self, found: Sequence[NDArray[np.bool_]], scores: Sequence[float], truth: NDArray[np.uint16]) -> None:
        """Count one image: masks (H, W) bool, a finite score each, and the instance map (H, W) uint16.

        Raises ValueError for scores that are too few, too many or not finite, or masks of another shape.
        """
        if not np.isfinite(np.asarray(scores, np.float64)).all():
            raise ValueError(f"scores rank the found regions, so each must be finite, not {list(scores)}")
        matching = match_instances(found, truth, scores)
        self.images += 1
        self.count += matching.truths
        self._hits += (matching.partners > 0).tolist()
        self._scores += [float(score) for score in scores]
        self._tp += matching.tp
        self._summed_iou += matching.summed_iou

    @property
    def ap50(self) -> float:
        """Area under the precision envelope over recall at IoU 0.5, every point of it, in [0, 1].

        Regions of equal score are counted together, so that the order of images does not matter. 1 if there
        was nothing and nothing was found, 0 if only one of the two.
        """
        if not self.count or not self._hits:
            return float(not self.count and not self._hits)
        scores, hits = np.array(self._scores), np.array(self._hits)
        order = np.argsort(-scores, kind="stable")
        last = np.append(np.diff(scores[order]) != 0, True)  # of each run of equal scores
        found = np.flatnonzero(last) + 1
        tp = np.cumsum(hits[order])[last]
        envelope = np.maximum.accumulate((tp / found)[::-1])[::-1]
        return float((envelope * np.diff(tp / self.count, prepend=0)).sum())

    @property
    def panoptic_quality(self) -> float:
        """Summed IoU over TP + FP / 2 + FN / 2, in [0, 1] (arXiv 1801.00868); 1 if nothing was there or found."""
        regions = len(self._hits) + self.count  # 2 TP + FP + FN
        return 2 * self._summed_iou / regions if regions else 1.0


class Calibration:
    """Expected calibration error of a decoder, over all pixels of the images added."""

    def __init__(self) -> None:
        self._pixels = np.zeros(BINS, np.int64)
        self._right = np.zeros(BINS, np.int64)
        self._confidence = np.zeros(BINS, np.float64)

    def add(self, probabilities: NDArray[np.float32], truth: NDArray[np.uint8]) -> None:
        """Count one image: probabilities (L + 1, H, W) float32, label map (H, W) uint8 in which 255 is left out.

        Raises ValueError if the sizes differ.
        """
        if probabilities.shape[1:] != truth.shape:
            raise ValueError(f"probabilities {probabilities.shape} do not fit a label map {truth.shape}: scale them")
        known = truth != IGNORE
        confidence = probabilities.max(0)[known].astype(np.float64)
        right = (probabilities.argmax(0) == truth)[known]
        bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        self._pixels += np.bincount(bins, minlength=BINS)
        self._right += np.bincount(bins[right], minlength=BINS)
        self._confidence += np.bincount(bins, confidence, minlength=BINS)

    @property
    def ece(self) -> float:
        """Expected calibration error in [0, 1] (Guo et al. 2017, arXiv 1706.04599); 0 before any pixel."""
        return float(np.abs(self._right - self._confidence).sum() / max(self._pixels.sum(), 1))


@dataclass(frozen=True)
class PairedDifference:
    """The `mean` difference over `n` images, and its standard `error`."""

    n: int
    mean: float
    error: float


def paired_difference(new: dict[str, float], old: dict[str, float]) -> PairedDifference:
    """Mean and standard error of new - old over the images (keys) that both have.

    With one image the error is unknown and returned as 0, without any the mean is, too: check `n`.
    """
    differences = np.array([new[key] - old[key] for key in sorted(new.keys() & old.keys())], np.float64)
    n = len(differences)
    error = float(differences.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    return PairedDifference(n, float(differences.mean()) if n else 0.0, error)

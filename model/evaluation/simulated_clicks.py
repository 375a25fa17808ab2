"""How good an answer is, and a simulated annotator who knows the truth."""

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks of one shape; 1 if both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def interior_point(mask: NDArray[np.bool_], rng: np.random.Generator, central: bool) -> tuple[float, float]:
    """A click inside a mask, xy px: at its deepest point, or anywhere, deep places more likely."""
    rows, columns = np.nonzero(mask)
    y0, x0 = rows.min(), columns.min()
    window = np.pad(mask[y0 : rows.max() + 1, x0 : columns.max() + 1], 1)
    depth: NDArray[np.float64] = ndimage.distance_transform_edt(window)
    if central:
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    else:
        flat = depth.ravel()
        y, x = np.unravel_index(int(rng.choice(len(flat), p=flat / flat.sum())), depth.shape)
    return float(x + x0 - 1), float(y + y0 - 1)


def any_point(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float]:
    """A click anywhere inside a mask, xy px, every pixel as likely."""
    places = np.flatnonzero(mask)
    y, x = np.divmod(places[rng.integers(len(places))], mask.shape[1])
    return float(x), float(y)


def human_click(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float]:
    """A first click as people place it, xy px (RClicks, arXiv 2410.11722).

    Half of them scatter around the deepest point by half of its depth; others lie anywhere inside, as on a part that
    catches the eye; one in ten at the rim, up to 2 px outside the mask but inside the picture.
    """
    kind = rng.random()
    if kind < 0.5:
        centre = np.array(interior_point(mask, rng, central=True))
        for _ in range(10):
            x, y = np.rint(centre + rng.normal(0, 0.5 * _depth(mask, centre), 2))
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[int(y), int(x)]:
                return float(x), float(y)
        return float(centre[0]), float(centre[1])
    if kind < 0.75:
        return interior_point(mask, rng, central=False)
    if kind < 0.9:
        return any_point(mask, rng)
    rim = mask & ~ndimage.binary_erosion(mask)
    x, y = np.array(any_point(rim, rng)) + rng.integers(-2, 3, 2)
    return float(np.clip(x, 0, mask.shape[1] - 1)), float(np.clip(y, 0, mask.shape[0] - 1))


def _depth(mask: NDArray[np.bool_], point: NDArray[np.float64]) -> float:
    """How far a point xy inside a mask is from its rim, px."""
    rows, columns = np.nonzero(np.pad(~mask, 1, constant_values=True))
    return float(np.hypot(columns - 1 - point[0], rows - 1 - point[1]).min())


def loose_box(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A hand-drawn box, xyxy px: each side up to 8 % of the object's size and 3 px outside, or about half that inside.

    At least half of the object's width and height lies within, so that the box of a thin one never turns inside out.
    """
    rows, columns = np.nonzero(mask)
    x0, y0, x1, y1 = columns.min(), rows.min(), columns.max(), rows.max()
    extent = np.array([x1 - x0, y1 - y0] * 2)
    j = np.maximum(rng.uniform(-0.04, 0.08, 4) * extent + rng.uniform(-2, 3, 4), -extent / 4)
    return float(x0 - j[0]), float(y0 - j[1]), float(x1 + j[2]), float(y1 + j[3])


def correction_click(
    found: NDArray[np.bool_], truth: NDArray[np.bool_], rng: np.random.Generator, central: bool = True
) -> tuple[float, float, bool] | None:
    """The next click of an annotator who sees `found` and wants `truth`: x, y px and whether it is positive.

    It falls into the largest connected error, at its deepest point if `central` (RITM, arXiv 2102.06583), and is
    None when nothing is wrong.
    """
    wrong, count = ndimage.label(found ^ truth)
    if not count:
        return None
    largest = wrong == np.bincount(wrong.ravel())[1:].argmax() + 1
    x, y = interior_point(largest, rng, central)
    return x, y, bool(truth[int(y), int(x)])


class LabelScores:
    """Intersections and unions per label, summed over images; label maps are (H, W) uint8, 255 is ignored."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.images = 0
        self._intersections = np.zeros(len(labels), np.int64)
        self._unions = np.zeros(len(labels), np.int64)

    def add(self, found: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """Count one image's answer against its truth."""
        self.images += 1
        known = truth != 255
        pairs = np.bincount(found[known].astype(np.uint16) << 8 | truth[known], minlength=1 << 16).reshape(256, 256)
        same = pairs.diagonal()
        labels = slice(1, len(self.labels) + 1)
        self._intersections += same[labels]
        self._unions += (pairs.sum(0) + pairs.sum(1) - same)[labels]

    def include(self, other: "LabelScores") -> None:
        """Count the images that are counted in `other`."""
        self.images += other.images
        self._intersections += other._intersections
        self._unions += other._unions

    def without(self, other: "LabelScores") -> "LabelScores":
        """The scores of the images that are not counted in `other`, all of whose images are counted in these."""
        rest = LabelScores(self.labels)
        rest.images = self.images - other.images
        rest._intersections += self._intersections - other._intersections
        rest._unions += self._unions - other._unions
        return rest

    @property
    def per_label(self) -> dict[str, float]:
        """IoU of each label that was there or was found."""
        rows = zip(self.labels, self._intersections, self._unions, strict=True)
        return {label: float(i / u) for label, i, u in rows if u}

    @property
    def mean(self) -> float:
        """Mean foreground IoU over the labels of `per_label`; 1 if there was nothing and nothing was found."""
        values = self.per_label.values()
        return sum(values) / len(values) if values else 1.0


def main() -> None:
    """Command line: `python -m skylight.model.evaluation.simulated_clicks prompts --help`, or `refinement`, or
    `agreement`."""
    from skylight.model.experiments import (  # they build on this module
        mask_prompt_ablation,
        prompt_benchmark,
        score_agreement,
    )

    commands = {
        "prompts": prompt_benchmark.main,
        "refinement": mask_prompt_ablation.main,
        "agreement": score_agreement.main,
    }
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(f"usage: python -m skylight.model.evaluation.simulated_clicks {'|'.join(commands)} [options]")
    commands[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    main()

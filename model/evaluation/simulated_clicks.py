"""A simulated annotator's clicks and boxes, drawn from the true mask."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skylight.model.masks.geometry import interior_point


def any_point(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float]:
    """A click anywhere inside a mask, xy px, every pixel as likely."""
    places = np.flatnonzero(mask)
    y, x = np.divmod(places[rng.integers(len(places))], mask.shape[1])
    return float(x), float(y)


def human_click(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float]:
    """A first click as people place it, xy px of a (H, W) bool mask (RClicks, arXiv 2410.11722).

    Half of them scatter around the deepest point by half of its depth; others lie anywhere inside; one in ten lies
    at the rim, up to 2 px outside the mask but inside the image.
    """
    draw = rng.random()
    if draw < 0.5:
        center = np.array(interior_point(mask, rng, central=True))
        for _ in range(10):
            x, y = np.rint(center + rng.normal(0, 0.5 * _depth(mask, center), 2))
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[int(y), int(x)]:
                return float(x), float(y)
        return float(center[0]), float(center[1])
    if draw < 0.75:
        return interior_point(mask, rng, central=False)
    if draw < 0.9:
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
    """The next click that corrects the mask `found` towards `truth`, (H, W) bool: x, y px and whether it is positive.

    It falls into the largest connected error, at its deepest point if `central` (RITM, arXiv 2102.06583); None when
    the masks are equal.
    """
    errors, count = ndimage.label(found ^ truth)
    if not count:
        return None
    largest = errors == np.bincount(errors.ravel())[1:].argmax() + 1
    x, y = interior_point(largest, rng, central)
    return x, y, bool(truth[int(y), int(x)])

"""Which bands of an image, and which range of their numbers, become the 8 bits that a SAM sees."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERCENT = (1.0, 99.0)
SAMPLES = 4_000_000  # percentiles of more values than this are taken from an even grid of them
SKETCHED = 100_000  # the same for an image's quantiles, which are pooled over several images
NO_DATA = 1e38  # raster formats mark missing float pixels with values near -3.4e38

Range = tuple[float, float]


@dataclass(frozen=True)
class Normalization:
    """The bands of a raster that are seen, and the range of their numbers stretched onto 0..255 (8-bit bands are not).

    `bands`: numbers from 1 on of those shown as red, green, blue, or of one; the first three or one if empty. `range`:
    in the images' own units, of all bands together; None: each image's own 1st to 99th percentile.
    """

    bands: tuple[int, ...] = ()
    range: Range | None = None

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> "Normalization":
        """The inverse of `to_json`. Raises LookupError, TypeError or ValueError if it is none."""
        if not stored:
            return PER_IMAGE
        low_high = stored["range"]
        bands = tuple(int(band) for band in stored["bands"])
        return cls(bands, None if low_high is None else (float(low_high[0]), float(low_high[1])))

    def to_json(self) -> dict[str, Any]:
        """As an object of JSON."""
        return {"bands": list(self.bands), "range": None if self.range is None else list(self.range)}

    @property
    def key_suffix(self) -> str:
        """What follows the image's sha256 in an embedding's key; "" for `PER_IMAGE`."""
        if self == PER_IMAGE:
            return ""
        return f"-{hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()[:12]}"

    def __str__(self) -> str:
        bands = f"bands {', '.join(map(str, self.bands))}" if self.bands else "the first three bands, or one"
        if self.range is None:
            return f"{bands}; black and white by each picture's own percentiles"
        return f"{bands}; {self.range[0]:g} is black, {self.range[1]:g} white"


PER_IMAGE = Normalization()


def known(numbers: NDArray[Any]) -> NDArray[np.bool_]:
    """Which numbers are finite and not a raster's mark for missing data: bool of their shape."""
    if numbers.dtype.kind != "f":
        return np.ones(numbers.shape, bool)
    mask: NDArray[np.bool_] = np.isfinite(numbers) & (np.abs(numbers) < NO_DATA)
    return mask


def percentile_range(numbers: NDArray[Any]) -> Range:
    """The 1st and 99th percentile of known numbers, of any shape; 0, 1 of none."""
    values = _thinned(numbers, SAMPLES)
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, PERCENT)
    if low == high:  # almost all of it is one value: keep what stands out
        low, high = values.min(), values.max()
    return float(low), float(high)


def quantiles(numbers: NDArray[Any]) -> NDArray[np.float64] | None:
    """The percentiles 0, 1, ... 100 of known numbers, (101,) float64; None of none."""
    values = _thinned(numbers, SKETCHED)
    return np.percentile(values, np.arange(101)).astype(np.float64) if values.size else None


def common_range(pictures: Sequence[NDArray[np.float64]]) -> Range | None:
    """The 1st and 99th percentile over several images, from the `quantiles` of each, with equal weight.

    None if there is only one number in all of them, or nothing.
    """
    low, high = percentile_range(np.concatenate(pictures)) if pictures else (0.0, 0.0)
    return (low, high) if low < high else None


def stretch(numbers: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Numbers as uint8 of the same shape, `low`..`high` onto 0..255; unknown ones become 0."""
    mask = known(numbers)
    values = np.where(mask, numbers, numbers.dtype.type(0)).astype(np.result_type(numbers.dtype, np.float32))
    scaled = (np.clip(values, low, high) - low) * (255.0 / max(high - low, 1e-30))
    levels: NDArray[np.uint8] = np.where(mask, np.rint(scaled), 0).astype(np.uint8)
    return levels


def _thinned(numbers: NDArray[Any], most: int) -> NDArray[Any]:
    """Some `most` of the known numbers of an array of any shape, as (N,), evenly from all rows, columns and bands.

    A masked array's masked numbers are not known.
    """
    values = numbers.reshape(-1)[:: _stride(numbers.shape, 1 + numbers.size // most)]
    if isinstance(values, np.ma.MaskedArray):
        values = values.compressed()  # type: ignore[no-untyped-call]
    return values[known(values)]


def _stride(shape: tuple[int, ...], least: int) -> int:
    """The smallest stride from `least` on that shares no divisor with a side: with 3, say, 3 bands would be one."""
    while any(math.gcd(least, side) > 1 for side in shape):
        least += 1
    return least

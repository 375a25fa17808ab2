"""Guided filter: values as a local linear function of a guide image, so that their edges follow the image's.

He et al. 2013, doi 10.1109/TPAMI.2012.213. Works on numpy arrays and on torch tensors alike.
"""

from collections.abc import Callable
from typing import Any

Planes = Any  # numpy arrays, or torch tensors; all of one filter are of the same kind


class GuidedFilter:
    """A guide, ready to filter any number of planes of values."""

    def __init__(self, guide: Planes, mean: Callable[[Planes], Planes], epsilon: float) -> None:
        """`guide` (h, w) or (1, h, w); `mean` averages planes (..., h, w) over the window around each cell.

        `epsilon` is the variance of the guide above which the filter keeps an edge.
        """
        self._guide, self._mean = guide, mean
        self._average = mean(guide)
        self._variance = mean(guide * guide) - self._average * self._average + epsilon

    def fit(self, values: Planes) -> tuple[Planes, Planes]:
        """Slope and intercept, each of the shape of `values`: the filtered values are slope * guide + intercept.

        Both vary slowly. Enlarged, they give the filtered values at the resolution of a finer guide.
        """
        average = self._mean(values)
        slope = (self._mean(self._guide * values) - self._average * average) / self._variance
        return self._mean(slope), self._mean(average - slope * self._average)

"""Errors of masks, and the check that every encoder makes first."""

import numpy as np
from numpy.typing import NDArray


class MaskError(ValueError):
    """A mask that cannot be encoded or decoded."""


class EmptyMask(MaskError):
    """A shape that was never drawn, such as a polygon of two points: no pixel is in it, and nothing is damaged."""


def check_mask(mask: NDArray[np.bool_]) -> None:
    """Raises MaskError unless `mask` is (H, W) bool with 1 to 2**30 - 1 pixels."""
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise MaskError(f"a mask must be (H, W) bool, not {mask.shape} {mask.dtype}")
    if not 0 < mask.size < 2**30:
        raise MaskError(f"a mask of {mask.shape[1]} x {mask.shape[0]} pixels cannot be written")

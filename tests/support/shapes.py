"""Numbered objects as masks of their own."""

import numpy as np
from numpy.typing import NDArray


def apart(numbered: NDArray[np.int32]) -> list[NDArray[np.bool_]]:
    """The masks (H, W) bool of objects numbered from 1 on, (H, W)."""
    return [numbered == number for number in range(1, int(numbered.max()) + 1)]

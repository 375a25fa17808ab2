"""Scaling of images and points to the square that SAM sees: the longest side becomes the square's.

As segment_anything/utils/transforms.py does it, to the last bit; that module imports torchvision, see
`segment_anything_import`.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Size = tuple[int, int]  # height, width


def scaled_size(size: Size, side: int) -> Size:
    """An image's height and width, at least 1 px each, when its longest side is `side` px."""
    scale = side * 1.0 / max(size)
    return max(int(size[0] * scale + 0.5), 1), max(
        int(size[1] * scale + 0.5), 1
    )  # segment-anything gives 0 px for a narrow image


def scale_image(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """An image (H, W, 3) uint8 whose longest side becomes `side` px."""
    height, width = scaled_size((image.shape[0], image.shape[1]), side)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def scale_points(points: NDArray[np.float32], size: Size, side: int) -> NDArray[np.float64]:
    """Points (..., 2) xy px of an image of `size` as (..., 2) float64 px of the scaled image."""
    height, width = scaled_size(size, side)
    scaled: NDArray[np.float64] = points.astype(np.float64) * np.array([width / size[1], height / size[0]])
    return scaled

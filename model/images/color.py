"""Conversion to sRGB of images with a color profile (ICC) or a gamma, as browsers do it.

Chromium applies those of JPEG, PNG, WebP and AVIF. Formats that it does not show, such as TIFF, stay as they are.
"""

import functools
import io
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from skylight.model.images.orientation import AVIF, JPEG, PNG

WEBP = b"RIFF"
# Pillow's modes -> the mode without alpha and palette, which a profile is for.
COLOR_MODES = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}
STEPS = (0, 32, 96, 128, 192, 255)  # levels at which a profile is compared with sRGB
SAME = 1  # level by which a profile for sRGB may differ from it
CACHED = 16  # conversions
SRGB_GAMMA, NEAR = 1 / 2.2, 0.05  # of a PNG; a gamma within 5 % counts as sRGB's, as in libpng

Conversion = Callable[[Image.Image], Image.Image]


def srgb_conversion(data: bytes, mode: str, info: Mapping[Any, Any]) -> Conversion | None:
    """A function from an image, of a mode among `COLOR_MODES.values()`, to RGB as shown; None if it is sRGB already.

    `data`: its file; `mode` and `info` as Pillow gives them. A profile that is damaged, for another mode, or sRGB's
    own, is ignored.
    """
    if not (data.startswith((JPEG, PNG, WEBP)) or data[4:8] == AVIF) or mode not in COLOR_MODES:
        return None
    if profile := info.get("icc_profile"):
        return _by_profile(profile, COLOR_MODES[mode])
    gamma = info.get("gamma")
    if not data.startswith(PNG) or not gamma or "srgb" in info or abs(gamma / SRGB_GAMMA - 1) < NEAR:
        return None
    return _by_gamma(gamma)


@functools.lru_cache(maxsize=CACHED)
def _by_profile(profile: bytes, mode: str) -> Conversion | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    bands = Image.getmodebands(mode)
    levels = np.array(list(itertools.product(STEPS, repeat=bands)), np.uint8)
    colors = Image.frombytes(mode, (len(levels), 1), levels.tobytes())
    difference = np.asarray(transform.apply(colors), np.int16) - np.asarray(colors.convert("RGB"), np.int16)
    return transform.apply if np.abs(difference).max() > SAME else None


@functools.lru_cache(maxsize=CACHED)
def _by_gamma(gamma: float) -> Conversion:
    linear = (np.arange(256) / 255) ** (1 / gamma)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    table = np.rint(255 * encoded).astype(int).tolist()
    return lambda picture: picture.point(table * len(picture.getbands())).convert("RGB")

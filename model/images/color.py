"""Colours of a picture in sRGB, as a browser shows them, where its file has a colour profile (ICC) or a gamma.

Chromium goes by those of JPEG, PNG, WebP and AVIF. Of what it does not show, such as TIFF, the numbers stay.
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
# What is left of Pillow's modes without alpha and palette: those that profiles are for.
COLOURS = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}
STEPS = (0, 32, 96, 128, 192, 255)  # levels at which a profile is compared with sRGB
SAME = 1  # level by which a profile for sRGB may differ from it
KEPT = 16  # conversions
SRGB_GAMMA, NEAR = 1 / 2.2, 0.05  # of a PNG; one that is as near as that is taken for it, as libpng does

Conversion = Callable[[Image.Image], Image.Image]


def conversion(data: bytes, mode: str, info: Mapping[Any, Any]) -> Conversion | None:
    """What makes RGB of a picture of one of the modes `COLOURS.values()`; None if its numbers are those that are shown.

    `data`: its file; `mode` and `info` as Pillow has them. A profile that is damaged, for other colours than the
    picture's, or sRGB's own, is left out.
    """
    if not (data.startswith((JPEG, PNG, WEBP)) or data[4:8] == AVIF) or mode not in COLOURS:
        return None
    if profile := info.get("icc_profile"):
        return _by_profile(profile, COLOURS[mode])
    gamma = info.get("gamma")
    if not data.startswith(PNG) or not gamma or "srgb" in info or abs(gamma / SRGB_GAMMA - 1) < NEAR:
        return None
    return _by_gamma(gamma)


@functools.lru_cache(maxsize=KEPT)
def _by_profile(profile: bytes, mode: str) -> Conversion | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        made = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
    bands = Image.getmodebands(mode)
    levels = np.array(list(itertools.product(STEPS, repeat=bands)), np.uint8)
    colours = Image.frombytes(mode, (len(levels), 1), levels.tobytes())
    off = np.asarray(made.apply(colours), np.int16) - np.asarray(colours.convert("RGB"), np.int16)
    return made.apply if np.abs(off).max() > SAME else None


@functools.lru_cache(maxsize=KEPT)
def _by_gamma(gamma: float) -> Conversion:
    linear = (np.arange(256) / 255) ** (1 / gamma)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    table = np.rint(255 * encoded).astype(int).tolist()
    return lambda picture: picture.point(table * len(picture.getbands())).convert("RGB")

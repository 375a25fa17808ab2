"""Label Studio's bitmasks: data URLs of PNG files."""

import base64
import binascii

import numpy as np
from numpy.typing import NDArray

from skylight.model.images.decoding import MAX_PIXELS, ImageError, load
from skylight.model.masks.errors import MaskError, check_mask
from skylight.model.masks.png import PALETTE, RGBA, encode_mask

DATA_URL = "data:image/png;base64,"
OPAQUE = 127  # alpha or gray above this is mask: half, as strokes are anti-aliased
RGBA_PIXELS = 2048 * 2048  # of an image; a mask in a larger one is written with a palette


def encode_png(mask: NDArray[np.bool_]) -> str:
    """Label Studio's bitmask of a (H, W) bool mask: a data URL, RGBA PNG, black where true, else clear.

    Raises MaskError if the mask is not 2-D bool, or is empty.
    """
    check_mask(mask)
    height, width = mask.shape
    return _data_url(encode_mask(mask, 0, 0, (height, width), RGBA))


def encode_png_in(mask: NDArray[np.bool_], top: int, left: int, size: tuple[int, int]) -> str:
    """As `encode_png`, of an image of `size` (H, W) with `mask` (h, w) from row `top`, column `left` on, else clear.

    An image of more than `RGBA_PIXELS` has a palette, a byte per pixel: its reader needs a quarter of the memory.
    Raises MaskError also if the mask does not lie in the image.
    """
    check_mask(mask)
    if not (0 <= top <= size[0] - mask.shape[0] and 0 <= left <= size[1] - mask.shape[1]):
        raise MaskError(f"a mask {mask.shape} at {top}, {left} does not fit into a picture of {size[1]} x {size[0]} px")
    return _data_url(encode_mask(mask, top, left, size, RGBA if size[0] * size[1] <= RGBA_PIXELS else PALETTE))


def decode_png(url: str, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """The (H, W) bool mask in a PNG data URL: where alpha is above 127, or gray is, if the PNG has no alpha.

    Raises MaskError if it is not the data URL of a whole PNG, or, by its header, before any pixel is decoded, not of
    `size` (H, W), or of more than `max_pixels` pixels.
    """
    head, _, body = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not (head.startswith("data:image/png") and head.endswith(";base64")):
        raise MaskError(f"a bitmask must be a {DATA_URL}... URL, not {str(url)[:40]!r}")
    try:
        picture = load(base64.b64decode(body, validate=True), ("PNG",), max_pixels, size)
    except (binascii.Error, ImageError, ValueError) as error:
        raise MaskError(f"the bitmask cannot be read: {error}") from error
    if picture.mode == "PA" or "transparency" in picture.info:
        picture = picture.convert("RGBA")
    band = picture.getchannel("A") if picture.mode in ("RGBA", "LA") else picture.convert("L")
    return np.asarray(band) > OPAQUE


def _data_url(png: bytes) -> str:
    return DATA_URL + base64.b64encode(png).decode("ascii")

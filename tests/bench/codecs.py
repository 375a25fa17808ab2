"""Masks to and from Label Studio's formats, against the SDK's codec and the usual library calls."""

import base64
import io

import cv2
import numpy as np
from label_studio_sdk.converter.brush import decode_rle as sdk_decode
from label_studio_sdk.converter.brush import mask2rle
from numpy.typing import NDArray
from PIL import Image

from skylight.model.datasets import synthetic_scenes
from skylight.model.masks.bitmask import decode_png, encode_png
from skylight.model.masks.brush_rle import decode_rle, encode_rle
from skylight.model.masks.polygonize import polygons
from tests.bench.timing import Table, interleaved

SIDES = (512, 1024, 2048, 4096)


def run(table: Table, broker: str) -> None:
    """The mask of a procedural scene's largest object, as a click gives it, scaled."""
    largest = max((each.mask for each in synthetic_scenes.scene(3).objects), key=lambda mask: int(mask.sum()))
    for side in SIDES:
        mask: NDArray[np.bool_] = np.kron(largest, np.ones((side // 512, side // 512), bool))
        rounds = 20 if side < 2048 else 6
        rle, levels = encode_rle(mask), mask.astype(np.uint8) * 255
        assert rle == mask2rle(levels)
        assert np.array_equal(sdk_decode(rle).reshape(side, side, 4)[..., 3] > 0, mask)
        url = encode_png(mask)
        found = interleaved(
            {
                "encode": lambda: encode_rle(mask),  # noqa: B023
                "sdk encode": lambda: mask2rle(levels),  # noqa: B023
                "decode": lambda: decode_rle(rle, side, side),  # noqa: B023
                "sdk decode": lambda: sdk_decode(rle).reshape(side, side, 4)[..., 3],  # noqa: B023
                "png": lambda: encode_png(mask),  # noqa: B023
                "cv2 png": lambda: library_png(mask),  # noqa: B023
                "unpng": lambda: decode_png(url),  # noqa: B023
                "cv2 unpng": lambda: library_unpng(url),  # noqa: B023
                "polygons": lambda: polygons(mask),  # noqa: B023
                "cv2 polygons": lambda: library_polygons(mask),  # noqa: B023
            },
            rounds,
        )
        for what, other, least in (("encode", "sdk encode", 10.0), ("decode", "sdk decode", 13.0)):
            table.times(f"brush RLE {what}, {side} px", found[what])
            table.add(f"brush RLE {what}, {side} px: SDK over ours", ratio(found, other, what), "x", least=least)
        for what, other in (("png", "cv2 png"), ("unpng", "cv2 unpng"), ("polygons", "cv2 polygons")):
            table.times(f"{what}, {side} px", found[what])
            table.add(f"{what}, {side} px: ours over OpenCV's or Pillow's", ratio(found, what, other), "x", most=2)


def ratio(found: dict, above: str, below: str) -> float:
    """Of two medians."""
    return float(found[above].median / found[below].median)


def library_png(mask: NDArray[np.bool_]) -> str:
    """The same bitmask by Pillow's call for a picture of four channels."""
    rgba = np.zeros((*mask.shape, 4), np.uint8)
    rgba[..., 3] = mask * np.uint8(255)
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def library_unpng(url: str) -> NDArray[np.bool_]:
    """By OpenCV."""
    data = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
    found: NDArray[np.bool_] = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)[..., 3] > 127
    return found


def library_polygons(mask: NDArray[np.bool_]) -> list:
    """OpenCV's outlines, thinned by Douglas-Peucker to one pixel; holes are lost."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [cv2.approxPolyDP(each, 1.0, True) for each in outlines]

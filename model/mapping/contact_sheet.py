"""A page of thumbnails with the objects of each image; without scripts or external resources."""

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from skylight.model.mapping.writers import color
from skylight.model.storage import atomic_write

SIDE = 480  # px, longer side of a thumbnail
SMALLEST_BOX = 3  # px, of a box that is drawn

Box = tuple[int, int, int, int, int]  # label, left, top, width, height px

HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Skylight: what was found</title>
<style>body{font:14px system-ui,sans-serif;margin:1.5em}figure{display:inline-block;width:20em;margin:.5em;
vertical-align:top}img{width:100%}figcaption{overflow-wrap:anywhere}</style>
"""


def draw(small: NDArray[np.uint8], size: tuple[int, int], boxes: Sequence[Box]) -> Image.Image:
    """A thumbnail (h, w, 3) uint8 of an image of `size` (H, W), with boxes in it."""
    picture = Image.fromarray(small)
    share = picture.width / size[1]
    pen = ImageDraw.Draw(picture)
    for label, left, top, width, height in boxes:
        x, y = (left + width / 2) * share, (top + height / 2) * share
        w, h = max(width * share, SMALLEST_BOX) / 2 + 1, max(height * share, SMALLEST_BOX) / 2 + 1
        pen.rectangle((x - w, y - h, x + w, y + h), outline=color(label))
    return picture


def write_page(path: Path, title: str, pictures: Sequence[Mapping[str, Any]]) -> None:
    """Write the page of the records that `pipeline.map_image` gives, the least confident first.

    Their names may have any characters.
    """
    parts = [HEAD, f"<h1>{html.escape(title)}</h1>\n"]
    for record in sorted(pictures, key=lambda record: float(record["confidence"])):
        counts = ", ".join(f"{count} {html.escape(label)}" for label, count in record["counts"].items()) or "nothing"
        unknown = 1 - float(record.get("known", 1))
        also = f", {unknown:.1%} without data" if unknown else ""
        name, source = html.escape(record["input"]), quote(os.fsencode(record["thumbnail"]))
        parts.append(
            f'<figure><img src="{source}" alt="{name}"><figcaption><b>{name}</b><br>{record["size"][1]} x '
            f"{record['size'][0]} px, {counts}, confidence {record['confidence']:.3f}{also}</figcaption></figure>\n"
        )
    atomic_write.write(path, "".join(parts).encode(errors="replace"))

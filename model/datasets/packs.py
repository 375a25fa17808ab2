"""Packs of real images with instance masks, for pretraining and evaluation.

A pack is a folder with `images/`, `masks/` (PNG, 0 background, k = k-th instance), `meta.json` and `LICENSE.txt`.
None comes with Skylight. Some images of every pack are held out from all training, always the same ones.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SMALLEST_OBJECT, LARGEST_OBJECT = 60, 0.85  # px, and share of the image, of an object that a benchmark prompts for
HELD_OUT_SHARE = 0.2  # of a pack's images; by hash of the name alone, since two packs may share pictures
# Whole THEMIS regions, so that no two halves of one crater or terrain stand on both sides: 77 of the 133 images.
HELD_OUT_REGIONS = frozenset({"syrtismajor", "elysium", "margaritifersinus", "sinussabaeus", "oxiapalus", "tharsis"})

# Packs of kinds that nothing is trained on or tuned by: they are measured once, after a pretraining.
LEFT_OUT = frozenset(
    {
        "axons_sem",
        "bottles",
        "mandarins",
        "mushrooms",
        "nerves_ultrasound",
        "neurons",
        "nuts_dates",
        "particles_em",
        "pellets_coke",
        "tree_trunks",
    }
)


@dataclass(frozen=True)
class PackImage:
    """An image of a pack; `group` is its region or kind as meta.json names it, "" if it names none."""

    pack: str
    stem: str
    group: str
    image_path: Path
    mask_path: Path

    @property
    def held_out(self) -> bool:
        """Whether training must never see it."""
        if self.pack in LEFT_OUT:
            return True
        if self.pack == "mars_craters_themis":
            return self.group in HELD_OUT_REGIONS
        digest = hashlib.sha256(self.stem.encode()).digest()
        return digest[0] < 256 * HELD_OUT_SHARE

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """The image (H, W, 3) uint8 RGB, and its instances (H, W) uint16, 0 background."""
        with Image.open(self.image_path) as image, Image.open(self.mask_path) as mask:
            return np.asarray(image.convert("RGB")), np.asarray(mask).astype(np.uint16)


def images(folder: Path, names: tuple[str, ...] = ()) -> Iterator[PackImage]:
    """The images of the packs in `folder`, or of those named. Raises FileNotFoundError if the folder has no pack."""
    metas = sorted(folder.glob("*/meta.json"))
    if not metas:
        raise FileNotFoundError(f"{folder} holds no pack (a folder with meta.json, images/ and masks/)")
    for path in metas:
        meta: dict[str, Any] = json.loads(path.read_text())
        pack = path.parent.name
        if names and pack not in names:
            continue
        files = {p.stem: p for p in (path.parent / "images").iterdir()}
        for entry in sorted(meta["images"], key=lambda entry: str(entry["stem"])):
            stem = str(entry["stem"])
            group = str(entry.get("region", entry.get("kind", "")))
            yield PackImage(pack, stem, group, files[stem], path.parent / "masks" / f"{stem}.png")


def benchmark_images(folder: Path, limit: int, names: tuple[str, ...] = (), every: bool = False) -> Iterator[PackImage]:
    """At most `limit` images of each pack, or of each named: of those held out from training, or of `every` image."""
    taken: dict[str, int] = {}
    for item in images(folder, names):
        if (item.held_out or every) and taken.setdefault(item.pack, 0) < limit:
            taken[item.pack] += 1
            yield item


def benchmark_objects(masks: Sequence[NDArray[np.bool_]], limit: int) -> list[NDArray[np.bool_]]:
    """At most `limit` of an image's objects (H, W) bool, spread over all that are neither tiny nor a background."""
    usable = [mask for mask in masks if SMALLEST_OBJECT <= mask.sum() <= LARGEST_OBJECT * mask.size]
    step = max(len(usable) // limit, 1)
    return usable[::step][:limit]

"""Splits of `skylight simulate`: each pack's images are split into a pool to annotate and a test set."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skylight.model.datasets import packs, synthetic_scenes

PROCEDURAL = "procedural"  # the pack of procedural pits, which needs no folder
FIRST_SEED = 60_000  # of its scenes: those of pretraining begin at a million, the demo's at 7000, the e2e's at 20,000
SCENES = 80  # 20 to test on and 60 to annotate
SCENE_SIDE = 512  # px


class PoolError(ValueError):
    """A pack does not exist, or has too few images; the message says which and what to do."""


class Source(Protocol):
    """An image with its true instances; `group` is what must not be on both sides, empty if there is no such thing."""

    @property
    def pack(self) -> str: ...

    @property
    def stem(self) -> str: ...

    @property
    def group(self) -> str: ...

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """The picture, (H, W, 3) uint8 RGB, and its instances, (H, W) uint16, 0 = none."""


@dataclass(frozen=True)
class ProceduralImage:
    """A procedural scene as an image of a pack: its pits are the objects, craters and boulders are not."""

    seed: int
    side: int = SCENE_SIDE
    pack: str = PROCEDURAL
    group: str = ""

    @property
    def stem(self) -> str:
        """The seed."""
        return str(self.seed)

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """The picture, (side, side, 3) uint8 RGB, and its pits, (side, side) uint16."""
        scene = synthetic_scenes.scene(self.seed, self.side)
        instances = np.zeros(scene.image.shape[:2], np.uint16)
        for number, pit in enumerate((each for each in scene.objects if each.kind == "pit"), 1):
            instances[pit.mask] = number
        return scene.image, instances


@dataclass(frozen=True)
class Tile:
    """A part of an image, as a survey cuts a map into tasks; most of them hold nothing where things are rare.

    The image's group, or else its name, keeps an image's tiles on one side.
    """

    source: Source
    row: int
    column: int
    side: int  # px, about

    @property
    def pack(self) -> str:
        """Of its own, since its figures are not those of whole images."""
        return f"{self.source.pack}-{self.side}px"

    @property
    def stem(self) -> str:
        """The image's, and where in it."""
        return f"{self.source.stem}-r{self.row}c{self.column}"

    @property
    def group(self) -> str:
        """See above."""
        return self.source.group or self.source.stem

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """The picture, (h, w, 3) uint8 RGB, and what of its instances lies in it, (h, w) uint16."""
        image, instances = self.source.read()
        rows, columns = (cuts(length, self.side) for length in instances.shape)
        where = np.s_[
            rows[self.row] : rows[self.row + 1],
            columns[self.column] : columns[self.column + 1],
        ]
        return np.ascontiguousarray(image[where]), np.ascontiguousarray(instances[where])


def cuts(length: int, side: int) -> list[int]:
    """Where a length is cut into equal parts of about `side` px, both ends included."""
    parts = max(round(length / side), 1)
    return [length * i // parts for i in range(parts + 1)]


def tiles(source: Source, side: int) -> list[Tile]:
    """All tiles of an image, row by row."""
    rows, columns = (len(cuts(length, side)) - 1 for length in source.read()[1].shape)
    return [Tile(source, row, column, side) for row in range(rows) for column in range(columns)]


@dataclass(frozen=True)
class Pool:
    """The two sides of a pack: `annotate` are the images an annotator may be given, `test` those that measure."""

    pack: str
    annotate: tuple[Source, ...]
    test: tuple[Source, ...]

    @property
    def split(self) -> str:
        """A fingerprint of both sides, 8 hex digits: results of different splits cannot be compared."""
        names = [[each.stem for each in side] for side in (self.annotate, self.test)]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]


def pools(
    data: Path | None,
    names: Sequence[str],
    test_images: int,
    every: bool = False,
    side: int | None = None,
    rare: float | None = None,
) -> list[Pool]:
    """The packs in `data`, or those named, and the procedural one, each parted.

    Only held-out images are taken, which the bundled SAM never saw, or `every` image, for a SAM that saw none. Packs
    with fewer than two such images are left out. With `side`, px, their tiles take their place (`Tile`); with
    `rare` few of the images to annotate hold anything (`thinned`). Raises PoolError if one of those was named or is not
    there.
    """
    found: dict[str, list[Source]] = {PROCEDURAL: [ProceduralImage(FIRST_SEED + i) for i in range(SCENES)]}
    regional = {path.parent.name for path in data.glob("*/meta.json") if has_regions(path)} if data else set()
    for item in _images(data):
        mine = found.setdefault(item.pack, [])
        if item.held_out or every:
            mine.append(item)
    absent = sorted(set(names) - set(found))
    if absent:
        raise PoolError(f"there is no pack called {', '.join(absent)}; there are {', '.join(sorted(found))}")
    few = sorted(pack for pack in names if len(found[pack]) < 2)
    if few:
        raise PoolError(f"{', '.join(few)}: fewer than 2 images that SAM never saw; try --all-images or leave it out")
    chosen = {
        pack: images for pack, images in sorted(found.items()) if len(images) >= 2 and (not names or pack in names)
    }
    if side is None:
        parted = [part(pack, images, test_images, by_group=pack in regional) for pack, images in chosen.items()]
    else:
        cut = [[tile for image in images for tile in tiles(image, side)] for images in chosen.values()]
        parted = [part(pieces[0].pack, pieces, test_images, by_group=True) for pieces in cut]
    return [thinned(pool, rare) for pool in parted] if rare else parted


def _images(data: Path | None) -> list[packs.PackImage]:
    try:
        return list(packs.images(data)) if data else []
    except FileNotFoundError as error:
        raise PoolError(str(error)) from error


def has_regions(meta: Path) -> bool:
    """Whether a pack's images are pieces of larger pictures: its meta.json then names each one's `region`."""
    return any(entry.get("region") for entry in json.loads(meta.read_text())["images"])


def part(pack: str, images: Sequence[Source], test_images: int, by_group: bool = False) -> Pool:
    """Part images by the hash of their names: the first half, at most `test_images`, test, the others are annotated.

    With `by_group`, whole groups change sides, as long as there are two, so that no crater lies on both. Raises
    PoolError for fewer than two images.
    """
    if len(images) < 2:
        raise PoolError(f"{pack} has {len(images)} image(s), but one to learn from and one to test on are needed")
    ranked = sorted(images, key=_digest)
    wanted = max(min(test_images, len(ranked) // 2), 1)
    groups = sorted({each.group for each in ranked}, key=lambda group: hashlib.sha256(group.encode()).digest())
    if not by_group or len(groups) < 2:
        return Pool(pack, tuple(ranked[wanted:]), tuple(ranked[:wanted]))
    testing = _groups_for(wanted, groups, ranked)
    test = [each for each in ranked if each.group in testing]
    return Pool(pack, tuple(each for each in ranked if each.group not in testing), tuple(test[:test_images]))


def thinned(pool: Pool, share: float) -> Pool:
    """A pool of which at most `share` of the images to annotate hold anything: things as rare as that.

    Those left out follow from their names. Raises PoolError if nothing or nothing empty is left.
    """
    holding = {each.stem for each in pool.annotate if each.read()[1].any()}
    empty = len(pool.annotate) - len(holding)
    most = int(empty * share / (1 - share))
    if not empty or not min(most, len(holding)):
        raise PoolError(f"{pool.pack} has {empty} empty images beside {len(holding)}: too few for a share of {share:g}")
    kept = set(sorted(holding, key=lambda stem: hashlib.sha256(f"thin/{stem}".encode()).digest())[:most])
    annotate = tuple(each for each in pool.annotate if each.stem not in holding or each.stem in kept)
    return Pool(pool.pack, annotate, pool.test)


def _groups_for(wanted: int, groups: Sequence[str], images: Sequence[Source]) -> set[str]:
    """Groups, in their order, until they have `wanted` images; never all, and none that would take over half."""
    chosen: set[str] = set()
    count = 0
    for group in groups:
        size = sum(each.group == group for each in images)
        if count < wanted and 2 * (count + size) <= len(images) + wanted:
            chosen.add(group)
            count += size
    if chosen and len(chosen) < len(groups):
        return chosen
    return {min(groups, key=lambda group: sum(each.group == group for each in images))}


def _digest(image: Source) -> bytes:
    return hashlib.sha256(f"simulate/{image.stem}".encode()).digest()

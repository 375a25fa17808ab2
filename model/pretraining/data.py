"""Training images of the tiny SAM: augmented windows of packs' images and of synthetic ones."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from skylight.model.datasets import packs, synthetic_scenes
from skylight.model.masks.instance_map import object_numbers
from skylight.model.pretraining.cutout_compositing import Cutouts
from skylight.model.pretraining.procedural_images import procedural_image

PADDING = np.array([124, 116, 104], np.uint8)  # the pixel mean: 0 once normalised, as segment-anything pads
SCENES, PROCEDURAL, CUTOUTS = 200, 1000, 1000  # synthetic images: how many different ones of each kind
FIRST_SEED = 1_000_000  # far from those of tests, demo and evaluation
SCENE_SHARE = 0.25  # of the synthetic images
CUTOUT_SHARE = 0.45  # of the synthetic images, where there are drawings to cut out
PARTS_SHARE = 0.4  # how often an image with parts is prompted for these instead of the objects they belong to
FIRST_EXTENT, LAST_EXTENT = 0.04, 0.8  # of the window's side that the object it was laid around fills
SMALLEST_OBJECT = 40  # px in the window
CACHE_BYTES = 2_500_000_000  # of images that stay in memory once read; any further are read again each time

Pixel = TypeVar("Pixel", bound=np.generic)
SourceImage = tuple[NDArray[np.uint8], tuple[NDArray[np.uint16], ...]]


# Packs of one kind of object; any other pack is a kind of its own.
KINDS = {
    "animals": ("dogs", "dogs_cats", "feral_cats", "pigs", "wild_animals"),
    "cars": ("car_damage", "car_defects", "car_panels"),
    "cells": ("counting_chamber", "crawling_cells", "hela_cells", "monocytes", "organoids"),
    "craters": ("mars_craters_themis", "web_craters"),
    "food": ("indian_food", "indonesian_food"),
    "fruit": ("strawberries", "tomatoes"),
    "X-rays": ("lungs_xray", "teeth_xray", "windpipes_xray"),
}


class TrainingImage(NamedTuple):
    """A square image (s, s, 3) uint8 RGB, and the numbers of the objects that are prompted for, (s, s) uint16.

    `alternatives`, of the same shape, holds the parts of these objects, or the objects that they are parts of: a click
    may mean either.
    """

    image: NDArray[np.uint8]
    instances: NDArray[np.uint16]
    alternatives: NDArray[np.uint16] | None = None


def pack_weights(sizes: dict[str, int]) -> NDArray[np.float64]:
    """The share of each pack, (N,) float64, from the number of its images.

    All kinds have equal shares; within one, packs have shares by the square root of their sizes.
    """
    kinds = {pack: kind for kind, members in KINDS.items() for pack in members}
    roots: dict[str, float] = {}
    for pack, size in sizes.items():
        kind = kinds.get(pack, pack)
        roots[kind] = roots.get(kind, 0.0) + size**0.5
    shares = np.array([size**0.5 / roots[kinds.get(pack, pack)] for pack, size in sizes.items()])
    return shares / max(len(roots), 1)


class ImageSampler:
    """Draws augmented square images; the packs weigh as `pack_weights` says."""

    def __init__(
        self, pool: Sequence[packs.PackImage], rng: np.random.Generator, made: float, drawings: Path | None = None
    ) -> None:
        """`made`: the share of synthetic images; `drawings`: a folder for `Cutouts`, with the pool as backgrounds."""
        self.rng = rng
        self.made = made if pool else 1.0
        self.pool: dict[str, list[Callable[[], SourceImage]]] = {}
        for item in pool:
            self.pool.setdefault(item.pack, []).append(partial(_pack_image, item))
        self.weights = pack_weights({pack: len(images) for pack, images in self.pool.items()})
        self.scenes = [partial(_scene, FIRST_SEED + i) for i in range(SCENES)]
        self.procedural = [partial(_procedural, FIRST_SEED + i) for i in range(PROCEDURAL)]
        self.cutouts: list[Callable[[], SourceImage]] = []
        if drawings:
            photographs = [partial(_photograph, self, read) for images in self.pool.values() for read in images]
            cutouts = Cutouts(drawings, photographs)
            self.cutouts = [partial(_cutouts, cutouts, FIRST_SEED + i) for i in range(CUTOUTS)]
        self._cache: dict[Callable[[], SourceImage], SourceImage] = {}
        self._room = CACHE_BYTES

    def source(self, read: Callable[[], SourceImage]) -> SourceImage:
        """An image before it is cropped; read or rendered once, while the cache has room."""
        if read in self._cache:
            return self._cache[read]
        image, maps = source = read()
        self._room -= image.nbytes + sum(ids.nbytes for ids in maps)
        if self._room > 0:
            self._cache[read] = source
        return source

    def draw(self, side: int) -> TrainingImage:
        """An image of `side` x `side` px with at least one usable object."""
        rng = self.rng
        while True:
            sources = self._sources(rng.random() < self.made)
            image, maps = self.source(sources[int(rng.integers(len(sources)))])
            if len(maps) > 1 and rng.random() < PARTS_SHARE:
                maps = maps[::-1]
            cropped = self._crop(image, maps, side)
            if len(usable_objects(cropped.instances)):
                return cropped._replace(image=self._distort(cropped.image))

    def _sources(self, synthetic: bool) -> Sequence[Callable[[], SourceImage]]:
        rng = self.rng
        if not synthetic:
            return self.pool[str(rng.choice(list(self.pool), p=self.weights))]
        if self.cutouts and rng.random() < CUTOUT_SHARE:
            return self.cutouts
        return (
            self.scenes if rng.random() < SCENE_SHARE / (1 - CUTOUT_SHARE if self.cutouts else 1) else self.procedural
        )

    def _crop(self, image: NDArray[np.uint8], maps: Sequence[NDArray[np.uint16]], side: int) -> TrainingImage:
        """A square window around a random object, which then fills 4-80 % of its side; or, one time in five, all."""
        instances = maps[0]
        rng, (h, w) = self.rng, instances.shape
        ids = object_numbers(instances)
        window = (0, 0, max(h, w))
        if len(ids) and rng.random() > 0.2:
            rows, columns = np.nonzero(instances == rng.choice(ids))
            extent = max(np.ptp(rows), np.ptp(columns)) + 1
            share = np.exp(rng.uniform(np.log(FIRST_EXTENT), np.log(LAST_EXTENT)))
            reach = int(np.clip(extent / share, 48, max(h, w)))
            y = _window_start(int(rows.min()), int(rows.max()), reach, h, rng)
            x = _window_start(int(columns.min()), int(columns.max()), reach, w, rng)
            window = (y, x, reach)
        y, x, reach = window
        part = image[y : y + reach, x : x + reach]
        scale = side / max(part.shape[:2])
        size = (max(round(part.shape[1] * scale), 1), max(round(part.shape[0] * scale), 1))
        small = np.full((side, side, 3), PADDING, np.uint8)
        small[: size[1], : size[0]] = np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BILINEAR))
        square = size[0] == size[1]
        turns, flip = int(rng.integers(4)) if square else 0, square and rng.random() < 0.5

        def resized(ids: NDArray[np.uint16]) -> NDArray[np.uint16]:
            window = Image.fromarray(ids[y : y + reach, x : x + reach])
            whole = np.zeros((side, side), np.uint16)
            whole[: size[1], : size[0]] = np.asarray(window.resize(size, Image.Resampling.NEAREST))
            return rotated(whole, turns, flip)

        alternatives = resized(maps[1]) if len(maps) > 1 else None
        return TrainingImage(rotated(small, turns, flip), resized(instances), alternatives)

    def _distort(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Random contrast, brightness, gamma, inversion, gray, blur, noise, and a smooth shading."""
        rng, x = self.rng, image.astype(np.float32) / 255
        padded = (image == PADDING).all(axis=2, keepdims=True)
        if rng.random() < 0.3:
            x = np.repeat(x.mean(axis=2, keepdims=True), 3, axis=2)
        if rng.random() < 0.15:
            x = 1 - x
        x = np.clip(x, 0, 1) ** np.exp(rng.normal(0, 0.25))
        x = (x - x.mean()) * np.exp(rng.normal(0, 0.25)) + x.mean() + rng.normal(0, 0.08)
        x = x * (1 + rng.normal(0, 0.06, 3).astype(np.float32))
        if rng.random() < 0.3:
            x = x * (1 + 0.3 * rng.normal() * np.linspace(-1, 1, len(x), dtype=np.float32)[:, None, None])
        if rng.random() < 0.2:
            x = ndimage.gaussian_filter(x, (s := rng.uniform(0.4, 1.6), s, 0))
        if rng.random() < 0.4:
            x = x + rng.normal(0, rng.uniform(0.005, 0.05), x.shape[:2] + (1,))
        return np.where(padded, PADDING, (np.clip(x, 0, 1) * 255).astype(np.uint8))


def rotated(array: NDArray[Pixel], turns: int, flip: bool) -> NDArray[Pixel]:
    """An array (H, W, ...) rotated by quarter turns and then mirrored."""
    array = np.rot90(array, turns)
    return np.ascontiguousarray(array[:, ::-1] if flip else array)


def _window_start(first: int, last: int, side: int, length: int, rng: np.random.Generator) -> int:
    """A random start of a window of `side` px that holds first..last and stays inside, as far as both can be."""
    low, high = max(last + 1 - side, 0), min(first, length - side)
    if low <= high:
        return int(rng.integers(low, high + 1))
    return max(min((first + last - side) // 2, length - side), 0)


def _pack_image(item: packs.PackImage) -> SourceImage:
    image, instances = item.read()
    return image, (instances,)


def _scene(seed: int) -> SourceImage:
    scene = synthetic_scenes.scene(seed)
    instances = np.zeros(scene.image.shape[:2], np.uint16)
    for i, item in enumerate(scene.objects, 1):
        instances[item.mask] = i
    return scene.image, (instances,)


def _procedural(seed: int) -> SourceImage:
    image = procedural_image(seed)
    return image.image, (image.objects,) if image.parts is None else (image.objects, image.parts)


def _cutouts(cutouts: Cutouts, seed: int) -> SourceImage:
    image, objects = cutouts.compose(np.random.default_rng(seed))
    return image, (objects,)


def _photograph(sampler: ImageSampler, read: Callable[[], SourceImage]) -> NDArray[np.uint8]:
    return sampler.source(read)[0]


def usable_objects(instances: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Numbers (N,) int64 of the objects in a map (H, W) uint16 that have 40 px or more and cover at most 85 % of it."""
    counts = np.bincount(instances.ravel())
    counts[0] = 0
    ids: NDArray[np.int64] = np.flatnonzero((counts >= SMALLEST_OBJECT) & (counts <= 0.85 * instances.size))
    return ids

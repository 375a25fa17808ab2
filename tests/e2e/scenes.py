"""Projects of procedural scenes whose objects are known, and the masks of what was stored of them."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from skylight.backend.admin.connect import connect
from skylight.backend.demo.demo import label_config, png
from skylight.model.datasets import synthetic_scenes
from skylight.model.masks.geometry import interior_point
from tests.e2e.annotator import Mask, region_mask
from tests.e2e.conftest import Stack

SMALLEST = 700  # px of 512 x 512
TRAINING_SECONDS = 600
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Project:
    """Scenes with one or two pits each, as tasks of a project connected to Skylight, and the biggest other object."""

    number: int
    tasks: list[int]
    pits: list[list[Mask]]
    distractors: list[Mask]


def make_project(stack: Stack, title: str, seed: int, count: int, side: int = 512, **options: Any) -> Project:
    """Scenes from a seed on, each with one or two pits that are not tiny; `options` are of Label Studio's project."""
    scenes: list[synthetic_scenes.Scene] = []
    pits: list[list[Mask]] = []
    distractors: list[Mask] = []
    while len(scenes) < count:
        scene = synthetic_scenes.scene(seed, side)
        found = [each.mask for each in scene.objects if each.kind == "pit"]
        others = [each.mask for each in scene.objects if each.kind != "pit"]
        if len(found) in (1, 2) and min(mask.sum() for mask in found) > SMALLEST * (side / 512) ** 2 and others:
            scenes.append(scene)
            pits.append(found)
            distractors.append(max(others, key=lambda mask: int(mask.sum())))
        seed += 1
    number = int(stack.client.create_project(title, label_config(["Pit"]), **options)["id"])
    connect(stack.client, stack.secret, number, stack.skylight)
    files = {f"{i:03d}.png": png(Image.fromarray(scene.image)) for i, scene in enumerate(scenes)}
    stack.client.import_files(number, files)
    by_name = {str(task.data["image"])[-7:]: task.id for task in stack.client.tasks(number)}
    return Project(number, [by_name[name] for name in files], pits, distractors)


def wait(done: Any, seconds: float = TRAINING_SECONDS) -> None:
    """Wait until something is true. Fails the test if it takes longer."""
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"still not so after {seconds:.0f} s"
        time.sleep(0.5)


def middle(mask: Mask) -> tuple[float, float]:
    """A place deep inside of a mask, xy px."""
    return interior_point(mask, RNG, central=True)


def beside(mask: Mask, others: list[Mask]) -> tuple[float, float]:
    """A place well outside of every object, to the side of this one, xy px."""
    rows, columns = np.nonzero(mask)
    x, y, away = columns.mean(), rows.mean(), 0.9 * np.ptp(columns)
    for dx, dy in ((away, 0), (-away, 0), (0, away), (0, -away)):
        column, row = int(x + dx), int(y + dy)
        inside = 0 <= column < mask.shape[1] and 0 <= row < mask.shape[0]
        if inside and not any(each[row, column] for each in others):
            return float(column), float(row)
    raise AssertionError("the object fills the image")


def stored_masks(annotation: Mapping[str, Any]) -> list[Mask]:
    """The masks of an annotation or a prediction."""
    return masks_of(annotation["result"])


def masks_of(regions: Iterable[Mapping[str, Any]]) -> list[Mask]:
    """The masks among regions."""
    return [region_mask(dict(region)) for region in regions if region["type"] == "brushlabels"]


def union(masks: list[Mask]) -> Mask:
    """Where any of some masks is, at least one of them."""
    found: Mask = np.any(masks, axis=0)
    return found

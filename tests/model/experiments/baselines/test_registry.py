"""The alternatives to the domain decoder: each learns an easy scene, whatever its labels and size."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from skylight.model.evaluation.metrics import LabelScores
from skylight.model.experiments.baselines.base import Baseline, Example
from skylight.model.experiments.baselines.random_forest import Forest, ForestConfig
from skylight.model.experiments.baselines.registry import BASELINES, UNetBaseline, best_cut
from skylight.model.experiments.baselines.unet import UNetConfig
from skylight.model.sam.types import Embedding

pytestmark = pytest.mark.slow

GRID = 8  # cells of the made-up embeddings
SIZE = (64, 48)  # px of the made-up pictures: 8 x 6 cells of 8 px
LEVELS = (70, 200, 135)  # gray of background, first and second label; with noise of 12
QUICK = UNetConfig(steps=40, batch=4, side=64, crop=32)


def quick(name: str) -> Baseline:
    """An alternative with so few steps or trees that it learns in a second or two."""
    if name == "forest":
        return Forest(ForestConfig(trees=40, pixels=1500))
    if name == "unet_imagenet":
        return UNetBaseline(replace(QUICK, imagenet=True, steps=30))
    if name == "unet":
        return UNetBaseline(QUICK)
    return BASELINES[name]()


def example(seed: int, labels: int = 1) -> Example:
    """A brighter disc per label on dark ground; channel k of the made-up embedding holds class k's share of each cell.

    With labels = 0 there is only the ground.
    """
    rng = np.random.default_rng(seed)
    label_map = np.zeros(SIZE, np.uint8)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for k in range(1, labels + 1):
        cy, cx = SIZE[0] * (k - 0.5) / labels + rng.uniform(-3, 3), rng.uniform(14, SIZE[1] - 14)
        label_map[np.hypot(y - cy, x - cx) < 11] = k
    features = rng.normal(0, 0.2, (256, GRID, GRID)).astype(np.float16)
    for k in range(labels + 1):
        features[k, :, :6] += 3 * (label_map == k).reshape(8, 8, 6, 8).mean((1, 3)).astype(np.float16)
    gray = (np.array(LEVELS)[label_map] + rng.normal(0, 12, SIZE)).clip(0, 255).astype(np.uint8)
    embedding = Embedding(features, SIZE, np.zeros((8 * GRID, 8 * GRID, 3), np.uint8))
    return Example(np.repeat(gray[..., None], 3, 2), label_map, embedding)


def answer(alternative: Baseline, asked: Example) -> NDArray[np.uint8]:
    return alternative.predict(asked.image, asked.embedding)


def score(alternative: Baseline, labels: int = 1) -> float:
    """Mean IoU on three pictures that it never saw; all of the picture as the label would have 0.12."""
    scores = LabelScores([str(k) for k in range(labels)])
    for asked in (example(seed, labels) for seed in range(10, 13)):
        scores.add(answer(alternative, asked), asked.label_map)
    return scores.mean


@pytest.mark.parametrize(  # one label is to both U-Nets what it is to one
    ("name", "labels"), [(name, k) for name in BASELINES for k in (1, 2) if (name, k) != ("unet_imagenet", 1)]
)
def test_it_learns_to_find_discs(name: str, labels: int) -> None:
    alternative = quick(name)
    alternative.fit([*(example(seed, labels) for seed in range(3)), example(3, labels=0)], labels, seed=0)
    assert score(alternative, labels) > 0.6


@pytest.mark.parametrize("name", ["unet", "forest", "probe", "threshold"])  # both U-Nets draw the same crops
def test_what_is_ignored_is_no_background(name: str) -> None:
    """Three of four discs are ignored; taken as background, they would outvote the one that is not."""
    examples = [example(seed) for seed in range(4)]
    for each in examples[1:]:
        each.label_map[each.label_map == 1] = 255
    alternative = quick(name)
    alternative.fit(examples, 1, seed=0)
    assert score(alternative) > 0.5


@pytest.mark.parametrize("name", ["unet", "unet_imagenet", "forest"])
def test_the_seed_decides(name: str) -> None:
    examples, few = [example(seed) for seed in range(2)], replace(QUICK, steps=4)
    rng = np.random.default_rng(5)
    noise = replace(example(9), image=rng.integers(256, size=(*SIZE, 3), dtype=np.uint8))
    answers = []
    for seed in (3, 3, 4):
        alternative = quick(name)
        if isinstance(alternative, UNetBaseline):
            alternative = UNetBaseline(replace(few, imagenet=alternative.config.imagenet))
        alternative.fit(examples, 1, seed)
        answers.append(answer(alternative, noise))
    np.testing.assert_array_equal(answers[0], answers[1])
    assert (answers[0] != answers[2]).any()


@pytest.mark.parametrize("name", BASELINES)
def test_without_any_object_it_finds_none_in_a_picture_of_another_size(name: str) -> None:
    alternative = quick(name)
    alternative.fit([example(0, labels=0), example(1, labels=0)], 2, seed=0)
    size = (45, 130)
    image = np.full((*size, 3), LEVELS[0], np.uint8)
    found = alternative.predict(image, replace(example(2, labels=0).embedding, size=size))
    assert (found.shape, found.dtype) == (size, np.uint8)
    assert not found.any()


@pytest.mark.parametrize("name", BASELINES)
def test_nothing_to_learn_from_and_unknown_labels_are_refused(name: str) -> None:
    blank = replace(example(0), label_map=np.full(SIZE, 255, np.uint8))
    for examples in ([], [blank]):
        with pytest.raises(ValueError, match="without a pixel to learn from"):
            BASELINES[name]().fit(examples, 1, seed=0)
    with pytest.raises(ValueError, match="holds 2, but there are 1 labels"):
        BASELINES[name]().fit([example(0, labels=2)], 1, seed=0)


@pytest.mark.parametrize("dark", [True, False])
def test_the_cut_takes_the_side_that_the_label_is_on(dark: bool) -> None:
    low, high = np.zeros(256), np.zeros(256)
    low[40:60], high[58:90] = 1, 1
    background, inside = (high, low) if dark else (low, high)
    np.testing.assert_array_equal(best_cut(background, inside), (np.arange(256) < 60) if dark else np.arange(256) > 57)

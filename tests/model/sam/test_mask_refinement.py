"""A mask put right by its picture: what it gains, and that it invents nothing."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from skylight.model.datasets import synthetic_scenes
from skylight.model.evaluation.metrics import iou
from skylight.model.evaluation.simulated_clicks import any_point
from skylight.model.sam.mask_refinement import LIMIT, MAX_DISCRIMINANT, WEIGHT, MaskRefiner
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Prompt

SIDE = 128
FULL = 2 * SIDE, 2 * SIDE


def picture(filled: tuple[int, int] = FULL) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A red disc on a grey ground, with noise, in the upper left of the square; and where the disc is."""
    y, x = np.mgrid[: FULL[0], : FULL[1]]
    disc = (x - filled[1] / 2) ** 2 + (y - filled[0] / 2) ** 2 < (min(filled) / 4) ** 2
    pixels = np.where(disc[..., None], (150, 80, 70), (110, 110, 110)) + np.random.default_rng(0).normal(
        0, 8, (*FULL, 3)
    )
    pixels[filled[0] :], pixels[:, filled[1] :] = 0, 0
    return pixels.clip(0, 255).astype(np.uint8), disc


def detail(cells: int = 64) -> NDArray[np.float32]:
    """A finest layer of one channel, that knows nothing."""
    return np.zeros((1, cells, cells), np.float32)


@pytest.mark.parametrize("filled", [FULL, (171, 256), (256, 100)])
@pytest.mark.parametrize("cells", [32, 64])
def test_half_a_disc_becomes_the_disc(filled: tuple[int, int], cells: int) -> None:
    pixels, disc = picture(filled)
    unsure = np.where(disc, 0.2, -1.2)[::2, ::2].astype(np.float32)
    unsure[: filled[0] // 4] -= 0.6  # of its upper half it is surer that it is not
    found = MaskRefiner(pixels, detail(cells), filled).refine(unsure[None])
    assert found.shape == (1, *FULL) and found.dtype == np.float32
    before, after = (
        iou((each > 0)[: filled[0], : filled[1]], disc[: filled[0], : filled[1]])
        for each in (unsure.repeat(2, 0).repeat(2, 1), found[0])
    )
    assert before < 0.6 and after > 0.75


def test_it_takes_several_masks_each_for_itself() -> None:
    pixels, disc = picture()
    likeness = MaskRefiner(pixels, detail(), FULL)
    logits = np.stack([np.where(disc, 1, -3), np.where(disc, -1, 1)])[:, ::2, ::2].astype(np.float32)
    both = likeness.refine(logits)
    assert all(np.array_equal(both[k], likeness.refine(logits[k : k + 1])[0]) for k in (0, 1))
    assert ((both[0] > 0) != (both[1] > 0)).mean() > 0.95


def test_what_looks_alike_but_is_surely_something_else_stays_out() -> None:
    """Two discs of which SAM is sure that one is meant: WEIGHT times MOST is less than LIMIT."""
    pixels, _ = picture()
    y, x = np.mgrid[: FULL[0], : FULL[1]]
    discs = [(x - at) ** 2 + (y - 128) ** 2 < 30**2 for at in (64, 192)]
    pixels[discs[0] | discs[1]] = 150, 80, 70
    found = MaskRefiner(pixels, detail(), FULL).refine(np.where(discs[0], 3, -3)[None, ::2, ::2].astype(np.float32))
    assert iou(found[0] > 0, discs[0]) > 0.9 and not (found[0] > 0)[discs[1]].any()
    assert WEIGHT * MAX_DISCRIMINANT < LIMIT


@pytest.mark.parametrize("value", [-5.0, 0.0, 5.0])
def test_nothing_and_everything_stay_what_they_are(value: float) -> None:
    """Also in a picture of one colour, in which nothing can be told apart, and in one of a single row."""
    for filled in (FULL, (1, 256), (256, 1)):
        pixels = np.full((*FULL, 3), 90, np.uint8)
        found = MaskRefiner(pixels, detail(), filled).refine(np.full((1, SIDE, SIDE), value, np.float32))
        assert np.isfinite(found).all() and found == pytest.approx(np.clip(value, -LIMIT, LIMIT), abs=1e-3)


def test_the_rim_goes_along_the_edge_in_the_picture() -> None:
    """Of a pit in a scene, whose mask is four pixels off."""
    scene = synthetic_scenes.scene(5, 2 * SIDE)
    truth = max((each.mask for each in scene.objects if each.kind == "pit"), key=np.count_nonzero)
    off = np.roll(np.where(truth, 1.0, -1.0), 4, 1)[::2, ::2].astype(np.float32)
    likeness = MaskRefiner(scene.image, detail(), FULL)
    found = likeness.refine(off[None])[0] > 0
    assert iou(found, truth) > iou(np.roll(truth, 4, 1), truth) + 0.02


def test_the_tiny_sam_s_masks_are_better_for_it(segmenter: Segmenter) -> None:
    """Clicks anywhere in large pits, which it does not look at twice; and an embedding without a finest layer does."""
    tiny, rng, reached = segmenter, np.random.default_rng(0), []
    for seed in range(80_000, 80_012):
        scene = synthetic_scenes.scene(seed)
        truth = max((each.mask for each in scene.objects if each.kind == "pit"), key=np.count_nonzero)
        embedding = replace(tiny.embed(scene.image), picture=None)
        prompt = Prompt.of([(*any_point(truth, rng), True)])
        answers = [tiny.segment(each, prompt) for each in (replace(embedding, detail=None), embedding)]
        logits = [np.sort(answer.logits, 0) for answer in answers]
        assert np.array_equal(*logits)  # what a further click goes on from, in whatever order
        reached.append([iou(answer.masks[0], truth) for answer in answers])
    without, alike = np.mean(reached, axis=0)
    assert alike > without

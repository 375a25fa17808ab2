"""Which of SAM's masks is the object, and where it ends: judged by the picture."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from skylight.model.datasets.synthetic_scenes import scene
from skylight.model.evaluation.metrics import iou
from skylight.model.evaluation.simulated_clicks import any_point
from skylight.model.experiments.prompt_benchmark import prompt_scores
from skylight.model.masks.geometry import interior_point
from skylight.model.pretraining import fit_mask_scoring
from skylight.model.sam.mask_refinement import MaskRefiner
from skylight.model.sam.mask_scoring import (
    LEVELS,
    NO,
    YES,
    ImageStatistics,
    MaskScorer,
    ScaledPrompt,
    load_scorer,
    measures,
)
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Prompt

SIDE = 128
NOTHING = np.zeros((0, 2))
AWAY = np.array([[180.0, 200.0]])
MIDDLE = ScaledPrompt(np.array([[120.0, 140.0]]), NOTHING, None)


def disc(radius: float) -> NDArray[np.float32]:
    """How far inside of a disc around (x 60, y 70) each pixel is, in px."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return (radius - np.hypot(x - 60, y - 70)).astype(np.float32)


def picture() -> NDArray[np.uint8]:
    """A disc of radius 20, reddish on grey, with noise."""
    noise = np.random.default_rng(0).normal(0, 6, (SIDE, SIDE, 3))
    shown: NDArray[np.uint8] = (
        (np.where((disc(20) > 0)[..., None], (170, 100, 90), (110, 110, 110)) + noise).clip(0, 255).astype(np.uint8)
    )
    return shown


@pytest.mark.parametrize("size", [(SIDE, SIDE), (1, 20), (90, 3)])
@pytest.mark.parametrize(
    "asked",
    [
        MIDDLE,
        ScaledPrompt(NOTHING, np.array([[-3.0, 500.0]]), np.array([250.0, -4.0, 400.0, 3.0])),
        ScaledPrompt(NOTHING, NOTHING, np.array([20.0, 30.0, 20.0, 30.0])),
    ],
)
def test_every_cut_has_finite_measures_whatever_is_asked(size: tuple[int, int], asked: ScaledPrompt) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    logits = np.stack([np.full(size, -5, np.float32), np.full(size, 5, np.float32), np.zeros(size, np.float32)])
    for shown in (pixels, np.zeros_like(pixels)):
        known = measures(ImageStatistics(shown), logits, np.array([0.9, 0.1, 0.5], np.float32), asked)
        assert known.shape == (3, len(LEVELS), len(load_scorer().weights["mean"])) and known.dtype == np.float32
        assert np.isfinite(known).all()


def test_a_cut_s_measures_are_those_of_its_mask() -> None:
    """The area, by which many are divided, the click's and the box's."""
    logits = disc(30) * 0.04
    box = np.array([80.0, 100.0, 160.0, 180.0])  # 40 px wide in the half
    known = measures(
        ImageStatistics(picture()), logits[None], np.ones(1, np.float32), ScaledPrompt(MIDDLE.positive, AWAY, box)
    )[0]
    for level, row in zip(LEVELS, known, strict=True):
        mask = logits > level + 1e-6
        inside = mask[50:90, 40:80]
        assert row[12] == pytest.approx(np.log((mask.sum() + 1) / mask.size), abs=0.02)
        assert row[YES] == pytest.approx(min(logits[70, 60] - level, 2), abs=1e-4)
        assert row[NO] == pytest.approx(max(logits[100, 90] - level, -2), abs=1e-4)
        assert row[-4] == pytest.approx(inside.sum() / (mask.sum() + 1), abs=0.02)
        assert row[-3] == pytest.approx(inside.mean(), abs=0.02)


@pytest.mark.parametrize("radius", [14, 16, 24, 26])
def test_a_mask_is_cut_where_the_picture_s_object_ends(radius: float) -> None:
    """SAM's logits are 0 at another radius than the disc's, and fall evenly."""
    logits = (disc(radius) * 0.06).clip(-3, 3)
    cuts = load_scorer().best_cuts(
        measures(ImageStatistics(picture()), logits[None], np.full(1, 0.7, np.float32), MIDDLE)
    )
    before, after = (iou(logits > level, disc(20) > 0) for level in (0, cuts[0].level))
    assert after > before + 0.1


def test_of_three_masks_the_picture_s_is_found_whatever_sam_trusts(segmenter: Segmenter) -> None:
    """Clicks anywhere in pits, SAM's trust turned round: the mask that it then trusts most, and the one chosen."""
    tiny, rng, reached = segmenter, np.random.default_rng(0), []
    for seed in range(50_010, 50_022):
        made = scene(seed)
        truth = max((each.mask for each in made.objects if each.kind == "pit"), key=np.count_nonzero)
        embedding = tiny.embed(made.image)
        assert embedding.detail is not None
        x, y = any_point(truth, rng)
        answer = tiny.segment(replace(embedding, detail=None, picture=None), Prompt.of([(x, y, True)]))
        likeness = MaskRefiner(embedding.thumbnail, embedding.detail, (256, 256))
        asked = ScaledPrompt(np.array([[x, y]]) / 2, NOTHING, None)
        trust = answer.scores[::-1].copy()
        found, scores, numbers = likeness.select(answer.logits, trust, asked, load_scorer(), 3)
        assert sorted(numbers) == [0, 1, 2] and (np.diff(scores) <= 0).all()
        small = truth[::2, ::2]
        last = likeness.refine(answer.logits[-1:])[0]
        reached.append((iou(last > 0, small), iou(found[0] > 0, small)))
    trusted, chosen = np.mean(reached, axis=0)
    assert chosen > trusted + 0.02 and chosen > 0.8


def test_what_is_clicked_is_in_the_mask_and_what_is_clicked_away_is_not() -> None:
    """Of cuts that the judge likes better, if need be."""
    logits = np.stack([disc(20) * 0.02, disc(20) * 0.02 - 0.15])
    for y, x, positive in ((70, 60, True), (70, 76, True), (70, 84, False), (70, 75, False)):
        at = np.array([[2.0 * x, 2.0 * y]])
        asked = ScaledPrompt(at, NOTHING, None) if positive else ScaledPrompt(np.array([[120.0, 140.0]]), at, None)
        for judge in (load_scorer(), MaskScorer({**load_scorer().weights, "last": -load_scorer().weights["last"]})):
            cuts = judge.best_cuts(
                measures(ImageStatistics(picture()), logits, np.array([0.5, 0.9], np.float32), asked)
            )
            assert bool(logits[cuts[0].number, y, x] > cuts[0].level) is positive, (x, y, positive)


def test_where_no_cut_obeys_one_is_given_of_which_nothing_is_expected() -> None:
    asked = ScaledPrompt(np.array([[4.0, 4.0]]), NOTHING, None)
    cuts = load_scorer().best_cuts(
        measures(ImageStatistics(picture()), disc(20)[None] * 0.1, np.ones(1, np.float32), asked)
    )
    assert [(cut.number, cut.score) for cut in cuts] == [(0, 0.0)]


def test_what_is_wanted_first_is_what_is_given_alone(segmenter: Segmenter) -> None:
    made = scene(50_003)
    embedding = segmenter.embed(made.image)
    for each in (made.objects[0].mask, made.objects[-1].mask):
        x, y = interior_point(each, np.random.default_rng(0), central=True)
        prompt = Prompt.of([(x, y, True)])
        three, one = segmenter.segment(embedding, prompt), segmenter.segment(embedding, prompt, candidates=1)
        assert len(three.masks) == len(three.scores) == len(three.logits) == 3 and len(one.masks) == 1
        assert (one.masks[0] == three.masks[0]).all() and one.scores[0] == three.scores[0]
        assert (np.diff(three.scores) <= 0).all() and 0 <= three.scores.min() <= three.scores.max() <= 1


def test_every_cut_s_iou_is_learned_from(segmenter: Segmenter) -> None:
    made = scene(50_001)
    truth = max((each.mask for each in made.objects), key=np.sum)
    judge = segmenter.scorer
    asked = fit_mask_scoring.questions(segmenter, "scenes", made.image, [truth])
    assert segmenter.scorer is judge and 3 <= len(asked) <= 3 + fit_mask_scoring.CORRECTIONS
    assert {each.ious.shape for each in asked} == {(3, len(LEVELS))}
    embedding = segmenter.embed(made.image)
    box = asked[2]
    assert (box.known[..., -1] == 1).all() and (asked[0].known[..., -1] == 0).all()
    best = judge.best_cuts(asked[0].known)[0]
    measured = asked[0].ious[best.number, np.flatnonzero(np.isclose(LEVELS, best.level))[0]]
    assert measured == pytest.approx(prompt_scores(segmenter, embedding, truth).centre, abs=1e-6)


def test_a_fit_prefers_what_is_better_and_tells_how_good_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """One feature of thirty tells the IoU, beside noise."""
    monkeypatch.setattr(fit_mask_scoring, "STEPS", 400)
    rng = np.random.default_rng(0)
    asked = []
    for k in range(300):
        known = rng.normal(size=(3, len(LEVELS), 30)).astype(np.float32)
        known[..., YES], known[..., NO] = 1, -1
        ious = 1 / (1 + np.exp(-known[..., 3])) + rng.normal(0, 0.02, known.shape[:2]).astype(np.float32)
        asked.append(fit_mask_scoring.Question("one" if k % 3 else "other", known, ious.astype(np.float32)))
    judge: MaskScorer = fit_mask_scoring.fit(asked[:250])
    lost = []
    for each in asked[250:]:
        best = judge.best_cuts(each.known)[0]
        lost.append(each.ious.max() - each.ious[best.number, np.flatnonzero(np.isclose(LEVELS, best.level))[0]])
    assert np.mean(lost) < 0.04
    scores = np.concatenate([judge.scores(each.known).ravel() for each in asked[250:]])
    assert np.corrcoef(scores, np.concatenate([each.ious.ravel() for each in asked[250:]]))[0, 1] > 0.9

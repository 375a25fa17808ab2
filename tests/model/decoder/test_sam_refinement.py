"""SAM's mask in place of the decoder's: only of the same object, only if sharper, never over another object."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.special import expit

from skylight.model.datasets.synthetic_scenes import scene
from skylight.model.decoder.inference import Instance, Prediction
from skylight.model.decoder.sam_refinement import AGREE, OUTSIDE, _scaled, prompt_for, refine, stability
from skylight.model.evaluation.metrics import iou
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Embedding, MaskLogits, Prompt, Segmentation

CELLS = 32  # of a made-up embedding, a side
STEEP, SOFT = 2.0, 0.2  # logits per px across a rim
SIZE = (96, 128)

Mask = NDArray[np.bool_]


def disc(y: float, x: float, radius: float, size: tuple[int, int] = SIZE) -> Mask:
    rows, columns = np.indices(size)
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def slope(mask: Mask, steepness: float) -> NDArray[np.float32]:
    """Logits (H, W) that cross 0 at a mask's rim."""
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    return (steepness * (inside - outside)).astype(np.float32)


def embedded(size: tuple[int, int] = SIZE) -> Embedding:
    return Embedding(np.zeros((256, CELLS, CELLS), np.float16), size, np.zeros((8 * CELLS, 8 * CELLS, 3), np.uint8))


def predicted(*logits: NDArray[np.float32]) -> Prediction:
    """A decoder's answer; `logits` (H, W) of each label."""
    labels = [expit(each) for each in logits]
    probabilities = np.stack([1 - np.max(labels, 0), *labels]).astype(np.float32)
    return Prediction(probabilities, np.zeros(logits[0].shape, np.float32), frozenset())


class Told:
    """A SAM with prepared answers, masks (H, W) with their steepness, that remembers what it was asked."""

    def __init__(self, *answers: tuple[Mask, float]) -> None:
        self.answers = list(answers)
        self.asked: list[Prompt] = []

    def segment(self, embedding: Embedding, prompt: Prompt, logits: object = None, candidates: int = 3) -> Segmentation:
        assert candidates == 1
        mask, steepness = self.answers[len(self.asked)]
        self.asked.append(prompt)
        side = 4 * embedding.features.shape[-1]
        low = np.full((side, side), -30, np.float32)
        rows, columns = embedding.extent(side)
        small = Image.fromarray(slope(mask, steepness)).resize((columns, rows), Image.Resampling.BOX)
        low[:rows, :columns] = np.asarray(small)
        return Segmentation(mask[None], np.array([0.9], np.float32), low[None])


def refined(told: Told, prediction: Prediction, *found: Instance) -> list[Instance]:
    return list(refine(told, embedded(found[0].mask.shape), prediction, found))  # type: ignore[arg-type]


@pytest.mark.parametrize(("theirs", "ours", "taken"), [(STEEP, SOFT, True), (SOFT, STEEP, False)])
def test_of_two_masks_of_one_object_the_sharper_is_kept(theirs: float, ours: float, taken: bool) -> None:
    mask, answer = disc(40, 60, 20), disc(41, 60, 19)
    (found,) = refined(Told((answer, theirs)), predicted(slope(mask, ours)), Instance(0, mask, 0.7))
    np.testing.assert_array_equal(found.mask, answer if taken else mask)
    assert (found.label, found.score) == (0, 0.7)


@pytest.mark.parametrize(("radius", "taken"), [(17.5, True), (16, False), (23, True), (25, False)])
def test_a_sharper_mask_of_something_else_is_not_taken(radius: float, taken: bool) -> None:
    mask, answer = disc(40, 60, 20), disc(40, 60, radius)
    assert (iou(mask, answer) >= AGREE) == taken
    (found,) = refined(Told((answer, STEEP)), predicted(slope(mask, SOFT)), Instance(0, mask, 0.7))
    np.testing.assert_array_equal(found.mask, answer if taken else mask)


@pytest.mark.parametrize("size", [(128, 128), (60, 200), (300, 140), (40, 40)])
def test_sharpness_is_looked_at_where_the_object_is_in_the_image(size: tuple[int, int]) -> None:
    y, x, radius = 0.75 * size[0], 0.8 * size[1], 0.2 * min(size)
    mask, answer = disc(y, x, radius, size), disc(y, x, radius - 0.5, size)
    (found,) = refined(Told((answer, STEEP)), predicted(slope(mask, SOFT)), Instance(0, mask, 0.7))
    np.testing.assert_array_equal(found.mask, answer)


def test_the_probability_looked_at_is_that_of_the_label() -> None:
    mask, answer = disc(40, 60, 20), disc(40, 60, 19)
    steep, soft = slope(mask, 4 * STEEP), slope(mask, SOFT)
    for label, taken in ((0, False), (1, True)):
        (found,) = refined(Told((answer, STEEP)), predicted(steep, soft), Instance(label, mask, 0.7))
        np.testing.assert_array_equal(found.mask, answer if taken else mask)


def test_what_another_instance_owns_is_not_taken_from_it() -> None:
    left, right = disc(40, 40, 20), disc(40, 79, 20)
    right &= ~left
    over = disc(40, 42, 22)  # SAM's, well into the right one
    assert (over & right).any()
    prediction = predicted(slope(left | right, SOFT))
    found = refined(Told((over, STEEP), (right, SOFT / 2)), prediction, Instance(0, left, 0.7), Instance(0, right, 0.6))
    np.testing.assert_array_equal(found[0].mask, over & ~right)
    np.testing.assert_array_equal(found[1].mask, right)


def test_a_gap_that_sam_gives_to_both_neighbours_goes_to_the_first() -> None:
    left, right = disc(40, 38, 20), disc(40, 82, 20)
    wide = disc(40, 39, 22.5), disc(40, 81, 22.5)
    assert (wide[0] & wide[1]).any() and not (wide[0] & right).any()
    prediction = predicted(slope(left | right, SOFT))
    found = refined(
        Told((wide[0], STEEP), (wide[1], STEEP)), prediction, Instance(0, left, 0.7), Instance(0, right, 0.6)
    )
    np.testing.assert_array_equal(found[0].mask, wide[0])
    np.testing.assert_array_equal(found[1].mask, wide[1] & ~wide[0])


def test_a_neighbour_s_soft_rim_is_not_held_against_an_object() -> None:
    """The left one is sharp; only where the right one lies is the decoder in doubt."""
    left, right = disc(40, 40, 20), disc(40, 81, 20)
    logits = np.where(right, 0, slope(left, 4 * STEEP)).astype(np.float32)
    answers = (disc(40, 40, 19), STEEP), (right, SOFT)
    found = refined(Told(*answers), predicted(logits), Instance(0, left, 0.7), Instance(0, right, 0.6))
    np.testing.assert_array_equal(found[0].mask, left)


def test_sam_is_asked_about_each_with_a_loose_box_and_a_point_inside() -> None:
    crescent = disc(40, 40, 20) & ~disc(40, 50, 20)
    corner = disc(0, 127, 10)
    told = Told((crescent, SOFT), (corner, SOFT))
    refined(told, predicted(slope(crescent, STEEP)), Instance(0, crescent, 0.7), Instance(0, corner, 0.6))
    first, second = told.asked
    rows, columns = np.nonzero(crescent)
    assert first.box is not None and second.box is not None
    assert first.box.tolist() == [columns.min() - 2, rows.min() - 2, columns.max() + 2, rows.max() + 2]
    assert second.box.tolist() == [116, 0, 127, 11]
    for prompt, mask in ((first, crescent), (second, corner)):
        ((x, y),) = prompt.points
        assert prompt.positive.tolist() == [True] and mask[int(y), int(x)]


def test_there_is_no_prompt_for_an_empty_mask() -> None:
    with pytest.raises(ValueError, match="empty mask"):
        prompt_for(np.zeros(SIZE, bool))


def test_stability_is_the_overlap_of_a_stricter_and_a_laxer_mask() -> None:
    assert stability(np.array([[5, 2, 0.5, -0.5, -2]], np.float32)) == 0.5
    assert stability(np.full((3, 3), -4, np.float32)) == 0.0
    assert stability(slope(disc(40, 60, 20), STEEP)) > 0.9 > 0.6 > stability(slope(disc(40, 60, 20), SOFT))


def test_nothing_found_is_nothing_refined() -> None:
    assert list(refine(Told(), embedded(), predicted(slope(disc(1, 1, 1), 1)), [])) == []  # type: ignore[arg-type]


def test_the_tiny_sam_s_masks_agree_with_what_it_was_asked_about_and_stay_apart(segmenter: Segmenter) -> None:
    made = scene(3, 256)
    truth = [each.mask for each in made.objects if each.kind == "pit" and each.mask.sum() > 100]
    taken = np.zeros(truth[0].shape, bool)
    found = []
    for mask in truth:
        if len(found) < 4 and not (mask & taken).any():
            found.append(Instance(0, mask, 0.5 + len(found) / 100))
            taken |= mask
    logits = np.clip(slope(taken, SOFT), -5, 5)
    embedding = segmenter.embed(made.image)
    done = list(refine(segmenter, embedding, predicted(logits), found))
    assert [each.score for each in done] == [each.score for each in found]
    assert np.sum([each.mask for each in done], 0).max() == 1
    assert all(iou(new.mask, old.mask) >= AGREE for new, old in zip(done, found, strict=True))
    assert any((new.mask != old.mask).any() for new, old in zip(done, found, strict=True))  # some were SAM's


@pytest.mark.parametrize(("cut", "logits", "taken"), [(STEEP, SOFT, True), (SOFT, STEEP, False)])
def test_the_mask_that_is_given_is_the_one_that_is_looked_at(cut: float, logits: float, taken: bool) -> None:
    """A second look's mask may be sharp where the first answer was not, and the other way round."""
    mask, answer = disc(40, 60, 20), disc(41, 60, 19)
    told = Told((answer, logits))
    real = told.segment

    def segment(*given: object, **more: object) -> Segmentation:
        said = real(*given, **more)  # type: ignore[arg-type]
        window = slope(answer, cut)[10:75, 30:95]
        return Segmentation(said.masks, said.scores, said.logits, (MaskLogits(window, (10, 30, 65, 65)),))

    told.segment = segment  # type: ignore[method-assign]
    (found,) = refined(told, predicted(slope(mask, (STEEP + SOFT) / 4)), Instance(0, mask, 0.7))
    np.testing.assert_array_equal(found.mask, answer if taken else mask)


@pytest.mark.parametrize("radius", [4, 40])
def test_the_tiny_sam_says_what_its_masks_are_cut_from(segmenter: Segmenter, radius: float) -> None:
    """Of what is small that is the second look's, of all else the first one's, put right by the picture."""
    image = np.full((200, 256, 3), 90, np.uint8)
    image[disc(100, 120, radius, (200, 256))] = 220
    answer = segmenter.segment(segmenter.embed(image), Prompt.of([(120, 100, True)]), candidates=2)
    assert len(answer.mask_logits) == len(answer.masks) == 2
    whole = slice(0, 200), slice(0, 256)
    for mask, cut in zip(answer.masks, answer.mask_logits, strict=True):
        assert mask.any() and iou(_scaled(cut, whole) > 0, mask) > 0.95
    height, width = answer.mask_logits[0].window[2:]
    assert (max(height, width) < 200) == (radius == 4)
    beyond = np.ones((200, 256), bool)
    row, column, height, width = answer.mask_logits[0].window
    beyond[row : row + height, column : column + width] = False
    assert (_scaled(answer.mask_logits[0], whole)[beyond] == OUTSIDE).all()

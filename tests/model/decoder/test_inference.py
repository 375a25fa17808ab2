"""From a decoder to probabilities, instances and a confidence."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from skylight.model.decoder.edge_refinement import FOREGROUND_LOGIT_BIAS
from skylight.model.decoder.inference import (
    Prediction,
    as_tensors,
    confidence,
    find_regions,
    instances,
    predict,
    predict_pixels,
)
from skylight.model.decoder.network import DecoderConfig, DomainDecoder
from skylight.model.sam.second_look import pack_picture
from skylight.model.sam.types import Embedding


class BrightnessDecoder(DomainDecoder):
    """Knows what to answer without training.

    The brighter a cell of the thumbnail, the surer it is of label 1, and by its red the deeper in an object.
    """

    def forward(self, features: Tensor, picture: Tensor, detail: Tensor | None = None) -> tuple[Tensor, Tensor]:
        light = 8 * picture.mean(1, keepdim=True)
        return torch.cat([-light, light], 1), 8 * picture[:, :1]


@pytest.fixture
def brightness() -> BrightnessDecoder:
    return BrightnessDecoder(DecoderConfig(("bright",), "tiny-1", channels=32))


def embedding(size: tuple[int, int], bright: tuple[float, float, float, float] = (0, 0, 0, 0)) -> Embedding:
    """An embedding with a thumbnail (128, 128) that is white in y0, x0, y1, x1, shares of the image's own size."""
    made = Embedding(
        np.random.default_rng(0).normal(size=(256, 16, 16)).astype(np.float16), size, np.zeros((128, 128, 3), np.uint8)
    )
    rows, columns = made.extent(128)
    y0, x0, y1, x1 = (round(v * n) for v, n in zip(bright, (rows, columns) * 2, strict=True))
    made.thumbnail[y0:y1, x0:x1] = 255
    return made


def probabilities(*labels: NDArray[np.floating]) -> NDArray[np.float32]:
    """Label probabilities (H, W) with the background that is left."""
    return np.stack([1 - np.sum(labels, axis=0), *labels]).astype(np.float32)


def whole(*labels: NDArray[np.floating]) -> Prediction:
    """A prediction of label probabilities (H, W), of which none is to be separated."""
    return Prediction(probabilities(*labels), np.zeros(labels[0].shape, np.float32), frozenset())


def test_a_decoder_s_inputs_are_float_features_and_a_picture_in_plus_minus_1() -> None:
    features, picture, detail = as_tensors(embedding((64, 64), (0, 0, 1, 0.5)))
    assert features.shape == (1, 256, 16, 16) and features.dtype == torch.float32 and detail is None
    assert picture.shape == (1, 3, 128, 128)
    assert (picture[..., :64] == 1).all() and (picture[..., 64:] == -1).all()


@pytest.mark.parametrize("size", [(64, 64), (33, 100), (500, 130), (7, 5)])
def test_probabilities_have_the_image_s_own_size_and_sum_to_1(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    decoder = DomainDecoder(DecoderConfig(("pit", "crater"), "tiny-1", channels=32))
    found = predict(decoder, embedding(size))
    assert found.shape == (3, *size) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("size", [(128, 128), (100, 256), (400, 150)])
def test_the_answer_lies_where_the_object_is_in_the_image(brightness: BrightnessDecoder, size: tuple[int, int]) -> None:
    found = predict(brightness, embedding(size, (0.25, 0.5, 0.75, 1)))[1] > 0.5
    truth = np.zeros(size, bool)
    truth[round(0.25 * size[0]) : round(0.75 * size[0]), round(0.5 * size[1]) :] = True
    wrong = np.count_nonzero(found ^ truth)
    assert wrong < 0.04 * truth.size  # a cell of the thumbnail along the border


@pytest.mark.parametrize("size", [(128, 128), (100, 256)])
def test_the_distance_is_a_share_at_the_image_s_own_size(brightness: BrightnessDecoder, size: tuple[int, int]) -> None:
    asked = embedding(size, (0.25, 0.5, 0.75, 1))
    asked.thumbnail[..., 1:] = 0
    found = predict_pixels(brightness, asked).distance
    assert found.shape == size and found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    assert found[size[0] // 2, -1] > 0.99 and found[size[0] // 2, 0] < 0.01 and found[0, -1] < 0.01


def test_a_rim_lies_where_the_picture_has_one(brightness: BrightnessDecoder) -> None:
    """A cell of the thumbnail is 4 px: the picture that is kept beside it knows better."""
    y, x = np.mgrid[:512, :512]
    disc = (x - 250) ** 2 + (y - 262) ** 2 < 21**2
    image = np.where(disc[..., None], 220, 30).repeat(3, 2).astype(np.uint8)
    small = image.reshape(128, 4, 128, 4, 3).mean((1, 3)).astype(np.uint8)
    without = replace(embedding((512, 512)), thumbnail=small)
    both = (without, replace(without, picture=pack_picture(image)))
    wrong = [np.count_nonzero((predict(brightness, each)[1] > 0.5) ^ disc) for each in both]
    assert wrong[1] < 0.5 * wrong[0] < 0.01 * disc.sum()


def test_a_temperature_softens_probabilities_and_leaves_the_distance() -> None:
    asked = embedding((64, 64), (0, 0, 1, 0.5))
    asked.thumbnail[asked.thumbnail > 0] = 150  # 0.18 of brightness
    cold, warm = (
        predict_pixels(BrightnessDecoder(DecoderConfig(("bright",), "tiny-1", channels=32, temperature=t)), asked)
        for t in (1.0, 4.0)
    )
    odds = [
        np.log(each.probabilities[1] / each.probabilities[0])[:, :16] - FOREGROUND_LOGIT_BIAS for each in (cold, warm)
    ]
    np.testing.assert_allclose(odds[0], 4 * odds[1], rtol=1e-3)
    assert odds[0].mean() > 2
    np.testing.assert_array_equal(cold.distance, warm.distance)


def test_what_to_separate_is_numbered_as_the_labels_are() -> None:
    config = DecoderConfig(("rim", "pit", "rock"), "tiny-1", channels=32, separate=("rock", "pit"))
    assert predict_pixels(DomainDecoder(config), embedding((20, 30))).separate == {1, 2}


def test_threads_get_what_one_alone_gets() -> None:
    torch.manual_seed(0)
    decoder = DomainDecoder(DecoderConfig(("pit",), "tiny-1", channels=32))
    asked = [embedding((60 + i, 90), (0, 0, 0.1 * i, 0.5)) for i in range(8)]
    alone = [predict(decoder, one) for one in asked]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: predict(decoder, one), asked))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_instances_come_by_label_then_size_with_their_mean_probability() -> None:
    crater, pit = np.zeros((40, 40)), np.zeros((40, 40))
    pit[2:6, 2:6] = 0.9
    pit[20:30, 20:30] = 0.7
    pit[20:25, 20:30] = 0.9
    crater[2:10, 30:38] = 0.6
    found = list(instances(whole(pit, crater), min_area=1))
    assert [(item.label, item.mask.sum()) for item in found] == [(0, 100), (0, 16), (1, 64)]
    assert [item.score for item in found] == pytest.approx([0.8, 0.9, 0.6], abs=1e-5)
    np.testing.assert_array_equal(found[1].mask, (pit > 0) & (np.arange(40) < 10))


def test_instances_smaller_than_min_area_are_left_out() -> None:
    pit = np.zeros((20, 20))
    pit[0:3, 0:3] = 0.9
    pit[10:14, 10:14] = 0.9
    areas = {least: [item.mask.sum() for item in instances(whole(pit), least)] for least in (0, 9, 10, 16, 17)}
    assert areas == {0: [16, 9], 9: [16, 9], 10: [16], 16: [16], 17: []}


def test_a_pixel_belongs_to_the_most_probable_class_even_below_one_half() -> None:
    pit, crater = np.full((10, 10), 0.3), np.full((10, 10), 0.4)
    (only,) = instances(whole(pit, crater), min_area=1)
    assert only.label == 1 and only.mask.all() and only.score == pytest.approx(0.4, abs=1e-6)


def test_touching_objects_are_told_apart_for_labels_that_were_single_objects_only() -> None:
    """Two touching squares, each a hill of the distance, as pits and, elsewhere, as craters."""
    pit, crater, distance = np.zeros((40, 40)), np.zeros((40, 40)), np.zeros((40, 40), np.float32)
    for label, rows in ((pit, slice(2, 14)), (crater, slice(22, 34))):
        label[rows, 2:26] = 0.9
        ramp = np.minimum(np.arange(12), np.arange(12)[::-1]) / 5
        hill = np.minimum.outer(ramp, ramp)
        distance[rows, 2:14] = distance[rows, 14:26] = hill
    for separate, expected in (
        (frozenset(), [(0, 288), (1, 288)]),
        (frozenset({1}), [(0, 288), (1, 144), (1, 144)]),
        (frozenset({0, 1}), [(0, 144), (0, 144), (1, 144), (1, 144)]),
    ):
        found = list(instances(Prediction(probabilities(pit, crater), distance, separate), min_area=5))
        assert [(item.label, pytest.approx(item.mask.sum(), abs=14)) for item in found] == expected
        assert all(item.score == pytest.approx(0.9, abs=1e-5) for item in found)
        for label, truth in ((0, pit), (1, crater)):
            together = np.sum([item.mask for item in found if item.label == label], axis=0)
            np.testing.assert_array_equal(together, truth > 0)  # nothing lost, nothing twice


def scene_of(object_probability: float, background_probability: float) -> NDArray[np.float32]:
    pit = np.full((100, 100), background_probability)
    pit[40:60, 40:60] = object_probability
    return probabilities(pit)


def test_confidence_is_high_for_sure_and_low_for_doubtful_objects() -> None:
    sure, fair, doubtful = (confidence(scene_of(p, 1e-4)) for p in (0.99, 0.75, 0.52))
    assert sure > 0.95 > fair > 0.85 > doubtful > 0.75


def test_confidence_is_one_of_certain_pixels_and_none_of_a_guess() -> None:
    for classes in (2, 3, 5):
        certain, guess = np.zeros((classes, 8, 8), np.float32), np.full((classes, 8, 8), 1 / classes, np.float32)
        certain[1] = 1
        assert confidence(certain) == 1 and confidence(guess) == pytest.approx(0, abs=1e-3)


def test_confidence_falls_with_the_share_of_the_image_that_is_doubtful() -> None:
    doubtful = scene_of(0.55, 1e-6)
    assert confidence(doubtful[:, 40:60, 40:60]) < confidence(doubtful[:, 20:80, 20:80]) - 0.3
    assert confidence(doubtful[:, 20:80, 20:80]) < confidence(doubtful) - 0.1


def test_confidence_falls_when_a_second_object_is_doubtful() -> None:
    pit = np.full((100, 100), 1e-4)
    pit[10:30, 10:30] = 0.98
    alone = confidence(probabilities(pit))
    pit[60:80, 60:80] = 0.5
    assert confidence(probabilities(pit)) < alone - 0.1


@pytest.mark.parametrize("rest", [0.0, 1e-12, 1e-9, 1e-6, 1e-4])
def test_confidence_is_high_where_there_is_surely_nothing(rest: float) -> None:
    assert 0.98 < confidence(np.stack([np.full((64, 64), 1 - rest), np.full((64, 64), rest)]).astype(np.float32)) <= 1


def test_thousands_of_regions_take_little_memory_and_the_surest_are_given_first_of_all() -> None:
    """A region's mask is as large as itself: 4096 of the picture's size would take 1 GB."""
    side, pitch = 512, 8
    block = np.zeros((pitch, pitch), bool)
    block[1:6, 1:7] = True
    pits = np.tile(block, (side // pitch, side // pitch))
    sure = 0.6 + 0.3 * (np.arange(side)[:, None] // pitch * (side // pitch) + np.arange(side) // pitch) / 4096
    said = np.stack([1 - pits * sure, pits * sure]).astype(np.float32)
    for separate in (frozenset(), frozenset({0})):
        prediction = Prediction(said, pits.astype(np.float32), separate)
        tracemalloc.start()
        areas = [each.part.size for each in instances(prediction, 1)]
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert areas == [30] * 4096 and most < 130 * side**2  # bytes; watershed's own are the most of it
        every = find_regions(prediction, 1)
        chosen = list(every.surest(100))
        assert len(every) == 4096 and len(chosen) == 100
        assert min(each.score for each in chosen) >= np.sort(every.scores[1:])[-100]
        rows = [each.top // pitch for each in chosen]
        assert rows == sorted(rows) and min(rows) >= 62
        assert (np.sum([each.mask for each in chosen], 0) <= pits).all() and chosen[0].mask.shape == (side, side)

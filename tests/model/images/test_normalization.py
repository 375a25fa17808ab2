"""From a picture's numbers to 8 bits."""

import json

import numpy as np
import pytest

from skylight.model.images.normalization import (
    PER_IMAGE,
    Normalization,
    common_range,
    percentile_range,
    quantiles,
    stretch,
)


def test_a_normalisation_is_stored_and_marked_by_what_it_does():
    how = Normalization((3, 2, 1), (-5.5, 4000.1))
    assert Normalization.from_json(json.loads(json.dumps(how.to_json()))) == how
    assert (
        PER_IMAGE.key_suffix == ""
        and Normalization.from_json(None) == Normalization.from_json(PER_IMAGE.to_json()) == PER_IMAGE
    )
    marks = {each.key_suffix for each in (how, Normalization((3, 2, 1)), Normalization((), how.range), PER_IMAGE)}
    assert len(marks) == 4


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_numbers_are_stretched_alike_whatever_their_type(dtype):
    numbers = np.array([[0, 100, 160, 200, 300]], dtype)
    assert stretch(numbers, 100, 200).tolist() == [[0, 0, 153, 255, 255]]
    below_zero = (numbers.astype(float) - 200).astype(dtype)
    if np.dtype(dtype).kind != "u":
        assert stretch(below_zero, -100, 0).tolist() == [[0, 0, 153, 255, 255]]


def test_large_numbers_that_differ_little_are_told_apart():
    julian = 2_460_000 + np.array([0, 0.002, 0.003, 0.005])
    assert stretch(julian, julian[0], julian[3]).tolist() == [0, 102, 153, 255]


def test_what_is_not_there_is_black_and_counts_for_nothing():
    numbers = np.array([np.nan, np.inf, -np.inf, -3.4e38, 5, 7], np.float32)
    assert percentile_range(numbers) == pytest.approx((5.02, 6.98))
    assert stretch(numbers, 5, 7).tolist() == [0, 0, 0, 0, 0, 255]
    assert quantiles(numbers).min() == 5 and quantiles(numbers[:4]) is None and percentile_range(numbers[:4]) == (0, 1)


@pytest.mark.parametrize("value", [0, 7, -32768])
def test_a_picture_of_one_number_is_black(value):
    numbers = np.full((4, 4), value, np.int16)
    assert percentile_range(numbers) == (value, value) and not stretch(numbers, *percentile_range(numbers)).any()
    assert common_range([quantiles(numbers)]) is None and common_range([]) is None


def test_the_common_range_is_that_of_all_pictures_together():
    rng = np.random.default_rng(0)
    pictures = [rng.normal(mean, 50, (200, 200)) for mean in (1000, 1500, 5000)]
    low, high = common_range([quantiles(each) for each in pictures])
    exact = np.percentile(np.concatenate(pictures), (1, 99))
    assert (low, high) == pytest.approx(exact, abs=15)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("pixels", [2_700_000, 3_000_000, 3_999_990])
def test_percentiles_are_those_of_all_bands(pixels, first):
    """Their stride is a multiple of 3 there, from which one band would be seen alone."""
    shape = (pixels // 1000, 1000)
    bands = [np.full(shape, level, np.uint16) for level in (100, 2000, 60_000)]
    numbers = np.stack(bands, 0 if first else 2)
    assert percentile_range(numbers) == (100, 60_000)
    assert set(quantiles(numbers)) == {100, 2000, 60_000}
    masked = np.ma.masked_array(numbers, numbers == 60_000)
    assert percentile_range(masked) == (100, 2000)


def test_percentiles_are_those_of_all_columns_and_rows():
    numbers = np.repeat(np.arange(60, dtype=np.uint16)[None], 200_000, 0)  # 12 million: every fourth
    assert percentile_range(numbers) == pytest.approx((0, 59), abs=1)
    assert percentile_range(numbers.T) == pytest.approx((0, 59), abs=1)

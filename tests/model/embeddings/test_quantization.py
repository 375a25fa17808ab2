"""One byte a number: near enough to the two bytes it stands for, and the extremes exact."""

import numpy as np

from skylight.model.embeddings.quantization import STEPS, dequantize, quantize


def values(seed: int = 0) -> np.ndarray:
    """Channels whose ranges differ by a factor of 10,000, far from 0 or around it."""
    rng = np.random.default_rng(seed)
    spread, middle = np.array([0.01, 1, 100, 0])[:, None, None], np.array([0, 3, -50, 7])[:, None, None]
    return (middle + spread * rng.normal(size=(4, 16, 16))).astype(np.float16)


def test_each_number_is_half_a_step_of_its_channel_off_at_most():
    codes, scale = quantize(values())
    assert (codes.dtype, codes.shape, scale.dtype, scale.shape) == (np.uint8, (4, 16, 16), np.float32, (4, 2))
    back = dequantize(codes, scale)
    assert (back.dtype, back.flags.c_contiguous) == (np.float16, True)
    wide = np.ptp(values().astype(float), axis=(1, 2))
    off = np.abs(back.astype(float) - values().astype(float)).max((1, 2))
    rounding = np.abs(values().astype(float)).max((1, 2)) * 2**-11  # float16's own
    assert (off <= wide / STEPS / 2 + rounding).all() and (off[:3] > wide[:3] / STEPS / 3).all()


def test_the_extremes_of_a_channel_and_one_that_is_all_the_same_are_exact():
    back = dequantize(*quantize(values()))
    np.testing.assert_array_equal(back.min((1, 2)), values().min((1, 2)))
    np.testing.assert_array_equal(back.max((1, 2)), values().max((1, 2)))
    np.testing.assert_array_equal(back[3], values()[3])


def test_what_came_back_comes_back_the_same():
    once = dequantize(*quantize(values()))
    np.testing.assert_array_equal(dequantize(*quantize(once)), once)


def test_a_view_of_another_array_is_taken_too():
    turned = values().transpose(0, 2, 1)
    np.testing.assert_array_equal(dequantize(*quantize(turned)), dequantize(*quantize(np.ascontiguousarray(turned))))

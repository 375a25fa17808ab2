"""A few of the inputs of `make torture PARTS=fuzz`, other ones than its first."""

import numpy as np
import pytest

from tests.support import fuzzing

FIRST, COUNT = 10**9, 300


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged metadata
@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_odd_inputs_are_answered_or_refused(name):
    target, _ = fuzzing.TARGETS[name]
    for seed in range(FIRST, FIRST + COUNT):
        target(np.random.default_rng(seed))


def test_the_inputs_are_neither_all_good_nor_all_bad():
    rng = np.random.default_rng(0)
    good = sum(fuzzing.mutated(fuzzing.RLE, rng) == fuzzing.RLE for _ in range(100))
    assert good < 20
    read = 0
    for _ in range(200):
        try:
            fuzzing.decode_rle(list(fuzzing.mutated(fuzzing.RLE, rng)), *fuzzing.SIZE)
            read += 1
        except fuzzing.MaskError:
            pass
    assert 5 < read < 195

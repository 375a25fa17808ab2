"""Runs of COCO to masks and back, and what is refused."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skylight.model.masks.coco_rle import decode_runs, decompress, encode_runs
from skylight.model.masks.errors import MaskError
from skylight.model.masks.region import MaskRegion


def compress(counts):
    """As rleToString of COCO's maskApi.c."""
    text = ""
    for k, count in enumerate(counts):
        x = count - counts[k - 2] if k > 2 else count
        more = True
        while more:
            c, x = x & 31, x >> 5
            more = x != -1 if c & 16 else x != 0
            text += chr(c + 32 * more + 48)
    return text


@pytest.mark.parametrize(
    ("text", "counts"),
    [("T3", [100]), ("52203", [5, 2, 2, 2, 5]), ("", []), ("0\\9", [0, 300])],
)
def test_known_compressed_runs(text, counts):
    assert decompress(text) == counts


def test_masks_that_pycocotools_wrote():
    y, x = np.mgrid[:70, :50]
    ring = ((y - 30) ** 2 / 900 + (x - 20) ** 2 / 225 <= 1) & ~((y - 35) ** 2 + (x - 22) ** 2 <= 16)
    half = np.arange(2000) >= 1000
    corner = np.arange(20).reshape(5, 4) == 0
    for mask, counts in (
        (ring, "l;1k1d0B8H8J4L4L4M2N2N2N2O0O2OWOFF:8JF5:MF39MF49NF2;LF59KF6;HF9;CF?o02N2N3L4L4L6H8H>\\OPn0"),
        (((x + y) % 7 == 0)[:9, :11], "0160100000000000O10O100000M"),
        (np.repeat(half[None], 1000, 0), "Pb`n0Pb`n0"),
        (corner, "01c0"),
    ):
        assert (decode_runs(counts, mask.shape) == mask).all()


@given(st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_compressed_runs_come_back(counts):
    assert decompress(compress(counts)) == counts


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_runs_of_any_mask_come_back_compressed_or_not(mask):
    counts = encode_runs(MaskRegion(0, 0, 0, mask, 1.0), mask.shape) if mask.any() else [mask.size]
    for given_ in (counts, compress(counts)):
        assert (decode_runs(given_, mask.shape) == mask).all()


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_as_mask_error(text):
    with suppress(MaskError):
        assert all(type(each) is int for each in decompress(text))

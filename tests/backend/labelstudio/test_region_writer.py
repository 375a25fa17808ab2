"""Masks as regions of every kind, and back."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from skylight.backend.labelstudio.label_map import label_map
from skylight.backend.labelstudio.region_validator import check_regions
from skylight.backend.labelstudio.region_writer import draw_regions
from skylight.backend.settings import OUTPUTS
from skylight.model.evaluation.metrics import iou
from skylight.model.masks.bitmask import decode_png
from skylight.model.masks.components import components
from skylight.model.masks.polygonize import HOLE_SHARE, MIN_IOU, SMALLEST_HOLE
from tests.support.drawn_regions import Mask, blob, labeling_for, regions
from tests.support.editor import RNG, SIZE
from tests.support.sdk_brush import brush
from tests.support.shapes import apart


def pinholes(mask: Mask) -> bool:
    """Whether it has holes too small to be cut."""
    holes = apart(components(ndimage.binary_fill_holes(mask) & ~mask, 1))
    return any(hole.sum() < max(SMALLEST_HOLE, HOLE_SHARE * mask.sum()) for hole in holes)


def test_a_brush_region_has_exactly_what_label_studio_keeps() -> None:
    mask = RNG.random(SIZE) < 0.4
    (region,) = draw_regions(labeling_for("brush").output("Object"), mask, "Object", np.float32(0.876543))
    rle = brush.mask2rle(mask.astype(np.uint8) * 255)
    assert len(region.pop("id")) == 10
    assert region == {
        "from_name": "brush",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": 80,
        "original_height": 60,
        "image_rotation": 0,
        "score": 0.8765,
        "origin": "prediction",
        "value": {"format": "rle", "rle": rle, "brushlabels": ["Object"]},
    }
    assert json.loads(json.dumps(region)) == region


def test_a_bitmask_region_holds_a_png() -> None:
    mask = RNG.random(SIZE) < 0.4
    (region,) = regions("bitmask", mask)
    assert set(region["value"]) == {"imageDataURL", "bitmasklabels"}
    np.testing.assert_array_equal(decode_png(region["value"]["imageDataURL"]), mask)


def test_a_vector_is_a_closed_chain() -> None:
    (region,) = regions("vector", blob(1, *SIZE))
    vertices = region["value"]["vertices"]
    assert region["value"]["closed"] is True and len(vertices) >= 3
    assert [each["prevPointId"] for each in vertices] == [None, *(each["id"] for each in vertices[:-1])]


def test_a_rectangle_is_around_the_mask() -> None:
    mask = np.zeros(SIZE, bool)
    mask[10:20, 20:60] = mask[15:45, 30:32] = True
    (region,) = regions("rectangle", mask)
    percent = [region["value"][key] for key in ("x", "y", "width", "height", "rotation")]
    assert percent == pytest.approx([25, 100 / 6, 50, 350 / 6, 0], abs=1e-4)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_an_empty_mask_is_no_region(kind: str) -> None:
    assert regions(kind, np.zeros(SIZE, bool)) == []


@pytest.mark.parametrize(
    ("kind", "count"), [("brush", 1), ("bitmask", 1), ("polygon", 2), ("vector", 2), ("rectangle", 1)]
)
def test_two_pieces_are_two_polygons_and_one_of_the_others(kind: str, count: int) -> None:
    mask = np.zeros(SIZE, bool)
    mask[5:25, 5:25] = mask[30:50, 50:70] = True
    found = regions(kind, mask)
    assert len({region["id"] for region in found}) == len(found) == count


@pytest.mark.parametrize(
    ("mask", "label", "score"),
    [
        (np.ones(SIZE, np.uint8), "Dog", 0.5),
        (np.ones((1, *SIZE), bool), "Dog", 0.5),
        (np.ones(SIZE, bool), "Cat", 0.5),
        (np.ones(SIZE, bool), "Dog", 1.01),
        (np.ones(SIZE, bool), "Dog", float("nan")),
    ],
)
@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_region_that_would_lock_the_annotation_is_not_made(
    kind: str, mask: NDArray[np.bool_], label: str, score: float
) -> None:
    with pytest.raises(ValueError):
        draw_regions(labeling_for(kind).output("Dog"), mask, label, score)


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(OUTPUTS),
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 130),
    width=st.integers(1, 130),
    rotation=st.sampled_from([0, 90, 180, 270]),
    index=st.none() | st.integers(0, 3),
    noise=st.booleans(),
)
def test_what_is_drawn_passes_the_checks_and_is_read_back(
    kind: str, seed: int, height: int, width: int, rotation: int, index: int | None, noise: bool
) -> None:
    if noise:  # at most 40 px: each of its many pieces is a region
        mask = np.random.default_rng(seed).random((min(height, 40), min(width, 40))) < 0.5
    else:
        mask = blob(seed, height, width)
    assume(mask.any())
    found = regions(kind, mask, item_index=index, rotation=rotation)
    labeling = labeling_for(kind)
    check_regions(found, labeling, mask.shape)
    assert {(each["image_rotation"], each.get("item_index")) for each in found} == {(rotation, index)}
    read = label_map(json.loads(json.dumps(found)), labeling, mask.shape, index or 0)
    assert (read.ignored, read.regions) == ((), len(found))
    back = read.array == 2
    assert set(np.unique(read.array)) <= {0, 2}
    if kind in ("brush", "bitmask"):
        np.testing.assert_array_equal(back, mask)
    elif not noise and len(apart(components(mask, 1))) == 1 and not pinholes(mask):
        if kind == "rectangle":
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            expected = np.zeros_like(mask)
            expected[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
            np.testing.assert_array_equal(back, expected)
        else:
            assert iou(back, mask) >= MIN_IOU - 0.02  # the corners are rounded to percent

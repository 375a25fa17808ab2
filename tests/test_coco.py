"""COCO files: runs and polygons to masks, and what is refused."""

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.coco import Coco, CocoError, decompress, runs_mask
from model.objects import Found
from model.writers import coco_annotation, runs

SIZE = (6, 8)


@pytest.fixture
def read(tmp_path):
    """A COCO file of one picture of 8 x 6 px and these annotations, as it is read."""

    def make(*annotations, **changed):
        body = {
            "info": {"year": 2026},
            "images": [{"id": 7, "file_name": "a/b.png", "height": 6, "width": 8}],
            "annotations": [{"id": k, "image_id": 7, "category_id": 3, **one} for k, one in enumerate(annotations)],
            "categories": [{"id": 1, "name": "unused"}, {"id": 3, "name": "Pit"}, {"id": 4, "name": "Crater"}],
        }
        path = tmp_path / "coco.json"
        path.write_text(json.dumps({**body, **changed}, indent=1))
        return Coco(path)

    return make


def drawn(coco, *boxes):
    """All objects of the first picture as whole masks with their labels."""
    whole = []
    for each in coco.objects(coco.pictures[0], boxes):
        mask = np.zeros(coco.pictures[0].size, bool)
        mask[each.top : each.top + each.mask.shape[0], each.left : each.left + each.mask.shape[1]] = each.mask
        whole.append((coco.labels[each.label], mask))
    return whole


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
        assert (runs_mask({"size": list(mask.shape), "counts": counts}, mask.shape) == mask).all()


@given(st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_compressed_runs_come_back(counts):
    assert decompress(compress(counts)) == counts


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_runs_of_any_mask_come_back_compressed_or_not(mask):
    counts = runs(Found(0, 0, 0, mask, 1.0), mask.shape) if mask.any() else [mask.size]
    for given_ in (counts, compress(counts)):
        assert (runs_mask({"size": list(mask.shape), "counts": given_}, mask.shape) == mask).all()


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_as_coco_error(text):
    with suppress(CocoError):
        assert all(type(each) is int for each in decompress(text))


def test_polygons_runs_and_crowds_are_objects_with_their_label(read):
    square = np.zeros(SIZE, bool)
    square[1:4, 2:6] = True
    corner = np.zeros(SIZE, bool)
    corner[5, 7] = True
    coco = read(
        {"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4], [7, 5, 20, 5, 20, 9, 7, 9]], "iscrowd": 0},
        {"segmentation": {"size": [6, 8], "counts": runs(Found(0, 0, 0, square, 1.0), SIZE)}, "iscrowd": 1},
        {"segmentation": {"size": [6, 8], "counts": compress([47, 1])}, "category_id": 4},
    )
    assert [(each.name, each.size) for each in coco.pictures] == [("a/b.png", SIZE)]
    assert coco.labels == ["Pit", "Crater"]
    (one, first), (two, crowd), (other, last) = drawn(coco)
    assert (one, two, other) == ("Pit", "Pit", "Crater")
    assert (first == square | corner).all() and (crowd == square).all() and (last == corner).all()


def test_an_object_that_covers_no_pixels_centre_is_empty(read):
    outside = [[9, 1, 12, 1, 12, 4]]
    thin = [[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]]
    assert not any(mask.any() for _, mask in drawn(read({"segmentation": outside}, {"segmentation": thin})))


def test_a_box_is_an_object_only_where_boxes_are_wanted(read):
    coco = read({"segmentation": [], "bbox": [2, 1, 3, 2]})
    ((_, mask),) = drawn(coco, "Pit")
    assert mask.sum() == 6 and mask[1:3, 2:5].all()
    with pytest.raises(CocoError, match="annotation 0: it has no segmentation, and a box is no mask"):
        drawn(coco)


def test_what_map_writes_is_read_as_it_was(read):
    ring = np.ones((4, 5), bool)
    ring[2, 2] = False
    for mask in (ring, np.ones((3, 4), bool)):
        made = coco_annotation(Found(0, 1, 2, mask, 0.9), SIZE, {"area_px": 1, "confidence": 0.9})
        ((_, back),) = drawn(read({"segmentation": made["segmentation"]}))
        assert (back == np.pad(mask, ((1, 5 - len(mask)), (2, 6 - mask.shape[1])))).all()


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ({"size": [8, 6], "counts": [48]}, r"its size \[8, 6\] is not the image's, height 6, width 8"),
        ({"size": [6, 8], "counts": [10**12]}, "counts are of 1000000000000 pixels, but 8 x 6 are 48"),
        ({"size": [6, 8], "counts": [50, -2]}, "whole numbers from 0 on"),
        ({"size": [6, 8], "counts": [1.5]}, "whole numbers from 0 on"),
        ({"size": [6, 8], "counts": 5}, "must be a text"),
        ({"size": [6, 8], "counts": "\x7f"}, "damaged after 0 numbers"),
        ({"size": [6, 8], "counts": "P" * 13}, "damaged after 0 numbers"),
        ({"size": [6, 8], "counts": "0P"}, "break off after 1 numbers"),
        ([[1, 2, 3, 4]], "three points at least"),
        ([[1, 2, 3, 4, 5, "6"]], "must be finite numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "must be finite numbers"),
        ([[1, 2, 3, 4, 5, 10**400]], "must be finite numbers"),
        (None, "it has no segmentation"),
    ],
)
def test_damaged_segmentations_are_refused_with_their_annotation(read, segmentation, said):
    with pytest.raises(CocoError, match=f"annotation 0: .*{said}"):
        drawn(read({"segmentation": segmentation}))


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("0P1\x7f", max_size=9),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts", "x"]), inner),
    max_leaves=20,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ODD | st.fixed_dictionaries({"size": st.just([6, 8]), "counts": ODD}) | st.lists(ODD, max_size=2), ODD)
def test_whatever_stands_in_an_annotation_it_is_read_or_refused_as_coco_error(read, segmentation, bbox):
    with suppress(CocoError):
        assert len(drawn(read({"segmentation": segmentation, "bbox": bbox}), "Pit")) == 1


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(["images", "annotations", "categories", "info"]), ODD | st.lists(ODD)))
def test_whatever_a_file_holds_it_is_read_or_refused_as_coco_error(read, changed):
    with suppress(CocoError):
        read({"segmentation": []}, **changed)


IMAGE = {"id": 7, "file_name": "a.png", "height": 6, "width": 8}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"images": [IMAGE, IMAGE]}, "two of its images have one id"),
        ({"images": [{**IMAGE, "id": 8}]}, "of image 7, which it does not list"),
        ({"images": [{**IMAGE, "id": "x"}]}, "id 'x', not a whole number"),
        ({"images": [{**IMAGE, "file_name": "/"}]}, "no file_name"),
        ({"images": [{**IMAGE, "width": 0}]}, "height and width 6, 0, not px"),
        ({"images": [3]}, "images holds '3', not objects"),
        ({"categories": []}, "of category 3, which it does not list"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(read, changed, said):
    with pytest.raises(CocoError, match=f"coco.json is not a COCO file of instances: .*{said}"):
        read({"segmentation": []}, **changed)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "a value at character 1"),
        ("3", "neither a list nor an object"),
        ('{"info": [1 2]}', "',' is missing at character 12"),
        ('{"info": [{}', "is missing at character 12"),
        ('{"info": {}}', "it lists no images"),
        ('{"images": []} {}', "something follows its end"),
        ('{"images": [], }', "a value is missing"),
        ('{"images": ' + "[" * 100_000, "cannot be read"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_what_is_not_json_of_coco_is_refused(tmp_path, text, said):
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CocoError, match=said):
        Coco(path)

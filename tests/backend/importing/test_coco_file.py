"""COCO files: images, categories and annotations, and what is refused."""

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skylight.backend.importing.coco_file import Coco, CocoError
from skylight.model.mapping.writers import coco_annotation
from skylight.model.masks.coco_rle import encode_runs
from skylight.model.masks.region import MaskRegion

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
    for each in coco.objects(coco.images[0], boxes):
        mask = np.zeros(coco.images[0].size, bool)
        mask[each.top : each.top + each.mask.shape[0], each.left : each.left + each.mask.shape[1]] = each.mask
        whole.append((coco.labels[each.label], mask))
    return whole


def test_polygons_runs_and_crowds_are_objects_with_their_label(read):
    square = np.zeros(SIZE, bool)
    square[1:4, 2:6] = True
    corner = np.zeros(SIZE, bool)
    corner[5, 7] = True
    coco = read(
        {"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4], [7, 5, 20, 5, 20, 9, 7, 9]], "iscrowd": 0},
        {"segmentation": {"size": [6, 8], "counts": encode_runs(MaskRegion(0, 0, 0, square, 1.0), SIZE)}, "iscrowd": 1},
        {"segmentation": {"size": [6, 8], "counts": "_11"}, "category_id": 4},  # runs of 47 and 1
    )
    assert [(each.name, each.size) for each in coco.images] == [("a/b.png", SIZE)]
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
        made = coco_annotation(MaskRegion(0, 1, 2, mask, 0.9), SIZE, {"area_px": 1, "confidence": 0.9})
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
        ({"size": None, "counts": [48]}, "its size None is not the image's"),
        ([[1, 2, 3, 4, 5]], "a list of x, y, x, y"),
        ([3], "a list of x, y, x, y"),
        ([[1, 2, 3, 4, 5, None]], "must be finite numbers"),
        ([[1, 2, 3, 4, 5, "x"]], "must be finite numbers"),
        ([[1, 2, 3, 4, 5, True]], "must be finite numbers"),
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
        ({"images": [3]}, "images holds '3', not objects"),
        ({"annotations": ["x"]}, "annotations holds 'x', not objects"),
    ],
)
def test_a_file_of_other_things_is_refused(read, changed, said):
    with pytest.raises(CocoError, match=f"coco.json is not a COCO file of instances: .*{said}"):
        read({"segmentation": []}, **changed)


OTHER = {"id": 9, "file_name": "other.png", "height": 6, "width": 8}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"images": [IMAGE, {**IMAGE, "file_name": "b.png"}, OTHER]}, "2 images of the file have the id 7"),
        ({"images": [{**IMAGE, "width": 0}, OTHER]}, "its height and width are 6, 0 in the file, not px"),
        ({"images": [{**IMAGE, "height": 6.5}, OTHER]}, "its height and width are 6.5, 8 in the file"),
        (
            {"images": [IMAGE, OTHER], "categories": []},
            "annotation 0: it is of category 3, which the file does not list",
        ),
        (
            {"images": [IMAGE, OTHER], "categories": [{"id": 3, "name": "Pit"}, {"id": 3, "name": "Rock"}]},
            "annotation 0: its category 3 is listed more than once, as 'Pit', 'Rock'",
        ),
    ],
)
def test_what_contradicts_itself_costs_its_picture_only(read, changed, said):
    coco = read({"segmentation": [[2, 1, 6, 1, 6, 4]]}, **changed)
    *bad, good = coco.images
    for each in bad:
        with pytest.raises(CocoError, match=said):
            list(coco.objects(each))
    assert (good.name, good.problem, list(coco.objects(good))) == ("other.png", "", [])


@pytest.mark.parametrize(
    ("changed", "problems"),
    [
        ({"images": [OTHER]}, [("annotations (1)", "they are of image 7, which the file does not list")]),
        ({"images": [{**IMAGE, "file_name": "/"}, OTHER]}, [("image 7", "it has no file_name")]),
        (
            {"images": [OTHER], "annotations": [{"id": 1, "category_id": 3}] * 2},
            [("annotations (2)", "they are without an image_id")],
        ),
    ],
)
def test_what_belongs_to_no_picture_is_named(read, changed, problems):
    coco = read({"segmentation": []}, **changed)
    assert (coco.problems, [each.name for each in coco.images]) == (problems, ["other.png"])


def test_an_image_listed_twice_alike_is_one(read):
    coco = read({"segmentation": [[2, 1, 6, 1, 6, 4]]}, images=[IMAGE, IMAGE])
    assert len(coco.images) == 1 and len(drawn(coco)) == 1


@pytest.mark.parametrize("ids", [("7", "3"), (7.0, 3.0), ("img-1", "a"), (-1, 0), ("7.5", 2.5)])
def test_ids_are_only_compared(read, ids):
    image, category = ids
    coco = read(
        {"segmentation": [[2, 1, 6, 1, 6, 4]], "image_id": image, "category_id": category, "id": None},
        images=[{**IMAGE, "id": image}],
        categories=[{"id": category, "name": "Pit"}],
    )
    assert coco.labels == ["Pit"] and [label for label, _ in drawn(coco)] == ["Pit"]


def test_an_id_is_the_same_as_a_number_and_as_a_text_but_texts_differ(read):
    assert len(drawn(read({"segmentation": [[2, 1, 6, 1, 6, 4]], "image_id": "7", "category_id": 3.0}))) == 1
    coco = read({"segmentation": []}, images=[{**IMAGE, "id": each} for each in ("7", "07", "7.0")])
    assert len(coco.images) == 3 and not any(each.problem for each in coco.images)


@pytest.mark.parametrize("size", [(6.0, 8.0), ("6", "8"), ("6.0", 8), (6, 8)])
def test_sizes_may_be_floats_or_texts(read, size):
    coco = read({"segmentation": [[2, 1, 6, 1, 6, 4]]}, images=[{**IMAGE, "height": size[0], "width": size[1]}])
    assert coco.images[0].size == SIZE and drawn(coco)[0][1].sum() == 6


@pytest.mark.parametrize("size", [{}, {"height": None, "width": None}, {"height": 6}, {"width": 8.0, "height": None}])
def test_missing_sizes_are_the_pictures_own(read, size):
    shape = {"size": [6.0, "8"], "counts": [10.0, "2", 36]}
    coco = read(
        {"segmentation": [[2, 1, 6, 1, 6, 4]]},
        {"segmentation": shape},
        images=[{"id": 7, "file_name": "a.png", **size}, {"id": 8, "file_name": "b.png"}],
    )
    first, second = coco.images
    assert list(coco.objects(second)) == []
    assert [int(each.mask.sum()) for each in coco.objects(first, shown=SIZE)] == [6, 2]
    with pytest.raises(CocoError, match="annotation 0: its image has no height and width"):
        list(coco.objects(first))


def test_sizes_that_make_no_sense_matter_only_where_there_are_objects(read):
    coco = read(images=[{**IMAGE, "height": 0, "width": "wide"}])
    assert coco.images[0].size == (None, None) and list(coco.objects(coco.images[0], shown=SIZE)) == []


@pytest.mark.parametrize(
    "shape",
    [
        [[]],
        [[], []],
        [[1, 1]],
        [[1, 1, 3, 3]],
        {"size": [6, 8], "counts": []},
        {"size": [6, 8], "counts": ""},
    ],
)
def test_an_object_without_a_shape_has_no_pixel_and_the_others_are_read(read, shape):
    found = drawn(read({"segmentation": shape}, {"segmentation": [[2, 1, 6, 1, 6, 4]]}))
    assert [int(mask.sum()) for _, mask in found] == [0, 6]


def test_rings_of_two_points_are_left_out_beside_good_ones(read):
    coco = read({"segmentation": [[0, 0, 1, 1], [2, 1, 6, 1, 6, 4], []]})
    (found,) = coco.objects(coco.images[0])
    assert found.mask.sum() == 6 and len(found.rings) == 1


def test_key_points_that_label_studio_exported_are_no_object(read):
    points = {"keypoints": [3, 3, 2], "num_keypoints": 1, "bbox": [3, 3, 0, 0]}
    assert [int(mask.sum()) for _, mask in drawn(read({**points, "segmentation": []}, points), "Pit")] == [0, 0]


def test_members_that_are_null_are_empty(read):
    coco = read(annotations=None, categories=None)
    assert coco.labels == [] and len(coco.images) == 1


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

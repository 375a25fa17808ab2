"""Targets of a label map, cell by cell, and which labels are separated."""

from dataclasses import replace

import numpy as np
import pytest

from skylight.model.decoder.samples import SHARES, UNKNOWN, Sample, boundary_distances, cell_shares, separable_labels
from skylight.model.masks.label_map import IGNORE
from tests.model.decoder.made_up import made_up, sample_of, soft_targets


def test_targets_are_shares_of_a_cell() -> None:
    label_map = np.zeros((128, 128), np.uint8)
    label_map[0:2, 0:1] = 1  # half of the first cell of 2 x 2 px
    label_map[2:4, 0:2] = 1
    targets = soft_targets(sample_of(label_map), 1)
    assert targets.shape == (2, 64, 64) and targets.dtype == np.float32
    np.testing.assert_allclose(targets[:, :3, 0].T, [[0.5, 0.5], [0, 1], [1, 0]], atol=0.003)  # in 255ths


def test_cells_that_are_mostly_ignored_have_no_target() -> None:
    label_map = np.zeros((128, 128), np.uint8)
    label_map[0:2, 0:2] = IGNORE
    label_map[2:4, 0:1] = IGNORE
    label_map[4, 0] = IGNORE
    found = soft_targets(sample_of(label_map), 1)[:, :3, 0].T
    np.testing.assert_allclose(found, [[0, 0], [0, 0], [0.75, 0]], atol=0.003)


@pytest.mark.parametrize(("size", "rows", "columns"), [((32, 64), 32, 64), ((128, 64), 64, 32)])
def test_padding_beside_an_image_has_no_target_and_no_distance(size: tuple[int, int], rows: int, columns: int) -> None:
    sample = made_up(0, size=size)
    targets, distance = soft_targets(sample, 1), boundary_distances(sample)
    assert targets[:, :rows, :columns].sum(0).min() == 1 and targets.sum() == rows * columns
    inside = distance[:rows, :columns] != UNKNOWN
    assert inside.any() and np.count_nonzero(distance != UNKNOWN) == inside.sum()


def test_distances_are_known_within_objects_and_fall_to_their_rims() -> None:
    instances = np.zeros((128, 128), np.uint16)
    instances[16:80, 8:64] = 1
    instances[16:80, 64:120] = 2  # touches the first
    distance = boundary_distances(sample_of((instances > 0).astype(np.uint8), instances))
    assert distance.shape == (64, 64) and distance.dtype == np.float32
    known = np.zeros((64, 64), bool)
    known[8:40, 4:60] = True
    np.testing.assert_array_equal(distance != UNKNOWN, known)
    line = distance[24]
    assert line[4] < 0.1 and line[31] < 0.1 and line[32] < 0.1 and line[59] < 0.1  # also where the two touch
    assert line[17] > 0.9 and line[46] > 0.9 and distance.max() <= 1


def test_a_cell_that_is_mostly_background_has_no_distance() -> None:
    instances = np.zeros((128, 128), np.uint16)
    instances[0:20, 0:21] = 1  # half of the cells of column 10, none of column 11
    distance = boundary_distances(sample_of((instances > 0).astype(np.uint8), instances))
    assert distance[5, 9] != UNKNOWN and distance[5, 10] == UNKNOWN


def test_without_known_objects_no_distance_is_known() -> None:
    label_map = made_up(0).label_map
    assert (boundary_distances(sample_of(label_map)) == UNKNOWN).all()
    assert (boundary_distances(sample_of(label_map, np.zeros((64, 64), np.uint16))) == UNKNOWN).all()


def test_the_picture_rather_than_the_task_is_what_must_not_be_on_both_sides() -> None:
    one = made_up(0)
    assert one.group == one.task and replace(one, image="abc").group == "abc"


def test_of_a_cell_the_two_largest_classes_are_known() -> None:
    label_map = np.zeros((256, 256), np.uint8)
    label_map[0:4, 0:4] = [[7, 7, 3, 3], [7, 7, 3, 3], [7, 7, 3, 3], [7, 9, 0, 3]]
    classes, shares = cell_shares(sample_of(label_map))
    assert classes.shape == shares.shape == (SHARES, 64, 64)
    assert classes[:, 0, 0].tolist() in ([7, 3], [3, 7]) and shares[:, 0, 0].tolist() == [112, 112]


def labelled(pixels: dict[int, int], single: dict[int, int]) -> Sample:
    """A sample with so many pixels of each label, so many of them in single objects."""
    label_map, instances = np.zeros(4096, np.uint8), np.zeros(4096, np.uint16)
    at = 0
    for label, count in pixels.items():
        label_map[at : at + count] = label
        instances[at : at + single.get(label, 0)] = 2 * label
        instances[at : at + single.get(label, 0) // 2] = 2 * label + 1
        at += count
    return Sample("t", made_up(0).embedding, label_map.reshape(64, 64), instances.reshape(64, 64))


def test_labels_of_single_objects_that_touch_are_to_be_separated() -> None:
    labels = ("pit", "dust", "rock", "none")
    one = labelled({1: 100, 2: 100, 3: 50}, {1: 80, 2: 79, 3: 0})
    two = labelled({3: 450}, {3: 450})
    assert separable_labels([one], labels) == ("pit",)
    assert separable_labels([one, two], labels) == ("pit", "rock")  # 450 of 500
    assert separable_labels([replace(one, instances=None)], labels) == ()


@pytest.mark.parametrize("scale", [1, 8])
def test_what_hardly_ever_touches_is_not_to_be_separated(scale: int) -> None:
    two = labelled({1: 450}, {1: 450})
    assert two.instances is not None
    alone = replace(two, instances=np.minimum(two.instances, 1))

    def larger(sample: Sample) -> Sample:
        assert sample.instances is not None
        maps = (each.repeat(scale, 0).repeat(scale, 1) for each in (sample.label_map, sample.instances))
        return Sample("t", sample.embedding, *maps)

    two, alone = larger(two), larger(alone)
    assert separable_labels([alone], ["pit"]) == () and separable_labels([two], ["pit"]) == ("pit",)
    assert separable_labels([two, *11 * [alone]], ["pit"]) == ("pit",)  # 2 of 13
    assert separable_labels([two, *12 * [alone]], ["pit"]) == ()

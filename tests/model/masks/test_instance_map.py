"""Instance maps of regions, and objects that touch."""

import numpy as np
import pytest
from numpy.typing import NDArray

from skylight.model.masks.instance_map import count_touching, instance_map


def disc(y: float, x: float, radius: float, size: tuple[int, int] = (96, 96)) -> NDArray[np.bool_]:
    """The pixels within `radius` of y, x."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    return np.hypot(rows - y, columns - x) <= radius


PAIR = [disc(48, 32, 16), disc(48, 62, 16)]  # the second covers a sliver of the first


TOUCHING = instance_map(PAIR)


def test_objects_touch_within_reach_of_each_other() -> None:
    instances = np.zeros((64, 64), np.uint16)
    instances[10:20, 10:20], instances[10:20, 22:32], instances[40:50, 40:50] = 1, 2, 9
    assert count_touching(instances, 1) == (3, 0)  # 2 px lie between the first two
    assert count_touching(instances, 2) == (3, 0) and count_touching(instances, 3) == (3, 2)
    instances[9, 9] = 9
    assert count_touching(instances, 1) == (3, 2)  # the first and the last, by a corner
    instances[:] = 0
    assert count_touching(instances, 1) == (0, 0)


def test_regions_become_objects_in_drawing_order() -> None:
    assert TOUCHING.dtype == np.uint16
    np.testing.assert_array_equal(TOUCHING == 2, PAIR[1])
    np.testing.assert_array_equal(TOUCHING == 1, PAIR[0] & ~PAIR[1])


def test_a_region_in_pieces_is_a_class_of_things_and_leaves_0() -> None:
    scattered = disc(20, 20, 9) | disc(20, 60, 9)
    speckled = disc(70, 50, 12)
    speckled[90, 90] = True  # a stroke's stray pixel, well under 10 %
    found = instance_map([disc(20, 20, 15), scattered, speckled])
    np.testing.assert_array_equal(found == 3, speckled)
    np.testing.assert_array_equal(found == 1, disc(20, 20, 15) & ~scattered)
    assert set(np.unique(found)) == {0, 1, 3}


def test_regions_may_come_one_at_a_time() -> None:
    np.testing.assert_array_equal(instance_map(mask for mask in PAIR), TOUCHING)
    assert instance_map(iter([]), (4, 7)).shape == (4, 7)


def test_pieces_that_meet_at_a_corner_are_one() -> None:
    corner = np.zeros((96, 96), bool)
    corner[10:20, 10:20] = corner[20:30, 20:30] = True
    assert (instance_map([corner]) == corner).all()


def test_empty_regions_and_no_regions_are_nothing() -> None:
    assert set(np.unique(instance_map([np.zeros((96, 96), bool), disc(20, 20, 5)]))) == {0, 2}
    assert instance_map([], (4, 7)).shape == (4, 7) and not instance_map([], (4, 7)).any()


def test_regions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        instance_map([])
    with pytest.raises(ValueError, match=r"\(96, 96\) and \(5, 5\)"):
        instance_map([disc(3, 3, 2), np.ones((5, 5), bool)])
    with pytest.raises(ValueError, match="65535"):
        instance_map([np.zeros((1, 1), bool)] * 65536)

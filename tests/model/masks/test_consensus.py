"""Several annotators of one image."""

import numpy as np
import pytest

from skylight.model.masks.consensus import agreed_objects, majority
from skylight.model.masks.label_map import IGNORE


def row(*values: int) -> np.ndarray:
    return np.array([values], np.uint8)


def test_most_votes_win_and_a_tie_is_ignored() -> None:
    maps = row(0, 1, 1, 2, 2), row(0, 1, 0, 1, 1), row(1, 1, 0, 0, 2)
    assert majority(maps).tolist() == [[0, 1, 0, IGNORE, 2]]


def test_of_two_annotators_only_what_they_agree_on_is_kept() -> None:
    assert majority([row(0, 1, 1, 2), row(0, 1, 0, 1)]).tolist() == [[0, 1, IGNORE, IGNORE]]


def test_two_against_two_is_a_tie_whatever_a_fifth_says() -> None:
    assert majority([row(1), row(1), row(2), row(2), row(0)]).tolist() == [[IGNORE]]
    assert majority([row(2), row(2), row(1), row(0), row(0), row(2)]).tolist() == [[2]]


def test_what_a_map_ignores_is_no_vote() -> None:
    assert majority([row(IGNORE, IGNORE, 1), row(2, IGNORE, IGNORE)]).tolist() == [[2, IGNORE, 1]]


def test_one_annotator_is_always_right() -> None:
    assert majority([row(0, 3, IGNORE)]).tolist() == [[0, 3, IGNORE]]


def test_maps_of_other_shapes_or_none_are_refused() -> None:
    with pytest.raises(ValueError, match="maps of one shape"):
        majority([row(1), row(1, 2)])
    with pytest.raises(ValueError, match="maps of one shape"):
        majority([])


def objects(*values: int) -> np.ndarray:
    return np.array([values], np.uint16)


def test_objects_keep_the_pixels_that_were_agreed_on() -> None:
    drawn = row(1, 1, 1, 0, 1, 2)
    agreed = row(0, 1, 1, 0, IGNORE, 2)
    assert agreed_objects(agreed, [drawn], [objects(5, 5, 7, 0, 9, 3)]).tolist() == [[0, 2, 3, 0, 0, 1]]


def test_an_object_is_taken_from_a_later_annotator_only_where_none_is_yet() -> None:
    agreed = row(1, 1, 0, 1, 1)
    first, second = row(1, 1, 0, 0, 0), row(0, 1, 0, 1, 1)
    found = agreed_objects(agreed, [first, second], [objects(1, 1, 0, 0, 0), objects(0, 1, 0, 2, 2)])
    assert found.tolist() == [[1, 1, 0, 2, 2]]
    crossing = agreed_objects(agreed, [first, second], [objects(1, 1, 0, 0, 0), objects(0, 2, 0, 2, 2)])
    assert crossing.tolist() == [[1, 1, 0, 0, 0]]


def test_annotators_without_known_objects_are_passed_over() -> None:
    agreed = row(1, 0)
    assert agreed_objects(agreed, [agreed, agreed], [None, objects(4, 0)]).tolist() == [[1, 0]]

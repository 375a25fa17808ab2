"""Whole numbers as JSON has them."""

import pytest

from skylight.backend.labelstudio.whole_numbers import whole


@pytest.mark.parametrize("value", [200, 200.0, "200", " 200 ", "200.0", "+200", "200."])
def test_a_whole_number_is_read_however_it_is_written(value: object) -> None:
    found = whole(value)
    assert found == 200 and type(found) is int


@pytest.mark.parametrize(
    "value",
    [None, True, False, 200.5, float("nan"), float("inf"), "", "x", "2 0", "0x10", "1e3", "٣", [], {}, "9" * 40],
)
def test_anything_else_is_none(value: object) -> None:
    assert whole(value) is None

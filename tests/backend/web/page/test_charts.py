"""Coordinates of the page's charts."""

import pytest

from skylight.backend.web.page.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Point, Series, chart, count_ticks


def drawn(*points, **options):
    return chart("t", "s", "n", "IoU", [Series("a", [Point(x, y, "") for x, y in points], **options)])


@pytest.mark.parametrize("highest", [0, 1, 2, 3, 5, 6, 9, 15, 40, 99, 100, 101, 999, 12345])
def test_ticks_are_whole_round_even_and_few(highest):
    ticks = count_ticks(highest)
    steps = {b - a for a, b in zip(ticks, ticks[1:], strict=False)}
    assert ticks[0] == 0 and ticks[-1] >= highest and len(steps) == 1
    assert 2 <= len(ticks) <= 7
    assert str(steps.pop()).rstrip("0") in ("1", "2", "5")


def test_values_lie_between_the_margins_and_higher_ones_higher():
    (line,) = drawn((0, 0.0), (10, 1.0), (5, 0.5)).lines
    assert [(dot.x, dot.y) for dot in line.dots] == [
        (LEFT, HEIGHT - BOTTOM),
        (WIDTH - RIGHT, TOP),
        (LEFT + (WIDTH - LEFT - RIGHT) / 2, TOP + (HEIGHT - TOP - BOTTOM) / 2),
    ]
    assert line.path == " ".join(f"{dot.x:g},{dot.y:g}" for dot in line.dots)


def test_what_is_no_share_is_kept_inside():
    (line,) = drawn((1, -0.5), (2, 1.5)).lines
    assert [dot.y for dot in line.dots] == [HEIGHT - BOTTOM, TOP]


def test_a_series_may_be_dots_alone_or_a_line_alone():
    assert drawn((1, 0.5), joined=False).lines[0].path == ""
    assert drawn((1, 0.5), dots=False).lines[0].dots == ()


def test_a_single_value_can_be_drawn_and_none_is_refused():
    assert [text for _, text in drawn((0, 0.5)).x_ticks] == ["0", "1"]
    with pytest.raises(ValueError, match="at least one point"):
        chart("t", "s", "n", "IoU", [])

"""The page's charts and their coordinates."""

import pytest

from skylight.backend.learning.agreement import agreements, learning_curve, summarize
from skylight.backend.web.page.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    DataPoint,
    Series,
    agreement_chart,
    chart,
    count_ticks,
    counted,
    learning_chart,
)
from tests.backend.web.page.test_overview import card, record


def drawn(*points, **options):
    return chart("t", "s", "n", "IoU", [Series("a", [DataPoint(x, y, "") for x, y in points], **options)])


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


def test_the_curve_has_a_line_for_each_of_several_labels():
    cards = [
        card(1, 3, 0.4, validation={"mean_iou": 0.4, "iou": {"Pit": 0.6, "Crater": 0.2}}),
        card(2, 9, 0.5, validation={"mean_iou": 0.5, "iou": {"Pit": 0.5}}, promoted=False),
    ]
    found = learning_chart(learning_curve(map(summarize, cards)))
    assert found is not None
    assert [line.name for line in found.lines] == ["Pit", "Crater", "mean of all labels"]  # the mean drawn last, on top
    assert [len(line.dots) for line in found.lines] == [2, 1, 2]
    assert len({line.color for line in found.lines}) == 3
    assert [dot.hollow for dot in found.lines[-1].dots] == [False, True]
    assert found.summary == "mean IoU 0.40 after 3 annotations, 0.50 after 9"
    assert "kept back" in found.lines[-1].dots[1].text


def test_with_one_label_its_line_would_be_the_means():
    found = learning_chart(learning_curve([summarize(card(1, 3))]))
    assert found is not None and [line.name for line in found.lines] == ["mean of all labels"]


def test_the_agreements_chart_shows_every_annotation_and_the_mean_of_the_last():
    records = [record(1, task=5, shown="skylight-1", agreement=0.2), record(2, shown="skylight-2", agreement=0.6)]
    found = agreement_chart(agreements(records))
    assert found is not None
    dots, mean = found.lines
    assert [dot.text for dot in dots.dots] == [
        "task 5, begun with skylight-1: IoU 0.20",
        "task 2, begun with skylight-2: IoU 0.60",
    ]
    assert dots.path == "" and mean.path and not mean.dots
    assert found.summary == "running mean 0.40 after 2 annotations"
    assert agreement_chart([]) is None


def test_of_very_many_annotations_the_newest_are_drawn(monkeypatch):
    monkeypatch.setattr("skylight.backend.web.page.charts.MAX_DOTS", 3)
    found = agreement_chart(agreements([record(i, shown="skylight-1", agreement=i / 10) for i in range(1, 6)]))
    assert found is not None
    assert [dot.text.split(",")[0] for dot in found.lines[0].dots] == ["task 3", "task 4", "task 5"]
    assert found.x_label.startswith("the last 3") and "after 5 annotations" in found.summary


def test_a_number_takes_its_noun_along():
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]

"""The page's charts."""

from skylight.backend.learning.agreement import agreements, learning_curve, summary
from skylight.backend.web.page.curves import agreement_chart, counted, curve_chart
from tests.backend.web.page.test_overview import card, record


def test_the_curve_has_a_line_for_each_of_several_labels():
    cards = [
        card(1, 3, 0.4, validation={"mean_iou": 0.4, "iou": {"Pit": 0.6, "Crater": 0.2}}),
        card(2, 9, 0.5, validation={"mean_iou": 0.5, "iou": {"Pit": 0.5}}, promoted=False),
    ]
    found = curve_chart(learning_curve(map(summary, cards)))
    assert found is not None
    assert [line.name for line in found.lines] == ["Pit", "Crater", "mean of all labels"]  # the mean drawn last, on top
    assert [len(line.dots) for line in found.lines] == [2, 1, 2]
    assert len({line.colour for line in found.lines}) == 3
    assert [dot.hollow for dot in found.lines[-1].dots] == [False, True]
    assert found.summary == "mean IoU 0.40 after 3 annotations, 0.50 after 9"
    assert "kept back" in found.lines[-1].dots[1].text


def test_with_one_label_its_line_would_be_the_means():
    found = curve_chart(learning_curve([summary(card(1, 3))]))
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
    monkeypatch.setattr("skylight.backend.web.page.curves.DOTS", 3)
    found = agreement_chart(agreements([record(i, shown="skylight-1", agreement=i / 10) for i in range(1, 6)]))
    assert found is not None
    assert [dot.text.split(",")[0] for dot in found.lines[0].dots] == ["task 3", "task 4", "task 5"]
    assert found.x_label.startswith("the last 3") and "after 5 annotations" in found.summary


def test_a_number_takes_its_noun_along():
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]

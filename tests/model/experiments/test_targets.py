"""The goals as rows."""

import csv
import json
import sys
from pathlib import Path

import pytest

from skylight.model.experiments.report import PlotError
from skylight.model.experiments.results_csv import Row
from skylight.model.experiments.targets import effort_figures, figures, lead_figures, leads, time_figures, write
from tests.support.bright_pictures import row


def contest(pack: str, ours: tuple[float, float], theirs: tuple[float, float]) -> list[Row]:
    """The decoder and a forest after 2 and 10 images, and a U-Net that only wins after 50."""
    rows = [row(pack, "decoder", n, iou) for n, iou in zip((2, 10), ours, strict=True)]
    rows += [row(pack, "forest", n, iou) for n, iou in zip((2, 10), theirs, strict=True)]
    rows += [row(pack, "threshold", n, 0.1) for n in (2, 10)] + [row(pack, "decoder_true", n, 0.99) for n in (2, 10)]
    return [*rows, row(pack, "decoder", 50, 0.5), row(pack, "unet", 50, 0.9)]


def test_the_lead_is_over_the_best_alternative_where_it_is_least() -> None:
    assert leads(contest("a", (0.6, 0.8), (0.5, 0.75))) == {"a": pytest.approx(0.05)}
    assert leads(contest("a", (0.6, 0.7), (0.5, 0.75))) == {"a": pytest.approx(-0.05)}


def test_it_must_lead_in_three_packs_of_four() -> None:
    win, lose = ((0.6, 0.8), (0.5, 0.7)), ((0.6, 0.8), (0.5, 0.9))
    for losses, ok in ((1, True), (2, False)):
        rows = [each for k in range(4) for each in contest(f"p{k}", *(lose if k < losses else win))]
        *single, overall = lead_figures(rows)
        assert [bool(each["ok"]) for each in single] == [k >= losses for k in range(4)]
        assert (overall["measured"], overall["goal"], overall["ok"]) == (4 - losses, ">= 3 of 4", ok)


def test_without_alternatives_there_is_no_lead_to_tell() -> None:
    assert lead_figures([row("a", "decoder", 5, 0.5)]) == []
    assert time_figures([row("a", "decoder", 5, 0.5)]) == []


def test_training_may_take_a_fifth_of_the_fine_tuned_network_s_time() -> None:
    for ours, ratio, ok in ((2.0, 0.2, True), (3.0, 0.3, False)):
        rows = [row("a", "decoder", 5, 0.5, train_seconds=ours), row("a", "unet_imagenet", 5, 0.5, train_seconds=10.0)]
        (found,) = time_figures([*rows, row("a", "decoder", 50, 0.5, train_seconds=1000.0)])
        assert (found["measured"], found["ok"]) == (ratio, ok)


def test_effort_saved_is_judged_after_20_images() -> None:
    given = {"hand_seconds": 100.0, "sam_seconds": 40.0}
    rows = [row("a", "decoder", n, 0.5, preannotated_seconds=s, **given) for n, s in ((5, 30.0), (20, 10.0))]
    found = effort_figures(rows)
    assert [each["measured"] for each in found] == [100, 40, 30, 10, 0.75]
    assert [each["ok"] for each in found] == [None] * 4 + [True]
    assert effort_figures([row("a", "decoder", 20, 0.5)]) == []


def test_everything_is_written_even_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    rows = contest("a", (0.6, 0.8), (0.5, 0.75))
    with pytest.raises(PlotError):
        write(rows, tmp_path / "out", tmp_path / "build" / "simulate.json")
    told = json.loads((tmp_path / "build" / "simulate.json").read_text())
    assert told == figures(rows)
    assert {tuple(each) for each in told} == {("what", "measured", "unit", "goal", "ok", "command")}
    with (tmp_path / "out" / "curves.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 10

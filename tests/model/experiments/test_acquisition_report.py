"""How many images an order saves."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from skylight.model.experiments import acquisition_report
from skylight.model.experiments.acquisition_report import compare, curves, price, report
from skylight.model.experiments.results_csv import Results, Row
from tests.support.bright_pictures import row


def measured(order: str, seed: int, *points: tuple[int, float], pack: str = "a") -> list[Row]:
    """The rows of one curve."""
    return [replace(row(pack, "decoder", size, iou, seed=seed), order=order) for size, iou in points]


ROWS = [
    *measured("random", 0, (2, 0.2), (4, 0.4), (8, 0.8)),
    *measured("random", 1, (2, 0.2), (4, 0.2), (8, 0.8)),
    *measured("uncertainty", 0, (2, 0.2), (4, 0.76), (8, 0.8)),
    *measured("uncertainty", 1, (2, 0.2), (4, 0.5), (8, 0.9)),
]


@pytest.mark.parametrize(("target", "images"), [(0.1, 2), (0.4, 4), (0.6, 6), (0.8, 8), (0.9, 8)])
def test_the_price_is_where_the_curve_first_gets_there(target: float, images: float) -> None:
    assert price([(2, 0.2), (4, 0.4), (8, 0.8)], target) == pytest.approx(images)


def test_a_curve_that_falls_again_has_been_there() -> None:
    assert price([(2, 0.2), (4, 0.6), (8, 0.5)], 0.4) == pytest.approx(3)


def test_there_is_a_curve_for_each_seed_of_the_decoder_alone() -> None:
    others = [row("a", "unet", 2, 0.9), row("b", "decoder", 2, 0.9)]
    assert curves([*reversed(ROWS), *others], "a", "random") == {
        "0": [(2, 0.2), (4, 0.4), (8, 0.8)],
        "1": [(2, 0.2), (4, 0.2), (8, 0.8)],
    }


def test_an_order_is_compared_seed_by_seed_with_chance() -> None:
    found = compare(ROWS, "a", "uncertainty")
    assert found is not None
    target, prices, fewer, better = found
    assert target == pytest.approx(0.76)
    assert prices.tolist() == pytest.approx([4, 6.6])
    assert fewer.mean == pytest.approx(((4 - 7.6) + (6.6 - (4 + 4 * 0.56 / 0.6))) / 2)
    assert better.mean == pytest.approx((0.36 + 0.4) / 3 / 2)
    assert compare(ROWS, "a", "diversity") is None and compare(ROWS[6:], "a", "uncertainty") is None


def test_the_table_says_what_helped_and_what_did_not() -> None:
    worse = measured("diversity", 0, (2, 0.1), (4, 0.2), (8, 0.3)) + measured("diversity", 1, (2, 0), (4, 0), (8, 0))
    text, figures = report([*ROWS, *worse], "the command")
    _, random, uncertainty, diversity = (line.split() for line in text.splitlines())
    assert random[:4] == ["a", "random", "0.760", "7.7"] and len(random) == 6
    assert uncertainty[:4] == ["a", "uncertainty", "0.760", "5.3"]
    assert [(each["goal"], each["ok"]) for each in figures] == [("", None), ("< 7.7", True), ("< 7.7", False)]
    assert diversity[3] == "8.0" and figures[2]["command"] == "the command"


def test_the_command_reads_results_and_writes_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, rows in (("one.csv", ROWS[:5]), ("two.csv", ROWS[5:])):
        results = Results(tmp_path / name)
        for each in rows:
            results.add(each)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["order_report", "one.csv", "two.csv"])
    acquisition_report.main()
    assert "uncertainty" in capsys.readouterr().out
    (_, found) = json.loads((tmp_path / "build" / "orders.json").read_text())
    assert found["ok"] and found["command"] == "python -m skylight.model.experiments.acquisition_report one.csv two.csv"
    for wrong in ([], ["three.csv"]):
        monkeypatch.setattr(sys, "argv", ["order_report", *wrong])
        with pytest.raises(SystemExit, match="usage"):
            acquisition_report.main()


def test_a_run_that_ended_early_is_compared_as_far_as_it_came() -> None:
    short = [each for each in ROWS if (each.order, each.seed, each.annotations) != ("uncertainty", 1, 8)]
    found = compare(short, "a", "uncertainty")
    assert found is not None
    target, prices, _, _ = found
    assert target == pytest.approx(0.95 * 0.3)
    assert prices.max() <= 4
    assert compare([*ROWS[:6], *measured("uncertainty", 0, (16, 0.9))], "a", "uncertainty") is None

"""Tables and curves of results."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skylight.model.experiments.report import PlotError, curves, effort_table, plot, report, spread, table
from tests.support.bright_pictures import row

ROWS = [
    row("a", "decoder", 1, 0.4),
    row("a", "decoder", 1, 0.6, seed=1),
    row("a", "decoder", 5, 0.7),
    row("a", "unet", 1, 0.3),
    row("b", "decoder", 1, 0.9),
    row("b", "unet", 1, 0.1),
]


def test_spread_is_the_mean_and_the_sample_s_standard_deviation() -> None:
    assert spread(ROWS[:2], lambda row: row.iou) == pytest.approx((0.5, 0.2 / 2**0.5))
    assert spread(ROWS[:1], lambda row: row.iou) == (0.4, 0)
    assert spread(ROWS, lambda row: row.ap50) is None


def test_the_table_has_a_row_per_method_and_a_column_per_number_of_images() -> None:
    lines = table(ROWS, "IoU", lambda row: row.iou).splitlines()
    assert lines[0] == "a: IoU" and lines[1].split() == ["images", "1", "5"]
    assert lines[2].split() == ["decoder", "0.50", "±0.14", "0.70", "±0.00"]
    assert lines[3].split() == ["unet", "0.30", "±0.00", "-"]


def test_what_a_pack_has_too_few_images_for_is_a_dash_in_every_table_and_said_below() -> None:
    lines = table(ROWS, "IoU", lambda row: row.iou, asked=(1, 50)).split("b: IoU")[1].splitlines()
    assert lines[1].split() == ["images", "1", "5", "50"]
    assert lines[2].split() == ["decoder", "0.90", "±0.00", "-", "-"]
    text = report(ROWS, (1, 5, 50), ["b has 1 images to annotate; 5, 50 left out"])
    heads = [line.split()[1:] for line in text.splitlines() if line.split()[:1] == ["images"]]
    assert heads and all(head == ["1", "5", "50"] for head in heads)
    assert text.endswith("\n\nb has 1 images to annotate; 5, 50 left out")


def test_the_mean_of_packs_is_over_all_packs_or_not_at_all() -> None:
    lines = table(ROWS, "IoU", lambda row: row.iou).split("mean of packs: IoU")[1].splitlines()
    assert lines[2].split()[:2] == ["decoder", "0.70"] and lines[2].split()[-1] == "-"
    assert lines[3].split()[:2] == ["unet", "0.20"]
    assert "mean of packs" not in table(ROWS[:4], "IoU", lambda row: row.iou)


def test_measures_that_nothing_has_are_left_out() -> None:
    assert table(ROWS, "AP50", lambda row: row.ap50) == ""
    text = report(ROWS)
    assert "IoU" in text and "seconds of training" in text and "AP50" not in text and "annotator" not in text


def test_effort_is_told_in_the_three_ways() -> None:
    given = {"hand_seconds": 100.0, "sam_seconds": 40.0}
    rows = [row("a", "decoder", n, 0.5, preannotated_seconds=s, **given) for n, s in ((5, 30.0), (20, 10.0))]
    lines = effort_table(rows).splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == ["100.0", "40.0"]
    assert len(lines) == 5 and "after 20" in lines[4] and "10.0" in lines[4] and "(75 % less than SAM)" in lines[4]
    settled = effort_table([row("a", "decoder", 5, 0.5, preannotated_seconds=30.0, settled_seconds=22.0, **given)])
    assert "only what clicks would better" in settled and "22.0" in settled.splitlines()[-1]


def test_curves_have_mean_and_deviation() -> None:
    lines = curves(ROWS)
    assert len(lines) == 5
    assert (lines[0]["seeds"], lines[0]["iou_mean"]) == (2, "0.5") and float(str(lines[0]["iou_std"])) > 0.14
    assert lines[0]["pq_mean"] == ""


def test_the_plot_is_a_picture_with_a_panel_per_pack(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `simulate` is not installed")
    for rows, name in ((ROWS, "two"), (ROWS[:4], "one")):
        plot(rows, tmp_path / "new" / f"{name}.png")
    with Image.open(tmp_path / "new" / "one.png") as one, Image.open(tmp_path / "new" / "two.png") as two:
        assert np.asarray(one.convert("L")).std() > 5
        assert two.width == 2 * one.width


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        PlotError, match=r"curves.png needs matplotlib: pip install 'label-studio-skylight\[simulate\]'"
    ):
        plot(ROWS, tmp_path / "curves.png")

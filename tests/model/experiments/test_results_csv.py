"""The CSV file of results."""

from pathlib import Path

import pytest

from skylight.model.experiments.results_csv import COLUMNS, Results, ResultsError, to_csv
from tests.support.bright_pictures import row


def test_rows_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [row("a, b", "decoder", 5, 0.75, ap50=0.5, hand_seconds=12.5), row("c", "unet", 1, 1.0, clicks=None)]
    results = Results(tmp_path / "deep" / "results.csv")
    for each in rows:
        results.add(each)
    assert Results(results.path).rows == rows
    assert results.path.read_text().startswith(",".join(COLUMNS) + "\n")


def test_a_torn_last_line_is_dropped_and_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    results = Results(path)
    for size in (1, 2):
        results.add(row("p", "decoder", size, 0.5))
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    again = Results(path)
    assert [each.annotations for each in again.rows] == [1]
    again.add(row("p", "decoder", 2, 0.5))
    assert path.read_bytes() == whole


@pytest.mark.parametrize("kept", [0, 10])
def test_a_torn_header_is_a_new_file(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "results.csv"
    path.write_text(",".join(COLUMNS)[:kept])
    assert Results(path).rows == []
    assert path.read_text() == ",".join(COLUMNS) + "\n"


def test_a_row_is_found_by_what_it_is_about(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.csv")
    results.add(row("p", "decoder", 1, 0.5))
    assert results.find(row("p", "decoder", 1, 0.9).key) == results.rows[0]
    for other in (row("q", "decoder", 1, 0.5), row("p", "unet", 1, 0.5), row("p", "decoder", 1, 0.5, seed=1)):
        assert results.find(other.key) is None
    for changed in ({"split": "1"}, {"recipe": "1"}):
        assert results.find(row("p", "decoder", 1, 0.5, **changed).key) is None


def test_another_table_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    older = ",".join(name for name in COLUMNS if name != "recipe")  # as they were before rows named their recipe
    for text in ("a,b\n1,2\n", f"{older}\n"):
        path.write_text(text)
        with pytest.raises(ResultsError, match="other columns.*give another --out or move it away"):
            Results(path)
        assert path.read_text() == text


def test_no_rows_are_an_empty_text() -> None:
    assert to_csv([]).strip() == ""

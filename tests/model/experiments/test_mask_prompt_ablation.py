"""The experiment with the earlier logits, on a SAM that does better with them by construction."""

import json
from typing import Any

import numpy as np
import pytest

from skylight.model.experiments import mask_prompt_ablation
from skylight.model.experiments.mask_prompt_ablation import Clicks, clicks_needed, measure, report, summary
from skylight.model.experiments.prompt_benchmark import ENOUGH, MOST_CLICKS
from skylight.model.sam.types import Embedding, Prompt, Segmentation
from tests.support.planted_embeddings import Planted

TRUTH = np.zeros((40, 40), bool)
TRUTH[10:30, 10:30] = True


class Learner(Planted):
    """Its mask is the object's upper rows: one for each click; with the last answer given, one more than that had."""

    def __init__(self, step: int = 4) -> None:
        self.step = step
        self.given: list[bool] = []

    def segment(self, embedding: Embedding, prompt: Prompt, logits: Any = None, candidates: int = 3) -> Segmentation:
        self.given.append(logits is not None)
        rows = len(prompt.points) * self.step if logits is None else int(logits[0, 0]) + 2 * self.step
        mask = np.zeros((1, 40, 40), bool)
        mask[0, 10 : 10 + min(rows, 20), 10:30] = True
        return Segmentation(mask, np.ones(1, np.float32), np.full((1, 32, 32), rows, np.float32))


EMBEDDING = Planted().embed(np.zeros((40, 40, 3), np.uint8))


def test_clicks_are_counted_to_the_iou_that_is_enough() -> None:
    assert ENOUGH == 0.85
    assert clicks_needed(Learner(), EMBEDDING, TRUTH, False) == 5  # 4, 8, 12, 16 of 20 rows are not enough
    assert clicks_needed(Learner(), EMBEDDING, TRUTH, True) == 3  # 4, 12, 20


def test_the_last_answer_is_handed_back_only_if_asked_for() -> None:
    for refine, given in ((False, [False] * 5), (True, [False, True, True])):
        learner = Learner()
        clicks_needed(learner, EMBEDDING, TRUTH, refine)  # type: ignore[arg-type]
        assert learner.given == given


def test_an_object_that_ten_clicks_do_not_reach_is_a_failure() -> None:
    learner = Learner(step=1)
    assert clicks_needed(learner, EMBEDDING, TRUTH, False) is None  # type: ignore[arg-type]
    assert len(learner.given) == MOST_CLICKS


def test_the_summary_is_of_pairs_and_failures_count_as_ten() -> None:
    found = summary([Clicks(5, 3), Clicks(4, 4), Clicks(None, 6)])
    np.testing.assert_allclose(found, [19 / 3, 13 / 3, 2, 2 / np.sqrt(3), 1 / 3, 0])
    np.testing.assert_allclose(summary([Clicks(1, 1)]), [1, 1, 0, 0, 0, 0])


def test_the_report_has_a_row_for_each_pack_and_their_mean(capsys: pytest.CaptureFixture[str]) -> None:
    rows = report({"a": [Clicks(5, 3)], "b": [Clicks(3, 3)], "procedural pits": [Clicks(1, 1)], "empty": []})
    measured = {row["what"]: row["measured"] for row in rows}
    assert measured["NoC@85, mean over packs: without"] == 4 and measured["NoC@85, mean over packs: refined"] == 3
    assert len(rows) == 8
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_each_object_is_clicked_on_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    shown = [("pack", image, [TRUTH] * 9), ("pack", image, [np.ones((40, 40), bool)])]  # the last is background
    monkeypatch.setattr(mask_prompt_ablation, "benchmark_objects", lambda *_: iter(shown))
    assert measure(Learner(), None, 1) == {"pack": [Clicks(5, 3)] * 4}  # type: ignore[arg-type]


def test_the_command_writes_its_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mask_prompt_ablation.loading, "load", lambda *_: None)
    monkeypatch.setattr(mask_prompt_ablation, "measure", lambda *_: {"pack": [Clicks(2, 1)]})
    mask_prompt_ablation.main(["--limit", "3"])
    rows = json.loads((tmp_path / "build" / "refinement.json").read_text())
    assert rows[0]["command"] == "python -m skylight.model.experiments refinement --limit 3"
    assert [row["measured"] for row in rows] == [2, 1]

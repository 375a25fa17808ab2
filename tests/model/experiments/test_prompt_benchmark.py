"""The table of how well a SAM follows prompts."""

import json
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from skylight.model.datasets.packs import images
from skylight.model.datasets.synthetic_scenes import scene
from skylight.model.evaluation.metrics import iou
from skylight.model.evaluation.simulated_clicks import correction_click
from skylight.model.experiments import prompt_benchmark
from skylight.model.experiments.prompt_benchmark import (
    HEADINGS,
    MOST_CLICKS,
    PROCEDURAL,
    PromptScores,
    benchmark_objects,
    main,
    measure,
    prompt_scores,
    report,
)
from skylight.model.sam import loading
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Embedding, Prompt, Segmentation


def add_pack(folder: Path, name: str = "pits", count: int = 10) -> None:
    """A made-up pack of scenes' pits; images 8 and 9 are held out."""
    for part in ("images", "masks"):
        (folder / name / part).mkdir(parents=True)
    for i in range(count):
        drawn = scene(i, 128)
        Image.fromarray(drawn.image).save(folder / name / "images" / f"{i}.png")
        Image.fromarray(drawn.truth().astype(np.uint8)).save(folder / name / "masks" / f"{i}.png")
    (folder / name / "meta.json").write_text(json.dumps({"images": [{"stem": str(i)} for i in range(count)]}))


def test_only_held_out_images_and_few_of_each_pack_are_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_benchmark, "SCENES", 0)
    add_pack(tmp_path)
    held_out = [item.read() for item in images(tmp_path) if item.held_out]
    assert 1 < len(held_out) < 10
    asked = list(benchmark_objects(tmp_path, limit=len(held_out)))
    assert [pack for pack, *_ in asked] == ["pits"] * len(held_out)
    for (_, image, objects), (picture, instances) in zip(asked, held_out, strict=True):
        assert np.array_equal(image, picture) and np.array_equal(objects[0], instances == 1)
    assert len(list(benchmark_objects(tmp_path, limit=1))) == 1


def test_all_images_of_named_packs_and_no_scenes_are_asked_about_when_told_to(tmp_path: Path) -> None:
    add_pack(tmp_path, "pits", count=4)
    add_pack(tmp_path, "rocks", count=3)
    assert [pack for pack, *_ in benchmark_objects(tmp_path, 9, ("rocks",), every=True)] == ["rocks"] * 3
    assert [pack for pack, *_ in benchmark_objects(tmp_path, 2, ("pits", "rocks"), every=True)] == ["pits"] * 2 + [
        "rocks"
    ] * 2


def test_without_packs_there_are_scenes_of_pits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_benchmark, "SCENES", 2)
    asked = list(benchmark_objects(None, limit=1))
    assert [pack for pack, *_ in asked] == [PROCEDURAL] * 2
    for _, image, objects in asked:
        assert image.shape == (512, 512, 3) and len(objects) == sum(mask.any() for mask in objects) > 0


class Learner:
    """A SAM whose answer to n clicks holds the first of the object's pixels, in shares that are given."""

    def __init__(self, truth: NDArray[np.bool_], shares: list[float]) -> None:
        self.truth, self.shares = truth, shares
        self.asked: list[tuple[Prompt, NDArray[np.float32] | None]] = []

    def segment(
        self, embedding: Embedding, prompt: Prompt, logits: NDArray[np.float32] | None = None, candidates: int = 3
    ) -> Segmentation:
        self.asked.append((prompt, logits))
        first, second = self.part(self.shares[max(len(prompt.points), 1) - 1]), self.part(0.95)
        number = np.full((2, 4, 4), float(len(self.asked)), np.float32)
        return Segmentation(np.stack([first, second]), np.array([0.9, 0.1], np.float32), number)

    def part(self, share: float) -> NDArray[np.bool_]:
        mask = np.zeros(self.truth.size, bool)
        places = np.flatnonzero(self.truth)
        mask[places[: round(share * len(places))]] = True
        return mask.reshape(self.truth.shape)


TRUTH = np.zeros((40, 60), bool)
TRUTH[10:30, 20:40] = True
NOTHING = Embedding(np.zeros((256, 1, 1), np.float16), TRUTH.shape, np.zeros((4, 4, 3), np.uint8))


class Blind(Learner):
    """One that does not look at the picture."""

    def embed(self, image: NDArray[np.uint8]) -> Embedding:
        return NOTHING


def scores_of(*shares: float) -> tuple[PromptScores, Learner]:
    learner = Learner(TRUTH, list(shares))
    return prompt_scores(learner, NOTHING, TRUTH), learner  # type: ignore[arg-type]


def test_an_object_s_scores_are_the_best_so_far_of_the_mask_that_is_trusted_most() -> None:
    found, learner = scores_of(0.5, 0.4, 0.7, 0.6, 0.9)
    assert (found.centre, found.best) == (0.5, 0.95)
    assert (found.two, found.three, found.four) == (0.5, 0.7, 0.7)
    assert found.noc == 5 and found.anywhere == found.box == 0.5
    assert [len(prompt.points) for prompt, _ in learner.asked] == [1, 2, 3, 4, 5, 1, 0]


def test_each_click_is_where_the_answer_before_was_wrong_and_its_logits_go_back_in() -> None:
    _, learner = scores_of(0.5, 0.6, 0.7, 0.9)
    (first, none), *more = learner.asked[:4]
    assert none is None and first.points.tolist() == [[29, 19]] and first.positive.tolist() == [True]
    for n, (prompt, logits) in enumerate(more, 1):
        click = correction_click(learner.part(learner.shares[n - 1]), TRUTH, np.random.default_rng(0))
        assert click is not None and prompt.points[-1].tolist() == list(click[:2]) and prompt.positive[-1]
        assert logits is not None and (logits == n).all()


def test_clicks_are_counted_to_85_percent_four_are_made_and_ten_are_most() -> None:
    early, learner = scores_of(0.9, 0.91, 0.92, 0.93)
    assert early.noc == 1 and early.four == 0.93 and len(learner.asked) == 4 + 2
    never, learner = scores_of(*[0.8] * 20)
    assert never.noc == MOST_CLICKS == 10 and len(learner.asked) == 10 + 2


def test_a_right_answer_needs_no_more_clicks() -> None:
    found, learner = scores_of(1.0)
    assert found == PromptScores(1, 1, 1, 1, 1, 1, 1, 1) and len(learner.asked) == 1 + 2


def test_the_tiny_sam_s_scores_of_a_pit_are_fair(segmenter: Segmenter) -> None:
    drawn = scene(6)
    pit = max((item.mask for item in drawn.objects if item.kind == "pit"), key=np.count_nonzero)
    found = prompt_scores(segmenter, segmenter.embed(drawn.image), pit)
    assert 0.3 < found.centre <= min(found.best, found.two) <= found.two <= found.three <= found.four < 1
    assert 0.3 < found.anywhere < 1 and 0.3 < found.box < 1 and 1 <= found.noc <= 10


def test_few_objects_of_an_image_and_none_too_small_or_large_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(*heights: int) -> list[NDArray[np.bool_]]:
        return [np.arange(40)[:, None] + np.zeros(60) < height for height in heights]

    def measured(objects: list[NDArray[np.bool_]]) -> list[int]:
        seen: list[int] = []
        monkeypatch.setattr(
            prompt_benchmark, "benchmark_objects", lambda *_: iter([("pits", np.zeros((40, 60, 3), np.uint8), objects)])
        )
        monkeypatch.setattr(
            prompt_benchmark, "prompt_scores", lambda sam, embedding, mask: seen.append(int(mask.sum()) // 60)
        )
        assert len(measure(Blind(TRUTH, []), None, 9)["pits"]) == len(seen)  # type: ignore[arg-type]
        return seen

    assert measured(rows(1, 34, 35)) == [1, 34]  # 60 px; 85 %; more than that
    assert measured([np.zeros((40, 60), bool), TRUTH]) == [6]
    assert measured(rows(*range(1, 13))) == [1, 4, 7, 10]


def scores(value: float) -> PromptScores:
    return PromptScores(*[value] * 6, noc=10 * value, box=value)


def test_the_table_has_a_row_of_means_for_each_pack_and_one_over_real_packs(capsys: pytest.CaptureFixture[str]) -> None:
    table = {"pits": [scores(0.2), scores(0.4)], "rocks": [scores(0.7)], PROCEDURAL: [scores(1.0)], "none": []}
    rows = {str(row["what"]): (row["measured"], row["unit"]) for row in report("held out", table)}
    assert rows["held out, pits: centre"] == (0.3, "IoU") and rows["held out, rocks: noc"] == (7.0, "clicks")
    assert rows["held out, mean over packs: box"] == (0.5, "IoU")
    assert len(rows) == 4 * len(HEADINGS) == 4 * len(astuple(scores(0)))
    _, head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("held out") and all(name in head for name in HEADINGS)
    assert [line.split()[:2] for line in lines[:2]] == [["pits", "2"], ["rocks", "1"]]
    assert lines[3].split() == ["mean", "over", "packs", *["0.500"] * 6, "5.000", "0.500"]


def test_one_pack_has_no_mean_over_packs() -> None:
    table = {"pits": [scores(0.2)], PROCEDURAL: [scores(1.0)]}
    assert not [row for row in report("held out", table) if "mean" in str(row["what"])]


Loads = list[tuple[str, Path | None]]


@pytest.fixture
def loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loads:
    """The weights that were loaded by a run in a folder with two packs, where every object's scores are 0.5."""
    seen: Loads = []

    def load(name: str, checkpoint: Path | None = None) -> Blind:
        seen.append((name, checkpoint))
        return Blind(TRUTH, [])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prompt_benchmark, "SCENES", 1)
    monkeypatch.setattr(prompt_benchmark, "prompt_scores", lambda *_: scores(0.5))
    monkeypatch.setattr(loading, "load", load)
    add_pack(tmp_path / "packs")
    add_pack(tmp_path / "packs", "rocks", count=2)
    return seen


def written() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(Path("build/prompts.json").read_text())
    return rows


def test_a_run_writes_rows_that_name_their_command(loads: Loads) -> None:
    main(["--data", "packs", "--checkpoint", "my.safetensors"])
    rows = written()
    packs = dict.fromkeys(str(row["what"]).split(": ")[0] for row in rows)
    assert list(packs) == ["held-out images, pits", f"held-out images, {PROCEDURAL}"]  # no rock is held out
    assert len(rows) == 2 * len(HEADINGS) and loads == [("tiny", Path("my.safetensors"))]
    assert {row["command"] for row in rows} == {
        "python -m skylight.model.experiments prompts --data packs --checkpoint my.safetensors"
    }
    assert {(row["measured"], row["unit"]) for row in rows} == {(0.5, "IoU"), (5.0, "clicks")}


def test_weights_that_never_saw_a_pack_are_measured_on_all_of_it(
    loads: Loads, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--data", "packs", "--limit", "4", "--left-out", "a", "pits", "--left-out", "b", "rocks"])
    assert loads == [("tiny", None), ("tiny", Path("a")), ("tiny", Path("b"))]
    packs = [str(row["what"]).split(": ")[0] for row in written()]
    assert list(dict.fromkeys(packs))[2:] == [
        "packs never seen, pits",
        "packs never seen, rocks",
        "packs never seen, mean over packs",
    ]
    second = capsys.readouterr().out.split("packs never seen")[1]
    assert [line.split()[:2] for line in second.splitlines()[1:3]] == [["pits", "4"], ["rocks", "2"]]  # a pit each


def test_the_stand_in_answers_as_it_says() -> None:
    assert [iou(Learner(TRUTH, []).part(share), TRUTH) for share in (0.5, 0.95, 1.0)] == [0.5, 0.95, 1.0]

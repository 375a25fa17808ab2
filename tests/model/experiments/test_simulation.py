"""The experiment, with a quick stand-in for a SAM and for training; and its command, with the bundled one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from skylight.backend.cli import main
from skylight.backend.errors import Unavailable
from skylight.model.decoder.training import TrainConfig
from skylight.model.experiments import simulation, splits
from skylight.model.experiments.baselines import registry
from skylight.model.experiments.results_csv import METHODS, OTHERS, Results, Row
from skylight.model.experiments.simulation import Options, SimulateError, run
from skylight.model.sam import loading
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.types import Segmentation
from tests.support.bright_pictures import Bright, add_pack

QUICK = TrainConfig(steps=2, batch=2)


@pytest.fixture
def options(tmp_path: Path) -> Callable[..., Options]:
    """Options for a pack of ten squares, with changes."""
    add_pack(tmp_path / "data", "squares", 10)

    def change(**changes: Any) -> Options:
        asked = {"methods": ("threshold",), "annotations": (1, 2), "seeds": 1, "test_images": 3, **changes}
        return Options(tmp_path / "out", tmp_path / "data", ("squares",), every=True, recipe=QUICK, **asked)

    return change


def same(a: list[Row], b: list[Row]) -> bool:
    """Whether rows agree to the digits that a file keeps."""
    return [(x.key, f"{x.iou:.6g}", f"{x.train_seconds:.6g}") for x in a] == [
        (x.key, f"{x.iou:.6g}", f"{x.train_seconds:.6g}") for x in b
    ]


def test_every_method_is_measured_on_every_number_of_images_and_seed(options: Callable[..., Options]) -> None:
    asked = options(methods=("decoder_true", "threshold"), seeds=2, annotations=(2, 1))
    heard: list[tuple[int, int, str]] = []
    rows = run(asked, Bright(), lambda *news: heard.append(news))  # type: ignore[arg-type]
    found = [(row.seed, row.annotations, row.method) for row in rows]
    assert found == [(seed, size, method) for seed in (0, 1) for size in (1, 2) for method in asked.methods]
    assert all(row.pack == "squares" and row.test_images == 3 and row.sam == "bright-1" for row in rows)
    assert all(0 <= row.iou <= 1 and 0 <= row.boundary_f <= 1 and row.train_seconds > 0 for row in rows)
    assert [row.objects for row in rows] == [1, 1, 2, 2] * 2
    assert all(row.clicks == 1 and row.prompt_iou == 1 for row in rows)
    assert heard[0][:2] == (0, 8) and heard[-1][:2] == (8, 8)
    assert "squares, 1 images, seed 0: decoder_true" in heard[0][2]
    assert min(row.iou for row in rows if row.method == "threshold") > 0.9


def test_instances_and_effort_are_the_decoder_s(options: Callable[..., Options]) -> None:
    decoder, true, other = run(options(methods=("decoder", "decoder_true", "probe"), annotations=(1,)), Bright())
    assert decoder.ap50 is not None and true.pq is not None and other.ap50 is None
    assert decoder.hand_seconds and decoder.sam_seconds and decoder.preannotated_seconds
    assert decoder.sam_seconds < decoder.hand_seconds
    assert decoder.settled_seconds and decoder.settled_seconds <= decoder.preannotated_seconds
    assert true.sam_seconds is None and other.preannotated_seconds is None
    assert decoder.ece is not None and 0 <= decoder.ece <= 1 and true.ece is not None and other.ece is None
    assert decoder.parts_pq is not None and other.parts_pq is None and decoder.refined_pq is None
    (without,) = run(options(methods=("decoder",), annotations=(2,), effort=False), Bright())
    assert without.sam_seconds is None and without.pq is not None


def test_a_run_goes_on_where_it_ended(options: Callable[..., Options], monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(options(), Bright())
    path = options().out / "results.csv"
    path.write_bytes(path.read_bytes()[:-5])  # torn
    measured: list[tuple[str, int]] = []
    measure = simulation.PackExperiment.measure
    monkeypatch.setattr(
        simulation.PackExperiment,
        "measure",
        lambda self, *given: measured.append((given[0], len(given[1]))) or measure(self, *given),
    )
    segmenter = Bright()
    again = run(options(annotations=(1, 2, 3)), segmenter)
    assert measured == [("threshold", 2), ("threshold", 3)]
    assert same(again[:1], first[:1]) and same(Results(path).rows, again)
    assert segmenter.embedded == segmenter.prompted == 1  # the third image; the others are on disk
    measured.clear()
    assert same(run(options(annotations=(1, 2, 3)), Bright()), again) and not measured


def test_methods_learn_from_the_very_same_images_and_masks(
    options: Callable[..., Options], monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: dict[str, list[bytes]] = {}
    train = simulation.train

    def watch(training: Any, *given: Any) -> Any:
        learned.setdefault("decoder", []).extend(sample.label_map.tobytes() for sample in training)
        return train(training, *given)

    from skylight.model.experiments.baselines.registry import BASELINES

    threshold = type(BASELINES["threshold"]())
    fit = threshold.fit

    def watch_fit(self: Any, examples: Any, labels: int, seed: int) -> None:
        learned.setdefault("threshold", []).extend(example.label_map.tobytes() for example in examples)
        fit(self, examples, labels, seed)

    monkeypatch.setattr(simulation, "train", watch)
    monkeypatch.setattr(threshold, "fit", watch_fit)
    run(options(methods=("decoder", "threshold"), annotations=(1, 3)), Bright())
    assert learned["decoder"] == learned["threshold"] and len(learned["decoder"]) == 4
    assert learned["decoder"][0] == learned["decoder"][1]  # the one image is the first of the three


def test_the_true_decoder_learns_the_truth_and_the_other_what_sam_made_of_it(options: Callable[..., Options]) -> None:
    (pool,) = splits.pools(options().data, ("squares",), 3, every=True)
    bench = simulation.PackExperiment(pool, options(), Bright())
    source = pool.annotate[0]
    truth = source.read()[1]
    blurred = Bright.segment

    class Sloppy(Bright):
        def segment(self, *given: Any, **more: Any) -> Segmentation:
            answer = blurred(self, *given, **more)
            return Segmentation(np.roll(answer.masks, 1, axis=2), answer.scores, answer.logits)

    bench.segmenter = Sloppy()
    made, true = bench._sample("decoder", source), bench._sample("decoder_true", source)
    assert np.array_equal(true.label_map, truth) and np.array_equal(true.instances, truth)
    assert np.array_equal(made.label_map, np.roll(truth, 1, axis=1)) and np.array_equal(made.instances, made.label_map)


def test_the_doubtful_order_trains_once_for_a_size_and_is_kept(
    options: Callable[..., Options], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    train = simulation.train
    monkeypatch.setattr(
        simulation, "train", lambda samples, *more: trained.append(len(samples)) or train(samples, *more)
    )
    asked = {"order": "uncertainty", "methods": ("decoder", "decoder_true"), "annotations": (1, 2, 3)}
    rows = run(options(**asked), Bright())
    assert trained == [1, 1, 2, 2, 3, 3]  # decoder and decoder_true; the order asked for the former's
    assert {row.order for row in rows} == {"uncertainty"}
    run(options(**{**asked, "methods": ("threshold",)}), Bright())
    assert len(trained) == 6


def test_more_images_than_the_pool_has_are_left_out_and_said(options: Callable[..., Options]) -> None:
    asked = options(annotations=(50, 1, 7, 8))
    assert [row.annotations for row in run(asked, Bright())] == [1, 7]
    assert simulation.left_out(asked) == ["squares has 7 images to annotate; 8, 50 left out"]
    assert simulation.left_out(options(annotations=(1, 7))) == []
    with pytest.raises(SimulateError, match="squares has 7 images to annotate; 8 left out: nothing is left to measure"):
        run(options(annotations=(8,)), Bright())


def test_a_changed_method_is_measured_anew_and_the_others_are_not(
    options: Callable[..., Options], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    measure = simulation.PackExperiment.measure
    monkeypatch.setattr(
        simulation.PackExperiment, "measure", lambda self, *given: measured.append(given[0]) or measure(self, *given)
    )
    asked = options(methods=("decoder", "threshold"), annotations=(1,))
    first = run(asked, Bright())
    longer = replace(asked, recipe=replace(QUICK, steps=3))
    rows = run(longer, Bright())
    assert measured == ["decoder", "threshold", "decoder"]
    assert rows[0].recipe != first[0].recipe and same(rows[1:], first[1:])
    assert same(run(asked, Bright()), first) and len(measured) == 3  # the older rows were kept
    monkeypatch.setattr(registry, "SMOOTHING", 3.0)
    run(asked, Bright())
    assert measured[3:] == ["threshold"]


def test_where_the_decoder_chooses_the_images_all_depend_on_its_recipe(options: Callable[..., Options]) -> None:
    asked = options(order="uncertainty")
    longer = replace(asked, recipe=replace(QUICK, steps=3))
    (first,), (second,) = (run(replace(each, annotations=(1,)), Bright()) for each in (asked, longer))
    assert first.recipe != second.recipe
    assert len(list((asked.out / "orders").iterdir())) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ("unet", "magic")}, "no method is called 'magic'; there are decoder"),
        ({"methods": ()}, "there are decoder"),
        ({"order": "alphabet"}, "no order is called 'alphabet'; there are random"),
        ({"annotations": (0, 1)}, "must be 1 or more"),
        ({"annotations": ()}, "must be 1 or more"),
        ({"seeds": 0}, "must be 1 or more"),
    ],
)
def test_what_cannot_be_simulated_is_refused(
    options: Callable[..., Options], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(SimulateError, match=said):
        options(**changes)


def test_a_method_whose_package_is_absent_says_what_to_install(
    options: Callable[..., Options], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sklearn.linear_model", "sklearn.dummy"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(
        SimulateError, match=r"method probe needs the package .*pip install 'label-studio-skylight\[simulate\]'"
    ):
        run(options(methods=("probe",)), Bright())


def test_the_alternatives_are_those_there_are() -> None:
    from skylight.model.experiments.baselines.registry import BASELINES

    assert set(OTHERS) == set(BASELINES) < set(METHODS)


@pytest.fixture
def skylight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs `skylight simulate` in a folder of its own, on four procedural scenes."""
    pytest.importorskip("matplotlib", reason="the extra `simulate` is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKYLIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(splits, "SCENES", 4)
    return lambda *given: CliRunner().invoke(main.cli, ["simulate", "--out", "out", "--seeds", "1", *given])


def test_the_command_prints_tables_and_writes_rows_curves_and_a_plot(
    skylight: Callable[..., Any], segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load", lambda *_: segmenter)
    asked = ("--methods", "threshold", "--annotations", "50,2,1", "--test-images", "1")
    done = skylight(*asked)
    assert done.exit_code == 0, done.output
    assert done.output.count("procedural has 3 images to annotate; 50 left out") == 2  # before and after
    assert "procedural: IoU of the foreground" in done.output and "threshold" in done.output
    for name in ("results.csv", "curves.csv", "curves.png"):
        assert Path("out", name).stat().st_size > 100
    assert [row["what"] for row in json.loads(Path("build/simulate.json").read_text())] == [
        f"procedural: threshold after {n} images" for n in (1, 2)
    ]
    before = Path("out/results.csv").read_bytes()
    assert skylight(*asked).exit_code == 0 and Path("out/results.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--annotations", "1,x"), "'1,x' is not a list of whole numbers"),
        (("--annotations", "0"), "'0' is not a list of whole numbers"),
        (("--order", "alphabet"), "'alphabet' is not one of"),
    ],
)
def test_the_command_refuses_what_it_cannot_read(skylight: Callable[..., Any], given: Any, said: str) -> None:
    done = skylight(*given)
    assert done.exit_code == 2 and said in done.output


def test_the_command_says_in_a_line_what_it_cannot_do(skylight: Callable[..., Any]) -> None:
    done = skylight("--packs", "nonsense", "--methods", "threshold")
    assert isinstance(done.exception, Unavailable) and "no pack called nonsense" in str(done.exception)

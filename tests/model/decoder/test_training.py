"""Training a domain decoder: it learns, repeatably, only from what it may learn from, and says how well."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from skylight.model.datasets.synthetic_scenes import scene
from skylight.model.decoder import training as module
from skylight.model.decoder.crops import UNKNOWN, Batch, Sample
from skylight.model.decoder.edge_refinement import FOREGROUND_LOGIT_BIAS
from skylight.model.decoder.inference import predict, predict_pixels
from skylight.model.decoder.network import DecoderConfig, DomainDecoder, save
from skylight.model.decoder.network import load as load_decoder
from skylight.model.decoder.ranked_labels import RANKS
from skylight.model.decoder.training import (
    HeldOut,
    TrainConfig,
    Trained,
    crop_loss,
    cross_validate,
    distance_loss,
    fit,
    in_validation,
    separable,
    train,
    validate,
)
from skylight.model.masks.label_map import IGNORE
from skylight.model.sam.segmenter import Segmenter
from tests.model.decoder.test_crops import made_up, soft_targets

SHORT = TrainConfig(steps=40, batch=4, crop=0.5, centred=0.6, learning_rate=1e-2)


def config(*labels: str) -> DecoderConfig:
    return DecoderConfig(labels or ("pit",), "made-up", channels=32)


def weights(trained: Trained) -> dict[str, Tensor]:
    return trained.decoder.state_dict()


def test_the_same_samples_and_seed_give_the_same_decoder() -> None:
    samples, few = [made_up(i) for i in range(3)], TrainConfig(steps=5, batch=3, seed=1)
    one = weights(train(samples, [], config(), few))
    torch.rand(7)  # what others drew in between does not matter
    other, third = (weights(train(samples, [], config(), how)) for how in (few, TrainConfig(steps=5, batch=3, seed=2)))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[name], third[name]) for name in one)


def test_a_few_scenes_teach_it_to_find_pits_in_others(segmenter: Segmenter) -> None:
    scenes = {seed: scene(seed) for seed in range(11)}
    samples = [
        Sample(str(seed), segmenter.embed(made.image), made.truth().astype(np.uint8)) for seed, made in scenes.items()
    ]
    trained, _, _ = fit(samples[:8], config(), TrainConfig(steps=60, batch=4))
    assert validate(trained, samples[8:]).scores.mean > 0.4
    untrained, _, _ = fit(samples[:1], config(), TrainConfig(steps=2, batch=1))
    assert validate(untrained, samples[8:]).scores.mean < 0.2


def test_it_learns_several_labels_at_once() -> None:
    samples = [made_up(i, labels=3) for i in range(12)]
    decoder, _, _ = fit(samples[:8], config("pit", "crater", "boulder"), replace(SHORT, steps=100))
    scores = validate(decoder, samples[8:]).scores
    assert list(scores.per_label) == ["pit", "crater", "boulder"]
    assert min(scores.per_label.values()) > 0.6


def test_it_learns_objects_in_images_that_are_not_square() -> None:
    sizes = [(40, 80), (90, 60), (200, 100), (64, 64)]
    samples = [made_up(i, size=sizes[i % 4]) for i in range(12)]
    decoder, _, _ = fit(samples[:8], config(), SHORT)
    for sample in samples[8:]:
        assert validate(decoder, [sample]).scores.mean > 0.6, sample.embedding.size


def test_it_learns_how_deep_in_an_object_a_pixel_lies() -> None:
    samples = [made_up(i) for i in range(10)]
    decoder, _, _ = fit(samples[:8], config(), replace(SHORT, steps=150))
    for sample in samples[8:]:
        distance = predict_pixels(decoder, sample.embedding).distance
        rows, columns = np.nonzero(sample.label_map)
        y, x = rows.min(), columns.min()  # of a square of 24 px
        middle, corner = distance[y + 8 : y + 16, x + 8 : x + 16], distance[y : y + 4, x : x + 4]
        assert middle.mean() > corner.mean() + 0.3


def test_training_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        train([], [made_up(0)], config())


def test_it_stops_early_and_keeps_the_best_weights() -> None:
    """Training says background everywhere, validation says pit: from an untrained decoder on it only gets worse."""
    training = [Sample("t", made_up(0).embedding, np.zeros((64, 64), np.uint8))]
    validation = [Sample("v", made_up(1).embedding, np.ones((64, 64), np.uint8))]

    def fitted(seed: int, steps: int) -> tuple[DomainDecoder, int, float, int]:
        how = TrainConfig(steps=steps, first_steps=60, batch=2, check_every=2, patience=3, seed=seed)
        taken = [0]
        decoder, kept, held = fit(training, config(), how, validation, lambda step, _: taken.append(step))
        assert held is not None
        return decoder, kept, held.scores.mean, taken[-1]

    # Not every seed's untrained decoder calls enough pixels pits to have something to lose.
    seed = next(seed for seed in range(30) if fitted(seed, 2)[2] > 0.3)
    best, kept, score, taken = fitted(seed, 60)
    assert kept < taken == kept + 3 * 2 < 60
    assert validate(best, validation).scores.mean == score > 0.3


def test_on_the_way_it_looks_at_some_validation_images_and_at_the_end_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    real = module.validate
    monkeypatch.setattr(
        module,
        "validate",
        lambda decoder, samples, check: (looked.append(len(samples)), real(decoder, samples, check))[1],
    )
    how = TrainConfig(steps=4, batch=1, check_every=2, checked=3)
    _, _, held = fit([made_up(0)], config(), how, [made_up(i) for i in range(7)])
    assert looked == [3, 3, 7] and held is not None and held.scores.images == 7
    looked.clear()
    fit([made_up(0), made_up(1)], config(), replace(how, many=1), [made_up(i) for i in range(7)])
    assert looked == [3, 3, 7]  # of twice the steps no more often


@pytest.mark.parametrize(("images", "expected"), [(1, 7), (3, 11), (9, 20), (12, 24), (15, 30), (17, 30)])
def test_more_images_get_more_steps_up_to_a_limit(images: int, expected: int) -> None:
    how = TrainConfig(steps=20, first_steps=7, image_steps=2, many=10, longest=1.5, batch=1)
    taken = []
    _, steps, held = fit([made_up(i) for i in range(images)], config(), how, (), lambda *given: taken.append(given))
    assert taken == [(step, expected) for step in range(1, expected + 1)]
    assert steps == expected and held is None


def test_a_single_image_trains_a_decoder_that_nothing_is_known_of() -> None:
    trained = train([made_up(0)], [], config(), TrainConfig(steps=3, batch=1))
    assert trained.held is None and trained.scores is None and not trained.cross_validated
    assert trained.steps == 3 and trained.seconds > 0 and trained.decoder.config.temperature == 1


def test_with_enough_validation_images_it_learns_from_the_others_only() -> None:
    how = TrainConfig(steps=3, batch=2, check_every=30, enough=2)
    training, validation = [made_up(i) for i in range(3)], [made_up(7), made_up(8)]
    trained = train(training, validation, config(), how)
    assert not trained.cross_validated and trained.steps == 3
    assert trained.held is not None and set(trained.held.per_task) == {"task 7", "task 8"}
    assert trained.scores is trained.held.scores and trained.held.scores.images == 2
    assert same(trained.decoder, fit(training, config(), how)[0])


def test_with_fewer_it_learns_from_all_and_is_cross_validated() -> None:
    how = TrainConfig(steps=4, batch=2, enough=3)
    training, validation = [made_up(i) for i in range(3)], [made_up(7), made_up(8)]
    trained = train(training, validation, config(), how)
    assert trained.cross_validated and trained.held is not None
    assert set(trained.held.per_task) == {f"task {i}" for i in (0, 1, 2, 7, 8)} and trained.held.scores.images == 5
    assert same(trained.decoder, fit([*training, *validation], config(), how)[0])


def test_two_samples_of_one_task_are_one_validation_image() -> None:
    again = replace(made_up(8), task="task 7")
    trained = train([made_up(0)], [made_up(7), again], config(), TrainConfig(steps=2, batch=1, enough=2))
    assert trained.cross_validated


def same(one: DomainDecoder, other: DomainDecoder) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


Fits = list[tuple[set[str], set[str], TrainConfig]]


def folds_of(monkeypatch: pytest.MonkeyPatch, samples: Sequence[Sample], how: TrainConfig) -> Fits:
    """What each decoder of a cross-validation learned from, and was asked about, and how it was trained."""
    made: dict[DomainDecoder, tuple[set[str], set[str], TrainConfig]] = {}

    def fitted(
        taught: Sequence[Sample], config: DecoderConfig, how: TrainConfig, *_: object
    ) -> tuple[DomainDecoder, int]:
        decoder = DomainDecoder(config)
        made[decoder] = {sample.task for sample in taught}, set(), how
        return decoder, 1, None

    monkeypatch.setattr(module, "fit", fitted)
    monkeypatch.setattr(HeldOut, "add", lambda self, decoder, sample: made[decoder][1].add(sample.task))
    cross_validate(samples, config(), how)
    return list(made.values())


@pytest.mark.parametrize(("images", "folds"), [(2, 2), (3, 3), (7, 3)])
def test_each_image_is_asked_of_a_decoder_that_saw_all_but_its_fold(
    monkeypatch: pytest.MonkeyPatch, images: int, folds: int
) -> None:
    samples = [made_up(i) for i in range(images)]
    samples.append(replace(made_up(9), task="task 0"))  # two samples of one task are never parted
    found = folds_of(monkeypatch, samples, TrainConfig(folds=3))
    tasks = {sample.task for sample in samples}
    assert len(found) == folds and all(out and taught | out == tasks and not taught & out for taught, out, _ in found)
    assert sum(len(out) for _, out, _ in found) == images
    assert max(len(out) for _, out, _ in found) - min(len(out) for _, out, _ in found) <= 1
    backwards = folds_of(monkeypatch, samples[::-1], TrainConfig(folds=3))
    assert [out for _, out, _ in backwards] == [out for _, out, _ in found]


def test_decoders_of_a_cross_validation_get_their_share_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    how = TrainConfig(steps=100, first_steps=40, image_steps=6, fold_steps=0.5, seed=3)
    for _, _, used in folds_of(monkeypatch, [made_up(i) for i in range(3)], how):
        assert used == replace(how, steps=50, first_steps=20, image_steps=3)


def test_a_single_image_or_fold_is_no_cross_validation() -> None:
    assert cross_validate([made_up(0), made_up(0)], config(), TrainConfig()) is None
    assert cross_validate([made_up(0), made_up(1)], config(), TrainConfig(folds=1)) is None


class Overconfident(DomainDecoder):
    """Says label 1 everywhere, by 8 in the logits."""

    def forward(self, features: Tensor, picture: Tensor, detail: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logits = torch.full((1, 2, *picture.shape[2:]), -4.0)
        logits[:, 1] = 4
        return logits, logits[:, :1]


def right_in(share: float, wrong: int = 0) -> Sample:
    label_map = np.full((64, 64), wrong, np.uint8)
    label_map[: round(64 * share)] = 1
    return Sample(f"right in {share}", made_up(0).embedding, label_map)


@pytest.mark.parametrize("already", [1.0, 2.5])
def test_the_temperature_makes_probabilities_as_high_as_they_are_right(already: float) -> None:
    """Right in 7/8 of the pixels: odds of 7, of which FOREGROUND_LOGIT_BIAS is given, at any temperature."""
    held = HeldOut(("pit",))
    held.add(Overconfident(replace(config(), temperature=already)), right_in(0.75))
    held.add(Overconfident(replace(config(), temperature=already)), right_in(1.0))
    assert held.temperature() == pytest.approx(8 / (np.log(7) - FOREGROUND_LOGIT_BIAS), rel=0.03)
    assert held.ece(1.0) == pytest.approx(1 / 8, abs=0.001)
    assert held.ece(held.temperature()) < 0.01


def test_ignored_pixels_do_not_count_against_the_probabilities() -> None:
    held = HeldOut(("pit",))
    held.add(Overconfident(config()), right_in(0.75, wrong=IGNORE))
    assert held.temperature() == pytest.approx(0.5) and held.ece(1.0) < 0.001


def test_scores_are_known_by_task_and_over_all() -> None:
    held = HeldOut(("pit",))
    for share in (0.25, 0.75):
        held.add(Overconfident(config()), right_in(share))
    assert held.per_task == {"right in 0.25": 0.25, "right in 0.75": 0.75}
    assert held.scores.mean == 0.5 and held.scores.images == 2


@pytest.mark.parametrize(
    ("found", "validation", "expected"), [(1.6, 0, 1.6), (0.7, 0, 1), (1.6, 2, 1.6), (0.7, 2, 0.7)]
)
def test_a_decoder_has_its_own_temperature_and_one_of_shorter_trainings_if_that_tempers(
    monkeypatch: pytest.MonkeyPatch, found: float, validation: int, expected: float
) -> None:
    monkeypatch.setattr(HeldOut, "temperature", lambda self, leaving_out=(): found)
    others = [made_up(7 + i) for i in range(validation)]
    trained = train([made_up(0), made_up(1)], others, config(), TrainConfig(steps=2, batch=1, enough=2))
    assert trained.cross_validated == (not validation) and trained.decoder.config.temperature == expected


def labelled(pixels: dict[int, int], single: dict[int, int]) -> Sample:
    """A sample with so many pixels of each label, so many of them in single objects."""
    label_map, instances = np.zeros(4096, np.uint8), np.zeros(4096, np.uint16)
    at = 0
    for label, count in pixels.items():
        label_map[at : at + count] = label
        instances[at : at + single.get(label, 0)] = 2 * label
        instances[at : at + single.get(label, 0) // 2] = 2 * label + 1
        at += count
    return Sample("t", made_up(0).embedding, label_map.reshape(64, 64), instances.reshape(64, 64))


def test_labels_of_single_objects_that_touch_are_to_be_separated() -> None:
    labels = ("pit", "dust", "rock", "none")
    one = labelled({1: 100, 2: 100, 3: 50}, {1: 80, 2: 79, 3: 0})
    two = labelled({3: 450}, {3: 450})
    assert separable([one], labels) == ("pit",)
    assert separable([one, two], labels) == ("pit", "rock")  # 450 of 500
    assert separable([replace(one, instances=None)], labels) == ()


@pytest.mark.parametrize("scale", [1, 8])
def test_what_hardly_ever_touches_is_not_to_be_separated(scale: int) -> None:
    two = labelled({1: 450}, {1: 450})
    assert two.instances is not None
    alone = replace(two, instances=np.minimum(two.instances, 1))

    def larger(sample: Sample) -> Sample:
        assert sample.instances is not None
        maps = (each.repeat(scale, 0).repeat(scale, 1) for each in (sample.label_map, sample.instances))
        return Sample("t", sample.embedding, *maps)

    two, alone = larger(two), larger(alone)
    assert separable([alone], ["pit"]) == () and separable([two], ["pit"]) == ("pit",)
    assert separable([two, *11 * [alone]], ["pit"]) == ("pit",)  # 2 of 13
    assert separable([two, *12 * [alone]], ["pit"]) == ()


def test_a_trained_decoder_knows_what_to_separate() -> None:
    sample, few = made_up(0, labels=2), TrainConfig(steps=2, batch=1)
    only = np.where(sample.label_map == 2, 1 + np.indices(sample.label_map.shape)[1] % 2, 0).astype(np.uint16)
    assert train([replace(sample, instances=only)], [], config("pit", "rock"), few).decoder.config.separate == ("rock",)
    assert train([replace(sample, instances=None)], [], config("pit", "rock"), few).decoder.config.separate == ()


def test_the_decoder_is_ready_for_use_and_knows_what_it_is_for() -> None:
    decoder = train([made_up(0)], [], config("rock"), TrainConfig(steps=2, batch=1)).decoder
    assert decoder.config == config("rock")
    assert not decoder.training and not any(p.requires_grad for p in decoder.parameters())
    assert predict(decoder, made_up(0).embedding).shape == (2, 64, 64)


def test_a_trained_decoder_answers_the_same_once_saved_and_loaded(tmp_path: Path) -> None:
    decoder = train([made_up(0)], [], config(), TrainConfig(steps=2, batch=1)).decoder
    save(decoder, tmp_path / "decoder.safetensors")
    loaded = load_decoder(tmp_path / "decoder.safetensors")
    embedding = made_up(1).embedding
    np.testing.assert_allclose(predict(loaded, embedding), predict(decoder, embedding), atol=1e-5)


def test_validation_is_about_a_fifth_of_all_tasks_and_always_the_same() -> None:
    chosen = [task for task in range(5000) if in_validation(str(task))]
    assert 0.18 < len(chosen) / 5000 < 0.23
    assert chosen[:5] == [8, 9, 39, 46, 47]  # another split than this would mix training images into validation


def loss_with(change: Callable[[Tensor], None], targets: NDArray[np.float32]) -> float:
    logits = torch.randn(1, *targets.shape, generator=torch.Generator().manual_seed(0))
    change(logits)
    return float(crop_loss(logits, torch.from_numpy(targets)[None]))


def test_what_it_says_of_ignored_pixels_costs_nothing() -> None:
    sample = made_up(0)
    sample.label_map[16:40, 20:50] = IGNORE
    targets = soft_targets(sample, 1)
    before = loss_with(lambda logits: None, targets)
    assert loss_with(lambda logits: logits[..., 16:40, 20:50].mul_(-30), targets) == pytest.approx(before, abs=1e-6)
    assert loss_with(lambda logits: logits[..., 16:42, 20:50].mul_(-30), targets) > before + 0.1


def test_the_label_under_an_ignored_region_changes_nothing() -> None:
    found = []
    for under in (0, 1):
        sample = made_up(0)
        sample.label_map[10:30, 10:30] = under
        sample.label_map[10:30, 10:30] = IGNORE
        found.append(weights(train([sample], [], config(), TrainConfig(steps=3, batch=2))))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_what_it_says_of_the_padding_beside_an_image_costs_nothing() -> None:
    targets = soft_targets(made_up(0, size=(32, 64)), 1)

    def shout_in_the_padding(logits: Tensor) -> None:
        logits[..., 32:, :] *= -30

    assert loss_with(shout_in_the_padding, targets) == pytest.approx(loss_with(lambda logits: None, targets), abs=1e-6)


def distances(*values: float) -> Batch:
    nothing = torch.zeros(0)
    return Batch(nothing, nothing, nothing, torch.tensor(values).reshape(1, 1, 1, -1), nothing)


def test_a_wrong_distance_costs_its_error_where_it_is_known() -> None:
    said = torch.tensor([0.9, 0.5, 0.2, 0.1]).logit().reshape(1, 1, 1, -1)
    assert float(distance_loss(said, distances(0.9, 0.5, 0.2, 0.1))) == pytest.approx(0, abs=1e-6)
    assert float(distance_loss(said, distances(0.6, 0.5, UNKNOWN, UNKNOWN))) == pytest.approx(0.15, abs=1e-6)
    assert float(distance_loss(said, distances(0.0, UNKNOWN, UNKNOWN, UNKNOWN))) == pytest.approx(0.9, abs=1e-6)
    assert float(distance_loss(said, distances(*[UNKNOWN] * 4))) == 0


def test_of_no_known_pixel_the_temperature_is_neutral() -> None:
    nothing = HeldOut(("pit",))
    assert nothing.temperature() == 1 and nothing.ece() == 0
    nothing.add(Overconfident(config()), replace(right_in(0.5), label_map=np.full((64, 64), IGNORE, np.uint8)))
    assert nothing.temperature() == 1 and nothing.ece() == 0


def test_a_temperature_that_no_number_speaks_for_is_neutral(monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldOut(("pit",))
    held.add(Overconfident(config()), right_in(0.5))
    monkeypatch.setattr(module.F, "cross_entropy", lambda *_: torch.tensor(float("nan")))
    assert held.temperature() == 1


def test_calibration_is_judged_at_the_temperature_that_the_other_half_gives() -> None:
    """One image is right everywhere, the other nowhere: what fits the one is worst for the other."""
    held = HeldOut(("pit",))
    for share in (0.0, 1.0):
        held.add(Overconfident(config()), right_in(share))
    assert held.ece() > held.ece(held.temperature()) + 0.1
    assert held.ece(least=5.0) < held.ece()


def test_the_error_is_that_of_leaving_each_image_out() -> None:
    held = HeldOut(("pit",))
    shares = (0.25, 0.5, 1.0)
    for share in shares:
        held.add(Overconfident(config()), right_in(share))
    without = [sum(shares) - share for share in shares]  # as all have one size: of twice its pixels
    assert held.error == pytest.approx(np.sqrt(2 * np.var(np.array(without) / 2)), abs=1e-6)
    alone = HeldOut(("pit",))
    alone.add(Overconfident(config()), right_in(0.5))
    assert alone.error is None


def test_an_image_in_two_tasks_is_one_of_those_that_the_error_is_of() -> None:
    held = HeldOut(("pit",))
    for task in "ab":
        held.add(Overconfident(config()), replace(right_in(0.5), task=task, image="same"))
    assert held.error is None and held.per_task.keys() == {"a", "b"} and held.images == {"same"}


def test_an_image_is_measured_with_weights_that_it_has_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each half of the images likes another look best, and all together the first one's."""
    images = sorted((f"image {i}" for i in range(4)), key=module._hashed)
    halves = set(images[::2]), set(images[1::2])
    shares = iter([(0.9, 0.5), (0.4, 0.8), (0.1, 0.1)])

    def look(decoder: DomainDecoder, samples: Sequence[Sample], check: Callable[[], None]) -> HeldOut:
        held = HeldOut(("pit",))
        for half, share in zip(halves, next(shares), strict=True):
            for image in half:
                held.add(Overconfident(config()), replace(right_in(share), task=image, image=image))
        return held

    monkeypatch.setattr(module, "validate", look)
    validation = [replace(made_up(i), task=image, image=image) for i, image in enumerate(images)]
    how = TrainConfig(steps=3, first_steps=3, batch=1, check_every=1)
    _, step, held = fit([made_up(9)], config(), how, validation)
    assert step == 1 and held is not None
    # The first half would keep the first look, and so the second is measured by it; the other way round the second.
    assert [held.per_task[image] for image in halves[1]] == [0.5, 0.5]
    assert [held.per_task[image] for image in halves[0]] == pytest.approx([0.4, 0.4], abs=0.01)
    assert held.scores.mean == pytest.approx(0.45, abs=0.01)


def diverging(monkeypatch: pytest.MonkeyPatch, fails: Callable[[set[str], TrainConfig], bool]) -> None:
    real = module.fit

    def fitted(samples: Sequence[Sample], config: DecoderConfig, how: TrainConfig, *rest: object) -> object:
        if fails({sample.task for sample in samples}, how):
            raise module.Diverged("the training diverged: its loss was nan")
        return real(samples, config, how, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "fit", fitted)


def test_a_fold_that_diverges_is_tried_again_more_calmly(monkeypatch: pytest.MonkeyPatch) -> None:
    how = TrainConfig(steps=4, batch=1)
    diverging(monkeypatch, lambda tasks, used: len(tasks) < 4 and used.learning_rate == how.learning_rate)
    trained = train([made_up(i) for i in range(4)], [], config(), how)
    assert trained.held is not None and len(trained.held.per_task) == 4


@pytest.mark.parametrize("both", [False, True])
def test_a_fold_that_diverges_takes_nothing_from_a_healthy_decoder(
    monkeypatch: pytest.MonkeyPatch, both: bool, caplog: pytest.LogCaptureFixture
) -> None:
    how = TrainConfig(steps=4, batch=1, folds=2)
    samples = [made_up(i) for i in range(4)]
    first = min((sample.task for sample in samples), key=module._hashed)
    healthy = fit(samples, config(), how)[0]
    diverging(monkeypatch, lambda tasks, used: len(tasks) < 4 and (both or first in tasks))
    trained = train(samples, [], config(), how)
    assert same(trained.decoder, healthy) and trained.decoder.config.temperature >= 1
    assert trained.held is None if both else trained.held is not None and len(trained.held.per_task) == 2
    assert "2 of 4 images are not measured" in caplog.text


def test_a_picture_in_two_tasks_is_never_in_a_fold_and_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [replace(made_up(i), image=f"image {i // 2}") for i in range(8)]
    for learned, out, _ in folds_of(monkeypatch, samples, TrainConfig(folds=2)):
        assert not {int(task[5:]) // 2 for task in learned} & {int(task[5:]) // 2 for task in out}


def test_many_labels_are_learned_and_measured() -> None:
    """Three of 150, in each image; the others are said not to be there."""
    samples = [made_up(i, labels=3) for i in range(10)]
    names = tuple(f"label {k}" for k in range(150))
    decoder, _, _ = fit(samples[:8], config(*names), replace(SHORT, steps=160))
    held = validate(decoder, samples[8:])
    assert np.mean([held.scores.per_label.get(name, 0) for name in names[:3]]) > 0.45
    assert all(len(odds) == RANKS + 1 for each in held._odds.values() for odds in each)
    assert 0.5 <= held.temperature() <= 5 and 0 <= held.ece() < 0.5

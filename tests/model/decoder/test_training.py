"""Training a domain decoder: it learns, repeatably, only from what it may learn from, and says how well."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from skylight.model.datasets.synthetic_scenes import scene
from skylight.model.decoder import training as module
from skylight.model.decoder.held_out import HeldOut, validate
from skylight.model.decoder.inference import predict, predict_pixels
from skylight.model.decoder.network import DecoderConfig, DomainDecoder, save
from skylight.model.decoder.network import load as load_decoder
from skylight.model.decoder.ranked_labels import RANKS
from skylight.model.decoder.samples import Sample
from skylight.model.decoder.training import TrainConfig, cross_validate, fit, train
from skylight.model.decoder.validation_split import sort_key
from skylight.model.masks.label_map import IGNORE
from skylight.model.sam.segmenter import Segmenter
from tests.model.decoder.made_up import config, made_up, weights

pytestmark = pytest.mark.slow

SHORT = TrainConfig(steps=40, batch=4, crop=0.5, centred=0.6, learning_rate=1e-2)


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


def test_the_label_under_an_ignored_region_changes_nothing() -> None:
    found = []
    for under in (0, 1):
        sample = made_up(0)
        sample.label_map[10:30, 10:30] = under
        sample.label_map[10:30, 10:30] = IGNORE
        found.append(weights(train([sample], [], config(), TrainConfig(steps=3, batch=2))))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


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
    first = min((sample.task for sample in samples), key=sort_key)
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
    assert all(len(odds) == RANKS + 1 for each in held.calibration.log_odds.values() for odds in each)
    assert 0.5 <= held.temperature() <= 5 and 0 <= held.ece() < 0.5

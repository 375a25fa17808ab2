"""Training a domain decoder: it learns, repeatably, and only from what it may learn from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.decoder import DecoderConfig, save
from model.decoder import load as load_decoder
from model.predict import predict
from model.sam import Embedding, Segmenter, load
from model.synthetic import scene
from model.train import (
    IGNORE,
    CropSource,
    Sample,
    TrainConfig,
    Trained,
    crop_loss,
    in_validation,
    soft_targets,
    train,
    validate,
)

GRID = 8  # cells of the made-up embeddings; 16 times fewer than the tiny SAM's, so that a step takes milliseconds
SHORT = TrainConfig(steps=40, batch=4, crop=0.5, centred=0.6, learning_rate=1e-2)


def config(*labels: str) -> DecoderConfig:
    return DecoderConfig(labels or ("pit",), "made-up", channels=32, stem=8)


def made_up(seed: int, labels: int = 1, size: tuple[int, int] = (64, 64)) -> Sample:
    """A sample whose features say which label is where: channel k is 3 in the cells of class k."""
    rng = np.random.default_rng(seed)
    embedding = Embedding(
        rng.normal(size=(256, GRID, GRID)).astype(np.float16) * 0.3, size, np.zeros((4 * GRID, 4 * GRID, 3), np.uint8)
    )
    rows, columns = embedding.extent(GRID)
    cells = np.zeros((rows, columns), np.uint8)
    for k in range(1, labels + 1):
        y, x = (2 * rng.integers(n // 2 - 1) for n in (rows, columns))
        cells[y : y + 3, x : x + 3] = k
    for k in range(labels + 1):
        embedding.features[k, :rows, :columns] += 3 * (cells == k)
    label_map = cells.repeat(-(-size[0] // rows), 0).repeat(-(-size[1] // columns), 1)[: size[0], : size[1]]
    return Sample(f"task {seed}", embedding, label_map)


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    return trained.decoder.state_dict()


def test_the_same_samples_and_seed_give_the_same_decoder() -> None:
    samples, few = [made_up(i) for i in range(3)], TrainConfig(steps=5, batch=3, seed=1)
    one = weights(train(samples, [], config(), few))
    torch.rand(7)  # what others drew in between does not matter
    other, third = (weights(train(samples, [], config(), how)) for how in (few, TrainConfig(steps=5, batch=3, seed=2)))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[name], third[name]) for name in one)


@pytest.fixture(scope="module")
def tiny() -> Segmenter:
    return load("tiny", device="cpu")


def test_a_few_scenes_teach_it_to_find_pits_in_others(tiny: Segmenter) -> None:
    scenes = {seed: scene(seed) for seed in range(11)}
    samples = [
        Sample(str(seed), tiny.embed(made.image), made.truth().astype(np.uint8)) for seed, made in scenes.items()
    ]
    trained = train(samples[:8], [], config(), TrainConfig(steps=60, batch=4))
    assert validate(trained.decoder, samples[8:]).mean > 0.4
    untrained = train(samples[:1], [], config(), TrainConfig(steps=2, batch=1))
    assert validate(untrained.decoder, samples[8:]).mean < 0.2


def test_it_learns_several_labels_at_once() -> None:
    samples = [made_up(i, labels=3) for i in range(12)]
    trained = train(samples[:8], [], config("pit", "crater", "boulder"), SHORT)
    scores = validate(trained.decoder, samples[8:])
    assert list(scores.per_label) == ["pit", "crater", "boulder"]
    assert min(scores.per_label.values()) > 0.6


def test_it_learns_objects_in_images_that_are_not_square() -> None:
    sizes = [(40, 80), (90, 60), (200, 100), (64, 64)]
    samples = [made_up(i, size=sizes[i % 4]) for i in range(12)]
    trained = train(samples[:8], [], config(), SHORT)
    for sample in samples[8:]:
        assert validate(trained.decoder, [sample]).mean > 0.6, sample.embedding.size


def test_training_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        train([], [made_up(0)], config())


def test_it_stops_early_and_keeps_the_best_weights() -> None:
    """Training says background everywhere, validation says pit: from an untrained decoder on it only gets worse."""
    training = [Sample("t", made_up(0).embedding, np.zeros((64, 64), np.uint8))]
    validation = [Sample("v", made_up(1).embedding, np.ones((64, 64), np.uint8))]

    def trained(seed: int, steps: int) -> tuple[Trained, int]:
        how = TrainConfig(steps=60, batch=2, check_every=2, patience=3, enough=1, seed=seed)
        taken = [0]
        done = train(training, validation, config(), replace(how, steps=steps), lambda step, _: taken.append(step))
        return done, taken[-1]

    # Not every seed's untrained decoder calls enough pixels pits to have something to lose.
    seed = next(seed for seed in range(30) if score(trained(seed, 2)[0]) > 0.3)
    best, taken = trained(seed, 60)
    assert best.steps < taken == best.steps + 3 * 2 < 60
    assert validate(best.decoder, validation).mean == score(best) > 0.3


def score(trained: Trained) -> float:
    assert trained.scores is not None
    return trained.scores.mean


def test_without_validation_it_takes_all_its_steps() -> None:
    steps = []
    trained = train(
        [made_up(0)], [], config(), TrainConfig(steps=7, batch=1), lambda step, total: steps.append((step, total))
    )
    assert steps == [(step, 7) for step in range(1, 8)]
    assert trained.steps == 7 and trained.scores is None and trained.seconds > 0


def test_fewer_steps_than_the_first_look_are_still_measured() -> None:
    trained = train([made_up(0)], [made_up(1)], config(), TrainConfig(steps=3, batch=1, check_every=30))
    assert trained.steps == 3 and trained.scores is not None and trained.scores.images == 1


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


def test_targets_are_shares_of_a_cell() -> None:
    sample = made_up(0)
    sample.label_map[:] = 0
    sample.label_map[0:2, 0:1] = 1  # half of the first cell of 2 x 2 px
    sample.label_map[2:4, 0:2] = 1
    targets = soft_targets(sample, 1)
    assert targets.shape == (2, 32, 32)
    assert targets[:, :3, 0].T.tolist() == [[0.5, 0.5], [0, 1], [1, 0]]


def test_cells_that_are_mostly_ignored_have_no_target() -> None:
    sample = made_up(0)
    sample.label_map[:] = 0
    sample.label_map[0:2, 0:2] = IGNORE
    sample.label_map[2:4, 0:1] = IGNORE
    sample.label_map[4, 0] = IGNORE
    assert soft_targets(sample, 1)[:, :3, 0].T.tolist() == [[0, 0], [0, 0], [0.75, 0]]


def loss_with(change: Callable[[torch.Tensor], None], targets: NDArray[np.float32]) -> float:
    logits = torch.randn(1, *targets.shape, generator=torch.Generator().manual_seed(0))
    change(logits)
    return float(crop_loss(logits, torch.from_numpy(targets)[None]))


def test_what_it_says_of_ignored_pixels_costs_nothing() -> None:
    sample = made_up(0)
    sample.label_map[16:40, 20:50] = IGNORE
    targets = soft_targets(sample, 1)
    before = loss_with(lambda logits: None, targets)
    assert loss_with(lambda logits: logits[..., 8:20, 10:25].mul_(-30), targets) == pytest.approx(before, abs=1e-6)
    assert loss_with(lambda logits: logits[..., 8:21, 10:25].mul_(-30), targets) > before + 0.1


def test_the_label_under_an_ignored_region_changes_nothing() -> None:
    found = []
    for under in (0, 1):
        sample = made_up(0)
        sample.label_map[10:30, 10:30] = under
        sample.label_map[10:30, 10:30] = IGNORE
        found.append(weights(train([sample], [], config(), TrainConfig(steps=3, batch=2))))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize(("size", "rows", "columns"), [((32, 64), 16, 32), ((128, 64), 32, 16)])
def test_padding_beside_an_image_costs_nothing(size: tuple[int, int], rows: int, columns: int) -> None:
    targets = soft_targets(made_up(0, size=size), 1)
    assert targets[:, :rows, :columns].sum(0).min() == 1
    assert targets.sum() == rows * columns

    def shout_in_the_padding(logits: torch.Tensor) -> None:
        logits[..., rows:, :] *= -30
        logits[..., columns:] *= -30

    assert loss_with(shout_in_the_padding, targets) == pytest.approx(loss_with(lambda logits: None, targets), abs=1e-6)


def test_crops_lie_within_the_image() -> None:
    source = CropSource([made_up(i, size=(40, 80)) for i in range(3)], 1, SHORT, np.random.default_rng(0))
    for _ in range(20):
        features, pictures, targets = source.draw()
        assert features.shape == (4, 256, 4, 4) and pictures.shape == (4, 3, 16, 16) and targets.shape == (4, 2, 16, 16)
        assert (targets.sum(1) == 1).all() and pictures.abs().max() <= 1


def test_features_picture_and_target_of_a_crop_are_turned_and_mirrored_together() -> None:
    sample = made_up(0)
    cells = sample.label_map[::8, ::8]
    sample.embedding.features[0] = np.arange(GRID * GRID).reshape(GRID, GRID)  # which cell it was
    sample.embedding.thumbnail[:] = 128 * cells.repeat(4, 0).repeat(4, 1)[..., None]
    source = CropSource([sample], 1, TrainConfig(batch=1), np.random.default_rng(0))
    orders = set()
    for _ in range(60):
        features, pictures, targets = source.draw()
        came_from = features[0, 0].long()
        orders.add(tuple((came_from - came_from.min()).flatten().tolist()))
        expected = torch.from_numpy(cells.reshape(-1))[came_from].bool()
        assert torch.equal(targets[0, 1, ::4, ::4].bool(), expected)
        dark = pictures[0, 0, ::4, ::4] < -0.5
        assert torch.equal(~dark, expected)
    assert len(orders) == 8


def test_most_crops_hold_an_object_when_asked_to() -> None:
    sample = made_up(0)
    sample.label_map[:] = 0
    sample.label_map[:8, :8] = 1  # one of 64 cells, in the corner
    held = {}
    for share in (0.0, 1.0):
        how = TrainConfig(batch=50, crop=0.25, centred=share)
        targets = CropSource([sample], 1, how, np.random.default_rng(0)).draw()[2]
        held[share] = float((targets[:, 1].amax((1, 2)) > 0).float().mean())
    assert held[1.0] == 1 and held[0.0] < 0.3

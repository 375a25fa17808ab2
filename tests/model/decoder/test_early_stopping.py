"""Early stopping: which checkpoint is kept, and that no image is measured by what it chose."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from skylight.model.decoder import training as module
from skylight.model.decoder.held_out import HeldOut, validate
from skylight.model.decoder.network import DomainDecoder
from skylight.model.decoder.samples import Sample
from skylight.model.decoder.training import TrainConfig, fit
from skylight.model.decoder.validation_split import sort_key
from tests.model.decoder.made_up import Overconfident, config, made_up, right_in


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


def test_an_image_is_measured_with_weights_that_it_has_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each half of the images likes another look best, and all together the first one's."""
    images = sorted((f"image {i}" for i in range(4)), key=sort_key)
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

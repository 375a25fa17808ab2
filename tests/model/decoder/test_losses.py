"""Losses: what is ignored or unknown costs nothing."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from skylight.model.decoder.losses import crop_loss, distance_loss
from skylight.model.decoder.samples import UNKNOWN
from skylight.model.masks.label_map import IGNORE
from tests.model.decoder.made_up import made_up, soft_targets


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


def test_what_it_says_of_the_padding_beside_an_image_costs_nothing() -> None:
    targets = soft_targets(made_up(0, size=(32, 64)), 1)

    def shout_in_the_padding(logits: Tensor) -> None:
        logits[..., 32:, :] *= -30

    assert loss_with(shout_in_the_padding, targets) == pytest.approx(loss_with(lambda logits: None, targets), abs=1e-6)


def distances(*values: float) -> Tensor:
    return torch.tensor(values).reshape(1, 1, 1, -1)


def test_a_wrong_distance_costs_its_error_where_it_is_known() -> None:
    said = torch.tensor([0.9, 0.5, 0.2, 0.1]).logit().reshape(1, 1, 1, -1)
    assert float(distance_loss(said, distances(0.9, 0.5, 0.2, 0.1))) == pytest.approx(0, abs=1e-6)
    assert float(distance_loss(said, distances(0.6, 0.5, UNKNOWN, UNKNOWN))) == pytest.approx(0.15, abs=1e-6)
    assert float(distance_loss(said, distances(0.0, UNKNOWN, UNKNOWN, UNKNOWN))) == pytest.approx(0.9, abs=1e-6)
    assert float(distance_loss(said, distances(*[UNKNOWN] * 4))) == 0

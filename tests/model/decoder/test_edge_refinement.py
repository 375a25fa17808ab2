"""A decoder's answer laid along its picture's edges."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from skylight.model.decoder import edge_refinement
from skylight.model.evaluation.metrics import iou

CELLS, PX = 64, 256


def picture() -> tuple[Tensor, Tensor]:
    """A bright disc on a dark ground, grey in [0, 1] with noise, (PX, PX); and where it is, bool."""
    y, x = torch.meshgrid(torch.arange(PX), torch.arange(PX), indexing="ij")
    disc = (x - 120) ** 2 + (y - 133) ** 2 < 30**2
    noise = torch.randn(PX, PX, generator=torch.Generator().manual_seed(0)) * 0.02
    return (0.2 + 0.6 * disc + noise).clamp(0, 1), disc


def cells(values: Tensor) -> Tensor:
    """Means of the cells, (CELLS, CELLS)."""
    return F.avg_pool2d(values[None].float(), PX // CELLS)[0]


def enlarged(values: Tensor) -> Tensor:
    """(K, CELLS, CELLS) at the picture's size."""
    return F.interpolate(values[None], (PX, PX), mode="bilinear", align_corners=False)[0]


def found(odds: Tensor, grey: Tensor, inside: Tensor) -> Tensor:
    """Probabilities (K + 1, PX, PX)."""
    slope, start = edge_refinement.fit_lines(odds, cells(grey), inside)
    return edge_refinement.probabilities(enlarged(slope), enlarged(start), grey)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_rim_a_cell_off_goes_where_the_picture_has_it(axis: int) -> None:
    grey, disc = picture()
    odds = (cells(disc) * 4 - 2).roll(1, axis)[None]
    after = iou(found(odds, grey, torch.ones(CELLS, CELLS))[1].numpy() > 0.5, disc.numpy())
    before = iou(enlarged(odds)[0].numpy() > 0, disc.numpy())
    assert after > 0.94 and before < 0.9


def test_where_the_picture_is_even_nothing_moves() -> None:
    _, disc = picture()
    odds = (cells(disc) * 4 - 2)[None]
    said = found(odds, torch.full((PX, PX), 0.5), torch.ones(CELLS, CELLS))
    assert iou(said[1].numpy() > 0.5, disc.numpy()) > 0.9
    torch.testing.assert_close(said.sum(0), torch.ones(PX, PX))


def test_what_lies_beyond_the_picture_says_nothing() -> None:
    grey, disc = picture()
    inside = torch.zeros(CELLS, CELLS)
    inside[:, :40] = 1
    odds = (cells(disc) * 4 - 2)[None]
    beyond = torch.where(inside > 0, odds, 3.0)
    for one, other in zip(
        edge_refinement.fit_lines(odds, cells(grey), inside),
        edge_refinement.fit_lines(beyond, cells(grey), inside),
        strict=True,
    ):
        torch.testing.assert_close(one[..., :40], other[..., :40])
        assert torch.isfinite(one).all()


def test_what_is_certain_stays_certain_and_of_several_labels_each_has_its_own() -> None:
    grey, disc = picture()
    odds = torch.stack([cells(disc) * 30 - 20, torch.full((CELLS, CELLS), -9.0)])
    background, one, other = found(odds, grey, torch.ones(CELLS, CELLS))
    assert one[133, 120] > 0.99 and background[10, 10] > 1 - 1e-3 and other.max() < 1e-2


def test_of_two_as_likely_the_object_is_rather_taken() -> None:
    even = torch.zeros(1, CELLS, CELLS)
    said = found(even, torch.full((PX, PX), 0.3), torch.ones(CELLS, CELLS))
    np.testing.assert_allclose(said[1], 1 / (1 + np.exp(-edge_refinement.FOREGROUND_LOGIT_BIAS)), rtol=1e-4)

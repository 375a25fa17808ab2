"""The mask decoder multiplied in another order against segment-anything's own."""

import pytest
import torch

from skylight.model.sam.fast_mask_decoder import FastMaskDecoder, fold, unfold, upscale
from skylight.model.sam.mobile_sam import build_mobile_sam
from skylight.model.sam.tiny_sam import GRID, TinySam
from tests.support.random_weights import random_weights


def cells(pixels: torch.Tensor) -> torch.Tensor:
    return pixels[0].permute(1, 2, 0)


@pytest.mark.parametrize("tokens", [1, 2, 9])
@pytest.mark.parametrize("mask", [True, False])
def test_it_answers_as_segment_anything_s_decoder(tokens: int, mask: bool) -> None:
    network = build_mobile_sam().eval().requires_grad_(False)
    network.load_state_dict(random_weights(network, 4))
    chance = torch.Generator().manual_seed(tokens)
    features = torch.randn(1, 256, 6, 8, generator=chance)  # any grid will do
    position = torch.randn(1, 256, 6, 8, generator=chance)
    sparse = torch.randn(1, tokens, 256, generator=chance)
    dense = torch.randn(1, 256, 6, 8, generator=chance) if mask else torch.randn(1, 256, 1, 1, generator=chance)
    official = network.mask_decoder.predict_masks(features, position, sparse, dense.expand(1, 256, 6, 8))
    found = FastMaskDecoder(network.mask_decoder)(cells(features), cells(position), sparse[0], cells(dense))
    for ours, theirs in zip(found, official, strict=True):
        assert (ours - theirs[0]).abs().max() < 1e-4 * theirs.abs().max()


def test_rims_join_the_upscaling_where_they_belong() -> None:
    network = TinySam().eval().requires_grad_(False)
    network.load_state_dict(random_weights(network, 4))
    widen, norm, activate, widen_again, activate_again = network.mask_decoder.output_upscaling
    image, (fine, middle) = torch.randn(1, 256, 4, 6), network.rims(torch.randn(1, 3, 16, 24))
    expected = activate_again(widen_again(activate(norm(widen(image) + middle))) + fine)
    rows = upscale(network.mask_decoder.output_upscaling, cells(image).reshape(-1, 256), unfold(fine[0], middle[0]))
    assert (fold(rows, 4, 6) - expected[0]).abs().max() < 1e-4 * expected.abs().max()


def test_pictures_survive_unfolding_and_folding() -> None:
    fine, middle = torch.randn(3, 4 * GRID, 8 * GRID), torch.randn(2, 2 * GRID, 4 * GRID)
    rough, sharp = unfold(fine, middle)
    assert torch.equal(fold(sharp.reshape(-1, 3), GRID, 2 * GRID), fine)
    doubled = fold(rough.reshape(-1, 1, 2).expand(-1, 4, -1).reshape(-1, 2), GRID, 2 * GRID)
    assert torch.equal(doubled[:, ::2, ::2], middle)

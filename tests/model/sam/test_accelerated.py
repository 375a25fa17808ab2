"""SAM's ONNX Runtime sessions against the modules of PyTorch in whose place they stand."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from skylight.model.runtime import onnx
from skylight.model.sam.accelerated import LARGEST_ENCODER, accelerate
from skylight.model.sam.mobile_sam import build_mobile_sam
from skylight.model.sam.tiny_sam import GRID, INPUT_SIZE, TinySam
from tests.support.random_weights import random_weights


@pytest.fixture(scope="module")
def slow() -> TinySam:
    network = TinySam().eval().requires_grad_(False)
    network.load_state_dict(random_weights(network, 5))
    return network


@pytest.fixture(scope="module")
def fast(slow: TinySam) -> TinySam:
    network = copy.deepcopy(slow)
    accelerate(network)
    return network


def close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-3 * max(float(theirs.std()), 1e-6)


@pytest.mark.parametrize("side", [INPUT_SIZE, INPUT_SIZE // 2])
def test_the_tiny_encoder_gives_the_same_at_both_sizes(slow: TinySam, fast: TinySam, side: int) -> None:
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(fast.image_encoder.with_taps(pixels), slow.image_encoder.with_taps(pixels), strict=True):
        close(ours, theirs)
    close(fast.image_encoder(pixels), slow.image_encoder(pixels))


@pytest.mark.parametrize(("cells", "points", "box"), [(GRID, 1, False), (GRID, 3, True), (GRID // 2, 2, False)])
def test_a_prompt_is_answered_alike(slow: TinySam, fast: TinySam, cells: int, points: int, box: bool) -> None:
    chance = torch.Generator().manual_seed(points)
    features = torch.randn(1, 256, cells, cells, generator=chance)
    thumbnail = torch.rand(1, 3, 4 * cells, 4 * cells, generator=chance) * 2 - 1
    places = torch.rand(1, points, 2, generator=chance) * 16 * cells
    labels = torch.tensor([[1.0, 0.0, 1.0][:points]])
    boxes = torch.tensor([[20.0, 30.0, 200.0, 150.0]]) if box else None
    logits = torch.randn(1, 1, 4 * cells, 4 * cells, generator=chance)
    offset = ((GRID - cells) // 2,) * 2
    answers = [
        each.decode(features, each.rims(thumbnail), places, labels, boxes, logits, offset) for each in (fast, slow)
    ]
    for ours, theirs in zip(*answers, strict=True):
        close(ours, theirs)


def test_nothing_of_pytorch_s_weights_is_left_but_what_is_used(fast: TinySam) -> None:
    kept = {name.split(".")[0] for name, _ in fast.named_parameters()}
    assert kept == {"prompt_encoder", "point_context"}


def test_an_encoder_that_is_too_large_stays_with_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_mobile_sam()
    encoder = network.image_encoder
    assert sum(weight.numel() for weight in encoder.parameters()) < LARGEST_ENCODER
    monkeypatch.setattr("skylight.model.sam.accelerated.LARGEST_ENCODER", 1_000_000)
    accelerate(network)
    assert network.image_encoder is encoder and not list(network.mask_decoder.parameters())


def test_for_bfloat16_mobile_sam_s_encoder_stays_with_pytorch_and_is_folded() -> None:
    network = build_mobile_sam().eval().requires_grad_(False)
    network.load_state_dict(random_weights(network, 3))
    pixels = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    encoder, before = network.image_encoder, network.image_encoder(pixels)
    accelerate(network, bfloat16=True)
    assert network.image_encoder is encoder and not list(network.mask_decoder.parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
    close(encoder(pixels), before)


def test_what_was_exported_is_kept_and_made_again_if_it_is_damaged(slow: TinySam, tmp_path: Path, monkeypatch) -> None:
    first = copy.deepcopy(slow)
    accelerate(first, tmp_path)
    kept = sorted(tmp_path.iterdir())
    assert [path.name.split("-")[0] for path in kept] == ["decoder", "encoder", "rims"]
    made: list[int] = []
    export = onnx.export
    monkeypatch.setattr(onnx, "export", lambda *given: (made.append(1), export(*given))[1])
    accelerate(copy.deepcopy(slow), tmp_path)
    assert not made
    whole = kept[0].read_bytes()
    kept[0].write_bytes(whole[:-1])
    kept[1].write_bytes(b"")
    again = copy.deepcopy(slow)
    accelerate(again, tmp_path)
    assert len(made) == 2
    assert kept[0].read_bytes() == whole
    pixels = torch.randn(1, 3, INPUT_SIZE, INPUT_SIZE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.image_encoder(pixels), first.image_encoder(pixels))

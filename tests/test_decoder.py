"""The domain decoder: its shapes, its locality, and its file."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor

from model.decoder import ChannelNorm, DecoderConfig, DomainDecoder, load, save

CONFIG = DecoderConfig(("pit", "crater"), "tiny-0123456789ab", channels=32, separate=("crater",), temperature=1.7)


@pytest.fixture(scope="module")
def decoder() -> DomainDecoder:
    torch.manual_seed(0)
    return DomainDecoder(CONFIG).eval().requires_grad_(False)


def inputs(height: int, width: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(batch, 256, height, width, generator=generator)
    return features, torch.rand(batch, 3, 4 * height, 4 * width, generator=generator) * 2 - 1


def test_the_norm_is_segment_anything_s_layer_norm_over_channels() -> None:
    ours, theirs = ChannelNorm(6), LayerNorm2d(6)
    weights = {"weight": torch.linspace(-1, 2, 6), "bias": torch.linspace(3, -3, 6)}
    for norm in (ours, theirs):
        norm.load_state_dict(weights)
    x = 5 * torch.randn(2, 6, 7, 9, generator=torch.Generator().manual_seed(2)) + 3
    assert (ours(x) - theirs(x)).abs().max() < 1e-5


@pytest.mark.parametrize("labels", [1, 2, 7])
def test_it_answers_with_a_logit_per_class_and_a_distance_at_four_times_the_grid(labels: int) -> None:
    network = DomainDecoder(DecoderConfig(tuple(f"label {k}" for k in range(labels)), "tiny-1"))
    logits, distance = network(*inputs(6, 8, batch=2))
    assert logits.shape == (2, labels + 1, 24, 32) and distance.shape == (2, 1, 24, 32)


def test_a_crop_of_the_embedding_gives_the_crop_of_the_answer(decoder: DomainDecoder) -> None:
    features, picture = inputs(32, 32)
    whole = torch.cat(decoder(features, picture), 1)
    part = torch.cat(decoder(features[..., 8:24, 4:20], picture[..., 32:96, 16:80]), 1)
    margin = 20  # px at the output's resolution: a crop's border does not know its neighbours
    inner = slice(margin, -margin)
    expected = whole[..., 32:96, 16:80][..., inner, inner]
    assert (part[..., inner, inner] - expected).abs().max() < 1e-4
    assert (part - whole[..., 32:96, 16:80]).abs().max() > 1e-2


def test_it_reads_both_the_embedding_and_the_picture(decoder: DomainDecoder) -> None:
    features, picture = inputs(8, 8)
    before = decoder(features, picture)
    for changed in (decoder(features.flip(3), picture), decoder(features, picture.flip(3))):
        for after, expected in zip(changed, before, strict=True):
            assert (after - expected).abs().max() > 0.01


def test_the_distance_has_a_head_of_its_own(decoder: DomainDecoder) -> None:
    fine = decoder.trunk(*inputs(8, 8))
    logits, distance = decoder(*inputs(8, 8))
    assert fine.shape == (1, CONFIG.channels // 2, 32, 32)
    assert torch.equal(logits, decoder.head(fine)) and torch.equal(distance, decoder.distance(fine))


def test_it_is_light() -> None:
    network = DomainDecoder(DecoderConfig(("pit",), "tiny-1"))
    assert sum(p.numel() for p in network.parameters()) < 250_000


def test_a_saved_decoder_comes_back_with_its_configuration_and_its_answers(
    decoder: DomainDecoder, tmp_path: Path
) -> None:
    save(decoder, tmp_path / "decoder.safetensors")
    loaded = load(tmp_path / "decoder.safetensors")
    assert loaded.config == CONFIG
    assert isinstance(loaded.config.labels, tuple) and isinstance(loaded.config.separate, tuple)
    torch.testing.assert_close(loaded(*inputs(8, 8)), decoder(*inputs(8, 8)), rtol=0, atol=0)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_the_file_itself_says_what_the_decoder_is_for(decoder: DomainDecoder, tmp_path: Path) -> None:
    save(decoder, tmp_path / "decoder.safetensors")
    with safe_open(tmp_path / "decoder.safetensors", framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    assert config == {**asdict(CONFIG), "labels": ["pit", "crater"], "separate": ["crater"]}


def test_a_missing_or_damaged_file_is_refused(decoder: DomainDecoder, tmp_path: Path) -> None:
    path = tmp_path / "decoder.safetensors"
    with pytest.raises(FileNotFoundError):
        load(path)
    save(decoder, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(SafetensorError):
        load(path)

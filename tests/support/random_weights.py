"""Weights of chance for networks whose trained ones are not to be had, and files as earlier versions wrote them."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from skylight.model.storage.checksums import seal, unseal


def random_weights(network: nn.Module, seed: int, gain: float = 1.0) -> dict[str, Tensor]:
    """Weights for a network's whole state dict that keep activations near 1, so that each of them matters.

    `gain` makes up for what the activations between the layers take away.
    """
    generator = torch.Generator().manual_seed(seed)
    return {key: _random(key, value, gain, generator) for key, value in network.state_dict().items()}


def forget_layout(path: Path) -> None:
    """Make a decoder's file say nothing of the network's layout, as those of before did."""
    with safe_open(path, framework="pt") as file:
        config = file.metadata()["config"]
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    save_file(weights, path, metadata={"config": config})
    card = path.with_name("card.json")
    if card.exists():  # which did not have its sha256 either
        card.write_bytes(seal({k: v for k, v in unseal(card.read_bytes()).items() if k != "sha256"}))


def _random(key: str, value: Tensor, gain: float, generator: torch.Generator) -> Tensor:
    if not value.is_floating_point():
        return value
    drawn = torch.randn(value.shape, generator=generator)
    if key.endswith("running_var"):
        return drawn.abs() + 0.5
    if key.endswith("attention_biases"):
        return drawn
    if value.ndim == 1:
        return 0.2 * drawn + float(key.endswith("weight"))
    return gain * drawn / value[0].numel() ** 0.5

"""The domain decoder: a light network from a frozen SAM embedding to per-label logits. The only thing that is trained.

After Julka & Granitzer 2023 (arXiv 2305.07586): a few prompt-made masks are enough to train a specialised decoder on
top of SAM's encoder. A small stem that looks at the picture itself, at the output's resolution, sharpens the rims.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class DecoderConfig:
    """What a decoder is for, and its size."""

    labels: tuple[str, ...]  # in the order of the project's config; class k + 1 is labels[k], class 0 background
    encoder_id: str  # of the SAM whose embeddings it reads; no other's will do
    channels: int = 64  # at the embedding's resolution, 32-128; falls to 3/4 and 1/2 as the resolution doubles
    separate: tuple[str, ...] = ()  # labels whose regions were single objects: touching ones are to be told apart
    temperature: float = 1.0  # the logits are divided by it before they are probabilities (arXiv 1706.04599)


class DomainDecoder(nn.Module):
    """Per-label logits at a quarter of the SAM's input size, from an embedding and the thumbnail beside it.

    The norms work per cell, never over the picture, so a crop of an embedding gives the crop of the answer.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        wide, middle, fine = config.channels, config.channels * 3 // 4, config.channels // 2
        self.stem = nn.Sequential(*_layer(3, fine // 2), *_layer(fine // 2, fine))
        self.reduce = nn.Sequential(*_layer(256, wide, kernel=1))
        self.look = nn.ModuleList([nn.Sequential(*_layer(wide, wide)) for _ in range(2)])
        self.middle = nn.Sequential(*_layer(wide + fine, middle))
        self.narrow = nn.Conv2d(middle, fine, 1)
        self.fine = nn.Sequential(ChannelNorm(fine), nn.GELU(), *_layer(fine, fine))
        self.head = nn.Conv2d(fine, len(config.labels) + 1, 1)
        self.distance = nn.Conv2d(fine, 1, 1)

    def forward(self, features: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, labels + 1, 4h, 4w), and of the distance to the rim, 0 to 1 at the deepest, (B, 1, 4h, 4w).

        `features` (B, 256, h, w), `picture` (B, 3, 4h, 4w) in [-1, 1].
        """
        fine = self.trunk(features, picture)
        return self.head(fine), self.distance(fine)

    def trunk(self, features: Tensor, picture: Tensor) -> Tensor:
        """All but the heads: (B, channels / 2, 4h, 4w)."""
        rims = self.stem(picture)
        x = self.reduce(features)
        for layer in self.look:
            x = x + layer(x)
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        x = self.middle(torch.cat([x, F.avg_pool2d(rims, 2)], 1))
        # Narrowed before it is scaled up, and added: a convolution of both would multiply 2.5 times as often per cell.
        x = F.interpolate(self.narrow(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        fine: Tensor = self.fine(x + rims)
        return fine


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each cell, (B, C, h, w) -> the same.

    segment-anything's LayerNorm2d by torch's fused kernel: with bfloat16 a training step takes 71 ms instead of 161.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        last = F.layer_norm(x.permute(0, 2, 3, 1), (len(self.weight),), self.weight, self.bias, 1e-6)
        return last.permute(0, 3, 1, 2)


def _layer(inputs: int, outputs: int, kernel: int = 3) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), ChannelNorm(outputs), nn.GELU()]


def save(decoder: DomainDecoder, path: Path) -> None:
    """Write weights and configuration as one safetensors file."""
    weights = {name: tensor.contiguous() for name, tensor in decoder.state_dict().items()}
    save_file(weights, path, metadata={"config": json.dumps(asdict(decoder.config))})


def load(path: Path) -> DomainDecoder:
    """Rebuild a decoder from its file. Raises FileNotFoundError, or SafetensorError if the file is damaged."""
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    tuples = {name: tuple(config.get(name, ())) for name in ("labels", "separate")}
    decoder = DomainDecoder(DecoderConfig(**{**config, **tuples}))
    decoder.load_state_dict(weights)
    return decoder.eval().requires_grad_(False)

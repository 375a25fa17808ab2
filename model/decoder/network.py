"""The domain decoder: a small network from a frozen SAM embedding to per-label logits. Only it is trained.

After Julka & Granitzer 2023 (arXiv 2305.07586): a few prompt-made masks are enough to train a specialized decoder on
top of SAM's encoder. A small stem that reads the image itself, at the output's resolution, sharpens the boundaries;
that is half of SAM's input, while all convolutions work at a quarter of it or less.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load as parse
from safetensors.torch import save_file
from torch import Tensor, nn

from skylight.model.images.normalization import PER_IMAGE, Normalization
from skylight.model.sam.types import FEATURES
from skylight.model.storage.checksums import CorruptFileError, read_metadata

# Version of the network below, increased with every change that makes earlier files invalid. Files without it have 1.
LAYOUT = 5

MOST_LABELS = 254  # a label map has 8 bits: 0 is the background, 255 is ignored


class OtherLayout(ValueError):
    """A decoder's file is of another version of the network; the message says which and what to do."""


@dataclass(frozen=True)
class DecoderConfig:
    """Labels, inputs and size of a decoder. Raises ValueError if there are more labels than a label map can hold.

    Its files store it by these names.
    """

    labels: tuple[str, ...]  # in the order of the project's config; class k + 1 is labels[k], class 0 background
    encoder_id: str  # of the SAM whose embeddings it reads; others do not fit
    channels: int = 64  # at the embedding's resolution, 32-128; falls to 3/4 and 1/2 as the resolution doubles
    context: int = 0  # channels of the embeddings' context
    detail: int = 0  # and of their detail
    separate: tuple[str, ...] = ()  # labels whose touching objects are separated
    temperature: float = 1.0  # divisor of the logits (arXiv 1706.04599)
    normalisation: Normalization = PER_IMAGE  # of the images it is trained on and applied to

    def __post_init__(self) -> None:
        if len(self.labels) > MOST_LABELS:
            raise ValueError(f"a decoder tells at most {MOST_LABELS} labels apart, not {len(self.labels)}: drop some")


class DomainDecoder(nn.Module):
    """Per-label logits at half the SAM's input size, from an embedding and the thumbnail beside it.

    Blocks of 2 x 2 px of the thumbnail are read as 12 channels, and every cell of the last layer predicts its four
    quarters (sub-pixel convolution, arXiv 1609.05158); docs/decisions/decoder-constants.md has what that gains.

    The norms work per cell, never over the image, so a crop of an embedding gives the crop of the prediction.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        wide, middle, fine = config.channels, config.channels * 3 // 4, config.channels // 2
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), *_layer(12, fine // 2), *_layer(fine // 2, fine))
        self.reduce = nn.Conv2d(FEATURES, wide, 1)
        self.add_context = nn.Conv2d(config.context, wide, 1, bias=False) if config.context else None
        self.join = nn.Sequential(ChannelNorm(wide), nn.GELU())
        self.look = nn.ModuleList([nn.Sequential(*_layer(wide, wide)) for _ in range(2)])
        self.middle = nn.Conv2d(wide + fine, middle, 3, padding=1)
        self.add_detail = nn.Conv2d(config.detail, middle, 1, bias=False) if config.detail else None
        self.settle = nn.Sequential(ChannelNorm(middle), nn.GELU())
        self.narrow = nn.Conv2d(middle, fine, 1)
        self.fine = nn.Sequential(ChannelNorm(fine), nn.GELU(), *_layer(fine, fine))
        self.head = _quarters(fine, len(config.labels) + 1)
        self.distance = _quarters(fine, 1)

    def forward(
        self, features: Tensor, picture: Tensor, detail: Tensor | None = None, classes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, labels + 1, 8h, 8w), and of the distance to the rim, 0 to 1 at the deepest, (B, 1, 8h, 8w).

        `features` (B, 256 + C, h, w), the context last, `picture` (B, 3, 8h, 8w) in [-1, 1], `detail` (B, D, 2h, 2w),
        None if the configuration has none. With `classes` (K,) int64 only their logits, (B, K, 8h, 8w).
        """
        fine = self.trunk(features, picture, detail)
        return self.logits(fine, classes), F.pixel_shuffle(self.distance(fine), 2)

    def logits(self, fine: Tensor, classes: Tensor | None = None) -> Tensor:
        """The output of the `trunk` (B, channels / 2, h, w) as logits (B, labels + 1, 2h, 2w), or of some `classes`."""
        if classes is None:
            return F.pixel_shuffle(self.head(fine), 2)
        rows = (4 * classes[:, None] + torch.arange(4)).flatten()
        bias = None if self.head.bias is None else self.head.bias[rows]
        return F.pixel_shuffle(F.conv2d(fine, self.head.weight[rows], bias), 2)

    def trunk(self, features: Tensor, picture: Tensor, detail: Tensor | None = None) -> Tensor:
        """All but the heads: (B, channels / 2, 4h, 4w)."""
        rims = self.stem(picture)
        x = self.reduce(features[:, :FEATURES])
        if self.add_context is not None:
            x = x + self.add_context(features[:, FEATURES:])
        x = self.join(x)
        for layer in self.look:
            x = x + layer(x)
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        x = self.middle(torch.cat([x, F.avg_pool2d(rims, 2)], 1))
        if self.add_detail is not None:
            x = x + self.add_detail(detail)
        x = self.settle(x)
        # Narrowed before it is scaled up, and added: a convolution of both would take 2.5 times the multiplications.
        x = F.interpolate(self.narrow(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        fine: Tensor = self.fine(x + rims)
        return fine


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each cell, (B, C, h, w) -> the same.

    As segment-anything's LayerNorm2d, by torch's fused kernel, with which a training step takes half as long.
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


def _quarters(inputs: int, outputs: int) -> nn.Conv2d:
    """A head for the four quarters of a cell, initialized alike (ICNR, arXiv 1707.02937): they differ only where it
    helps.
    """
    head, one = nn.Conv2d(inputs, 4 * outputs, 1), nn.Conv2d(inputs, outputs, 1)
    for own, first in zip(head.parameters(), one.parameters(), strict=True):
        own.data = first.data.repeat_interleave(4, 0)
    return head


def save(decoder: DomainDecoder, path: Path) -> None:
    """Write weights and configuration as one safetensors file."""
    weights = {name: tensor.contiguous() for name, tensor in decoder.state_dict().items()}
    config = asdict(decoder.config)
    if decoder.config.normalisation == PER_IMAGE:  # as releases of before there was one wrote and read it
        del config["normalisation"]
    save_file(weights, path, metadata={"config": json.dumps(config), "layout": str(LAYOUT)})


def load(path: Path) -> DomainDecoder:
    """Rebuild a decoder from its file. Raises OSError, and as `from_bytes`."""
    return from_bytes(path.read_bytes())


def from_bytes(data: bytes, sha256: str = "") -> DomainDecoder:
    """Rebuild a decoder from its file's content; `sha256` is what that must hash to, "" for anything.

    Raises Damaged if its hash is another one, SafetensorError if it is no such file, or OtherLayout if it is another
    network's.
    """
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise CorruptFileError(f"the decoder's file is not as it was written: its sha256 is not {sha256}")
    weights, metadata = parse(data), read_metadata(data)
    layout = metadata.get("layout", "1")
    if layout != str(LAYOUT):
        raise OtherLayout(f"the decoder's file is of layout {layout}, not {LAYOUT}; train anew")
    config = json.loads(metadata["config"])
    tuples = {name: tuple(config.get(name, ())) for name in ("labels", "separate")}
    normalisation = Normalization.from_json(config.get("normalisation"))
    decoder = DomainDecoder(DecoderConfig(**{**config, **tuples, "normalisation": normalisation}))
    decoder.load_state_dict(weights)
    return decoder.eval().requires_grad_(False)

"""A SAM's large networks as ONNX Runtime sessions, which on a CPU give the same numbers as PyTorch in less time.

Where the processor multiplies bfloat16, which ONNX Runtime does not, PyTorch is quicker (docs/decisions/
encoder-precision.md).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from skylight.model.runtime.cpu import trim_malloc
from skylight.model.runtime.onnx import Axes, Session
from skylight.model.sam.fast_mask_decoder import FastMaskDecoder, unfold
from skylight.model.sam.mobile_sam import TinyViT
from skylight.model.sam.segment_anything_import import Sam
from skylight.model.sam.tiny_sam import GRID, RIM_CHANNELS, TinySam

LAYOUT = 1  # of the exported files: raise it whenever `FastMaskDecoder`, an encoder or the rims change
# Weights of an encoder to export. ViT-B's 90 million would be in memory twice meanwhile; ViT-H's 630 million exceed the
# 2 GB of an ONNX file.
LARGEST_ENCODER = 20_000_000


class EncoderSession(nn.Module):
    """An image encoder's session: (1, 3, h, w) -> (1, 256, h / 16, w / 16), and taps if it has them."""

    def __init__(self, encoder: nn.Module, taps: Sequence[str], file: Path | None = None) -> None:
        super().__init__()
        self.img_size = int(cast(Any, encoder).img_size)
        example = {"pixels": torch.zeros(1, 3, self.img_size, self.img_size)}
        # MobileSAM's attention windows are laid out for one size.
        axes = {"pixels": (2, 3)} if taps else {}
        module = _WithTaps(encoder) if taps else encoder
        self._run = Session(module, example, ["features", *taps], axes, file=file)

    def forward(self, pixels: Tensor) -> Tensor:
        return self._run(pixels)[0]

    def with_taps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """As `TinyEncoder.with_taps`."""
        return self._run(pixels)


class _WithTaps(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Any:
        return cast(Any, self.encoder).with_taps(pixels)


class TinyDecoderSession(nn.Module):
    """The session of a `RimMaskDecoder`, for one prompt."""

    def __init__(self, decoder: nn.Module, file: Path | None = None) -> None:
        super().__init__()
        fine, middle = RIM_CHANNELS
        cells = GRID * GRID
        example = {**_cells(GRID), "rough": torch.zeros(cells, 4, middle), "sharp": torch.zeros(4 * cells, 4, fine)}
        axes: Axes = {**_CELLS_AXES, "rough": (0,), "sharp": (0,)}
        self._run = Session(FastMaskDecoder(decoder), example, ("masks", "scores"), axes, True, file)

    def forward(
        self, features: Tensor, position: Tensor, rims: Sequence[Tensor], sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        masks, scores = self._run(*_by_cells(features, position, sparse, dense), *rims[2:])
        return masks[None, 1:], scores[None, 1:]  # the first mask was never trained


class RimsSession(nn.Module):
    """The session of the tiny SAM's `Rims`; it returns them twice, first as `Rims`, then for `FastMaskDecoder`."""

    def __init__(self, rims: nn.Module, file: Path | None = None) -> None:
        super().__init__()
        example = {"thumbnail": torch.zeros(1, 3, 4 * GRID, 4 * GRID)}
        self._run = Session(rims, example, ("fine", "middle"), {"thumbnail": (2, 3)}, file=file)

    def forward(self, thumbnail: Tensor) -> tuple[Tensor, ...]:
        fine, middle = self._run(thumbnail)
        return fine, middle, *unfold(fine[0], middle[0])  # within the mask decoder's session this takes 3 ms more


class MaskDecoderSession(nn.Module):
    """The session of segment-anything's `MaskDecoder`, for one prompt."""

    def __init__(self, decoder: nn.Module, grid: int, file: Path | None = None) -> None:
        super().__init__()
        self._run = Session(FastMaskDecoder(decoder), _cells(grid), ("masks", "scores"), _CELLS_AXES, True, file)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        masks, scores = self._run(
            *_by_cells(image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings)
        )
        # The first mask is for unambiguous prompts, as in segment_anything/modeling/mask_decoder.py.
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        return masks[None, chosen], scores[None, chosen]


_CELLS_AXES: Axes = {"cells": (0, 1), "position": (0, 1), "sparse": (0,), "dense": (0, 1)}


def _cells(grid: int) -> dict[str, Tensor]:
    """Example inputs of `FastMaskDecoder`."""
    cells = torch.zeros(grid, grid, 256)
    return {"cells": cells, "position": cells, "sparse": torch.zeros(2, 256), "dense": cells}


def _by_cells(features: Tensor, position: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, ...]:
    """A mask decoder's inputs in the layout of `FastMaskDecoder`; nothing that is channels_last is copied."""
    if dense.stride(-1) == 0:  # no earlier mask: the same vector everywhere
        dense = dense[..., :1, :1]
    cells, places, added = (tensor[0].permute(1, 2, 0) for tensor in (features, position, dense))
    return cells, places, sparse[0], added


def accelerate(network: Sam, folder: Path | None = None, bfloat16: bool = False) -> None:
    """Replace a loaded network's mask decoder, and its encoder if that is small, by sessions; in place.

    The network cannot be trained afterwards. Exporting takes 0.9 s for the tiny SAM and 3 s for MobileSAM; `folder`,
    for these weights alone, keeps the exports for the next time. With `bfloat16` the encoder stays with PyTorch, which
    computes it in that type.
    """

    def file(name: str) -> Path | None:
        return folder and folder / f"{name}-{LAYOUT}-{torch.__version__}.onnx"

    network.eval().requires_grad_(False)
    encoder = network.image_encoder
    tiny = isinstance(network, TinySam)
    if bfloat16:
        if isinstance(encoder, TinyViT):
            encoder.fold()
    elif sum(weight.numel() for weight in encoder.parameters()) <= LARGEST_ENCODER:
        network.image_encoder = EncoderSession(encoder, ("context", "detail") if tiny else (), file("encoder"))
    decoder = network.mask_decoder
    if tiny:
        network.mask_decoder = TinyDecoderSession(decoder, file("decoder"))
        network.rims = RimsSession(network.rims, file("rims"))
    else:
        grid = int(network.prompt_encoder.image_embedding_size[0])
        network.mask_decoder = MaskDecoderSession(decoder, grid, file("decoder"))
    trim_malloc()

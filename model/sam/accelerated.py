"""SAM's two large networks by ONNX Runtime, which on a CPU gives the same numbers as PyTorch in less time.

Two quiet cores, ms by PyTorch and by ONNX Runtime (`make bench PARTS=encoders`): MobileSAM's encoder 1005 and 544, the
tiny SAM's 39 and 26. On busy ones the difference is larger, as PyTorch's threads wait for each other: 1673 and 688.
Where the processor multiplies bfloat16, which ONNX Runtime has not, PyTorch is the quicker one: MobileSAM's encoder
takes 1200 ms in float32, 984 by ONNX Runtime, 396 folded and in bfloat16 on an Intel Xeon with AMX (seven rounds in
turn), 827, 508 and 235 on an AMD EPYC with AVX-512 BF16 (five).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from skylight.model.runtime.cpu import trim_malloc
from skylight.model.runtime.onnx import Axes, Session
from skylight.model.sam.fast_mask_decoder import LeanDecoder, unfold
from skylight.model.sam.mobile_sam import TinyViT
from skylight.model.sam.segment_anything_import import Sam
from skylight.model.sam.tiny_sam import GRID, RIM_CHANNELS, TinySam

LAYOUT = 1  # of what is exported: to be raised whenever `LeanDecoder`, an encoder or the rims are written anew
# Weights. Those of ViT-B, 90 million, would be in memory twice while they are exported; ViT-H's, 630 million, exceed
# the 2 GB of an ONNX file.
LARGEST_ENCODER = 20_000_000


class Encoder(nn.Module):
    """An image encoder's session: (1, 3, h, w) -> (1, 256, h / 16, w / 16), and taps if it has them."""

    def __init__(self, encoder: nn.Module, taps: Sequence[str], file: Path | None = None) -> None:
        super().__init__()
        self.img_size = int(cast(Any, encoder).img_size)
        example = {"pixels": torch.zeros(1, 3, self.img_size, self.img_size)}
        # MobileSAM's windows of attention are cut for one size.
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


class TinyDecoder(nn.Module):
    """The session of a `RimMaskDecoder`, for one prompt."""

    def __init__(self, decoder: nn.Module, file: Path | None = None) -> None:
        super().__init__()
        fine, middle = RIM_CHANNELS
        cells = GRID * GRID
        example = {**_cells(GRID), "rough": torch.zeros(cells, 4, middle), "sharp": torch.zeros(4 * cells, 4, fine)}
        axes: Axes = {**_CELLS_AXES, "rough": (0,), "sharp": (0,)}
        self._run = Session(LeanDecoder(decoder), example, ("masks", "scores"), axes, True, file)

    def forward(
        self, features: Tensor, position: Tensor, rims: Sequence[Tensor], sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        masks, scores = self._run(*_by_cells(features, position, sparse, dense), *rims[2:])
        return masks[None, 1:], scores[None, 1:]  # the first mask was never trained


class Rims(nn.Module):
    """The session of the tiny SAM's `Rims`, which gives them a second time as `LeanDecoder` takes them."""

    def __init__(self, rims: nn.Module, file: Path | None = None) -> None:
        super().__init__()
        example = {"thumbnail": torch.zeros(1, 3, 4 * GRID, 4 * GRID)}
        self._run = Session(rims, example, ("fine", "middle"), {"thumbnail": (2, 3)}, file=file)

    def forward(self, thumbnail: Tensor) -> tuple[Tensor, ...]:
        fine, middle = self._run(thumbnail)
        return fine, middle, *unfold(fine[0], middle[0])  # as a part of the mask decoder's session it took 3 ms more


class MaskDecoder(nn.Module):
    """The session of segment-anything's `MaskDecoder`, for one prompt."""

    def __init__(self, decoder: nn.Module, grid: int, file: Path | None = None) -> None:
        super().__init__()
        self._run = Session(LeanDecoder(decoder), _cells(grid), ("masks", "scores"), _CELLS_AXES, True, file)

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
        # The first mask is for prompts that leave no doubt, as in segment_anything/modeling/mask_decoder.py.
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        return masks[None, chosen], scores[None, chosen]


_CELLS_AXES: Axes = {"cells": (0, 1), "position": (0, 1), "sparse": (0,), "dense": (0, 1)}


def _cells(grid: int) -> dict[str, Tensor]:
    """Examples of what `LeanDecoder` is asked."""
    cells = torch.zeros(grid, grid, 256)
    return {"cells": cells, "position": cells, "sparse": torch.zeros(2, 256), "dense": cells}


def _by_cells(features: Tensor, position: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, ...]:
    """What a mask decoder is asked, as `LeanDecoder` takes it; nothing is copied that is channels_last."""
    if dense.stride(-1) == 0:  # no earlier mask: the same vector everywhere
        dense = dense[..., :1, :1]
    cells, places, given = (each[0].permute(1, 2, 0) for each in (features, position, dense))
    return cells, places, sparse[0], given


def accelerate(network: Sam, folder: Path | None = None, bfloat16: bool = False) -> None:
    """Put sessions in the place of a loaded network's mask decoder, and of its encoder if that is small.

    Whose weights cannot be trained any more then. It takes 0.9 s for the tiny SAM, 3 s for MobileSAM, and the second
    time much less if there is a `folder`, of these weights alone, to keep them in. With `bfloat16` the encoder stays
    with PyTorch, for whoever has it computed in that type.
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
        network.image_encoder = Encoder(encoder, ("context", "detail") if tiny else (), file("encoder"))
    decoder = network.mask_decoder
    if tiny:
        network.mask_decoder = TinyDecoder(decoder, file("decoder"))
        network.rims = Rims(network.rims, file("rims"))
    else:
        grid = int(network.prompt_encoder.image_embedding_size[0])
        network.mask_decoder = MaskDecoder(decoder, grid, file("decoder"))
    trim_malloc()

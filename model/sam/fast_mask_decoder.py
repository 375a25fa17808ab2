"""segment-anything's mask decoder for one prompt, the same result by half of the multiplications.

A prompt has some seven tokens, an image 4096 cells. segment-anything projects every cell to keys, queries and values
first, although each is then met by seven tokens only. Multiplied in another order, (q W) x^T instead of q (x W^T)^T,
the projections are of the tokens, and what is left for the cells is one product with 8 x 7 vectors. Of 1.74 G
multiplications on a 64 x 64 grid 0.98 G remain, with one click. The transposed convolutions, whose stride is their
size, are products as well, so that the cells' channels lie side by side from beginning to end.

Up to rounding these are `segment_anything.modeling.MaskDecoder.predict_masks` and `TwoWayTransformer`.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FastMaskDecoder(nn.Module):
    """A loaded mask decoder's forward pass for one prompt; it shares the decoder's weights."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = cast(Any, decoder)

    def forward(
        self, cells: Tensor, position: Tensor, sparse: Tensor, dense: Tensor, *rims: Tensor
    ) -> tuple[Tensor, Tensor]:
        """All masks' logits (K, 4h, 4w) and predicted IoUs (K,).

        `cells` and `position` (h, w, 256) of the image; `sparse` (N, 256); `dense` (h, w, 256), or (1, 1, 256) where it
        is the same everywhere. `rims`: added in the upscaling, (h w, 4, 64) and (4 h w, 4, 32), as of `unfold`.
        """
        decoder = self.decoder
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight, sparse])
        height, width, channels = cells.shape
        rows = (cells + dense).reshape(-1, channels)
        tokens, rows = two_way(decoder.transformer, rows, position.reshape(-1, channels), tokens)
        upscaled = upscale(decoder.output_upscaling, rows, rims)
        networks = decoder.output_hypernetworks_mlps
        mixes = torch.stack([network(tokens[1 + i]) for i, network in enumerate(networks)])
        masks = fold(upscaled @ mixes.T, height, width)
        return masks, decoder.iou_prediction_head(tokens[:1])[0]


def two_way(transformer: Any, cells: Tensor, position: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
    """`TwoWayTransformer.forward` of one prompt: tokens (T, 256) and cells (n, 256)."""
    tokens = prompt
    for layer in transformer.layers:
        queries = tokens if layer.skip_first_layer_pe else tokens + prompt
        attended = layer.self_attn(queries[None], queries[None], tokens[None])[0]
        tokens = layer.norm1(attended if layer.skip_first_layer_pe else tokens + attended)
        placed = cells + position
        attended = from_cells(layer.cross_attn_token_to_image, tokens + prompt, placed, cells)
        tokens = layer.norm2(tokens + attended)
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        cells = layer.norm4(cells + to_cells(layer.cross_attn_image_to_token, placed, tokens + prompt, tokens))
    attended = from_cells(transformer.final_attn_token_to_image, tokens + prompt, cells + position, cells)
    return transformer.norm_final_attn(tokens + attended), cells


def from_cells(attention: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of a few `queries` (T, C) to many cells (n, C): (T, C).

    The keys' bias adds the same to all of a query's scores, so that softmax does not see it.
    """
    heads, count = attention.num_heads, queries.shape[0]
    projected = _heads(attention.q_proj(queries), heads)
    folded = projected @ _split(attention.k_proj.weight, heads) * projected.shape[-1] ** -0.5
    weights = torch.softmax(folded.reshape(heads * count, -1) @ keys.T, -1)
    mixed = (weights @ values).reshape(heads, count, -1)
    attended = mixed @ _split(attention.v_proj.weight, heads).transpose(1, 2)
    return cast(Tensor, attention.out_proj(attended.transpose(0, 1).reshape(count, -1) + attention.v_proj.bias))


def to_cells(attention: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of many cells (n, C) to a few `keys` and `values` (T, C): (n, C)."""
    heads, count = attention.num_heads, keys.shape[0]
    projected = _heads(attention.k_proj(keys), heads)
    projected = projected * projected.shape[-1] ** -0.5
    folded = (projected @ _split(attention.q_proj.weight, heads)).reshape(heads * count, -1)
    bias = (projected @ attention.q_proj.bias.reshape(heads, -1, 1)).reshape(-1)
    scores = (queries @ folded.T + bias).reshape(-1, heads, count)
    mixed = _heads(attention.v_proj(values), heads) @ _split(attention.out_proj.weight.T, heads)
    weights = torch.softmax(scores, -1).reshape(-1, heads * count)
    return cast(Tensor, weights @ mixed.reshape(heads * count, -1) + attention.out_proj.bias)


def _heads(rows: Tensor, heads: int) -> Tensor:
    """(T, heads d) as (heads, T, d)."""
    return rows.reshape(rows.shape[0], heads, -1).transpose(0, 1)


def _split(weight: Tensor, heads: int) -> Tensor:
    """(heads d, C) as (heads, d, C)."""
    return weight.reshape(heads, -1, weight.shape[-1])


def upscale(layers: nn.Module, cells: Tensor, rims: Sequence[Tensor] = ()) -> Tensor:
    """`MaskDecoder.output_upscaling` of cells (n, C): (16 n, C / 8), each cell's quarters' quarters in turn."""
    widen, norm, activate, widen_again, activate_again = cast(Any, layers)
    wide = _transposed(widen, cells)
    if rims:
        wide = wide + rims[0]
    wide = activate(F.layer_norm(wide, norm.weight.shape, norm.weight, norm.bias, norm.eps))
    wide = _transposed(widen_again, wide.reshape(-1, wide.shape[-1]))
    if rims:
        wide = wide + rims[1]
    return cast(Tensor, activate_again(wide).reshape(-1, wide.shape[-1]))


def _transposed(layer: Any, cells: Tensor) -> Tensor:
    """A transposed convolution of size and stride 2 as a product: (n, C) to (n, 4, D), the quarters row by row."""
    inputs, outputs = layer.weight.shape[:2]
    weight = layer.weight.permute(0, 2, 3, 1).reshape(inputs, 4 * outputs)
    return cast(Tensor, (cells @ weight).reshape(-1, 4, outputs) + layer.bias)


def unfold(fine: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
    """The rims (D, 4h, 4w) and (C, 2h, 2w) in the order of `upscale`: (h w, 4, C) and (4 h w, 4, D)."""
    height, width = middle.shape[1] // 2, middle.shape[2] // 2
    rough = middle.reshape(middle.shape[0], height, 2, width, 2).permute(1, 3, 2, 4, 0)
    sharp = fine.reshape(fine.shape[0], height, 2, 2, width, 2, 2).permute(1, 4, 2, 5, 3, 6, 0)
    return rough.reshape(-1, 4, middle.shape[0]), sharp.reshape(-1, 4, fine.shape[0])


def fold(rows: Tensor, height: int, width: int) -> Tensor:
    """(16 h w, K) in the order of `upscale` as pictures (K, 4h, 4w)."""
    quarters = rows.reshape(height, width, 2, 2, 2, 2, -1).permute(6, 0, 2, 4, 1, 3, 5)
    return quarters.reshape(-1, 4 * height, 4 * width)

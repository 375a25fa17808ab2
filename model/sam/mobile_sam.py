"""MobileSAM: SAM's own prompt encoder and mask decoder behind a small TinyViT image encoder.

The encoder is the 5-million-parameter TinyViT of Wu et al. 2022 (arXiv 2207.10666), as Zhang et al. 2023
(arXiv 2306.14289, "Faster Segment Anything") distilled it from SAM's ViT-H: the last merging does not halve
the grid, and SAM's convolutional neck takes the place of the classifier. Module names are those of the
published `mobile_sam.pt`, so that its state dict loads with `strict=True`. Inference only: no dropout, no
stochastic depth.
"""

from itertools import pairwise, product
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from skylight.model.sam.segment_anything_import import LayerNorm2d, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

IMAGE_SIZE = 1024  # pixels; the longest side of the image, the other one is padded
GRID = IMAGE_SIZE // 16  # cells of the embedding a side, each 16 pixels wide
EMBEDDING_DIM = 256  # channels between SAM's encoder and its decoder
DIMS = (64, 128, 160, 320)  # channels of the four stages
DEPTHS = (2, 2, 6, 2)  # blocks of the four stages
HEADS = (0, 4, 5, 10)  # attention heads; stage 0 is convolutional
WINDOWS = (0, 7, 14, 7)  # cells of an attention window a side
MERGE_STRIDES = (2, 2, 1)  # after stages 0, 1, 2: 256 -> 128 -> 64 -> 64 cells a side
EXPANSION = 4  # hidden channels of an MLP or inverted bottleneck, as a multiple of its input
CLASSES = 1000  # of the ImageNet classifier in the checkpoint


class ConvNorm(nn.Sequential):
    """A convolution without bias, then batch normalisation: (B, in, H, W) -> (B, out, H/stride, W/stride)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(outputs)


class PatchEmbed(nn.Module):
    """The stem: two strided convolutions, (B, 3, H, W) -> (B, 64, H/4, W/4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, dim // 2, 3, 2), nn.GELU(), ConvNorm(dim // 2, dim, 3, 2))

    def forward(self, image: Tensor) -> Tensor:
        return cast(Tensor, self.seq(image))


class MBConv(nn.Module):
    """Inverted bottleneck with a residual: widen, depthwise 3x3, narrow; (B, C, H, W) in and out."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = dim * EXPANSION
        self.conv1 = ConvNorm(dim, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(x + self.conv3(inner))


class Merging(nn.Module):
    """Between two stages: (B, in, H, W) -> (B, out, H/stride, W/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs)
        self.conv2 = ConvNorm(outputs, outputs, 3, stride=stride, groups=outputs)
        self.conv3 = ConvNorm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


def offset_index(side: int) -> Tensor:
    """Which learnt bias each pair of cells of a `side` x `side` window uses: (side^2, side^2) int64.

    Pairs of the same absolute row and column distance share one bias. The published checkpoint numbers the
    distances as they first occur, cells taken row by row; from the first cell the distances are the cells'
    own coordinates, so distance (dy, dx) has number dy * side + dx.
    """
    cells = torch.tensor(list(product(range(side), repeat=2)))
    distance = (cells[:, None] - cells[None]).abs()
    return distance[..., 0] * side + distance[..., 1]


class Attention(nn.Module):
    """Multi-head attention inside one window, with a learnt bias per distance: (B, side^2, C) in and out."""

    offsets: Tensor

    def __init__(self, dim: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(heads, side * side))
        self.register_buffer("offsets", offset_index(side), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, cells, dim = x.shape
        # The projection holds query, key and value of one head side by side, then those of the next head.
        qkv = self.qkv(self.norm(x)).view(batch, cells, self.heads, 3, dim // self.heads)
        query, key, value = qkv.permute(3, 0, 2, 1, 4)
        # Looked up for every image, 6 ms of 1,600: a stored copy would be stale after weights are loaded.
        bias = self.attention_biases[None, :, self.offsets].to(query.dtype)  # with fewer axes PyTorch takes a slow path
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return cast(Tensor, self.proj(mixed.transpose(1, 2).reshape(batch, cells, dim)))


class Mlp(nn.Module):
    """Per-cell perceptron, normalised first: (..., C) in and out."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, dim * EXPANSION)
        self.fc2 = nn.Linear(dim * EXPANSION, dim)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(F.gelu(self.fc1(self.norm(x)))))


class Block(nn.Module):
    """Windowed attention, depthwise convolution, MLP: (B, C, H, W) in and out, for any H and W."""

    def __init__(self, dim: int, heads: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.attn = Attention(dim, heads, side)
        self.local_conv = ConvNorm(dim, dim, 3, groups=dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.local_conv(x + self.attend(x)).permute(0, 2, 3, 1)
        return cast(Tensor, x + self.mlp(x)).permute(0, 3, 1, 2)

    def attend(self, x: Tensor) -> Tensor:
        """Attention in windows; the last windows are padded with zeros, which are attended to."""
        batch, dim, height, width = x.shape
        side = self.side
        x = F.pad(x, (0, -width % side, 0, -height % side))
        rows, columns = x.shape[2] // side, x.shape[3] // side
        windows = x.view(batch, dim, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
        mixed = self.attn(windows.reshape(-1, side * side, dim))
        mixed = mixed.view(batch, rows, columns, side, side, dim).permute(0, 5, 1, 3, 2, 4)
        return cast(Tensor, mixed.reshape(batch, dim, rows * side, columns * side)[:, :, :height, :width])


class Stage(nn.Module):
    """Blocks on one grid, then the merging that leads to the next stage (none after the last)."""

    def __init__(self, blocks: list[nn.Module], merging: Merging | None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = merging

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return x if self.downsample is None else cast(Tensor, self.downsample(x))


class TinyViT(nn.Module):
    """Image encoder: (B, 3, 1024, 1024) float normalised RGB -> (B, 256, 64, 64) float embedding."""

    img_size = IMAGE_SIZE  # the name that segment_anything's Sam reads

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(DIMS[0])
        merges = [Merging(a, b, stride) for (a, b), stride in zip(pairwise(DIMS), MERGE_STRIDES, strict=True)]
        self.layers = nn.Sequential(*(Stage(_blocks(i), m) for i, m in enumerate([*merges, None])))
        # Never run: the checkpoint contains the classifier, and a strict load needs its modules.
        self.norm_head = nn.LayerNorm(DIMS[-1])
        self.head = nn.Linear(DIMS[-1], CLASSES)
        self.neck = nn.Sequential(
            nn.Conv2d(DIMS[-1], EMBEDDING_DIM, 1, bias=False),
            LayerNorm2d(EMBEDDING_DIM),
            nn.Conv2d(EMBEDDING_DIM, EMBEDDING_DIM, 3, padding=1, bias=False),
            LayerNorm2d(EMBEDDING_DIM),
        )

    def forward(self, image: Tensor) -> Tensor:
        return cast(Tensor, self.neck(self.layers(self.patch_embed(image))))

    def fold(self) -> None:
        """Fold batch norms into their convolutions and put channels last, in place: quicker on a CPU.

        The output stays the same, but the weights are no longer those of the checkpoint.
        """
        for module in list(self.modules()):
            if isinstance(module, ConvNorm) and isinstance(module.bn, nn.BatchNorm2d):
                module.c, module.bn = fuse_conv_bn_eval(module.c, module.bn), nn.Identity()
        self.to(memory_format=torch.channels_last)


def _blocks(stage: int) -> list[nn.Module]:
    """The blocks of stage 0 (convolutional), 1, 2 or 3 (attention), in order."""
    if stage == 0:
        return [MBConv(DIMS[0]) for _ in range(DEPTHS[0])]
    return [Block(DIMS[stage], HEADS[stage], WINDOWS[stage]) for _ in range(DEPTHS[stage])]


def build_mobile_sam() -> Sam:
    """A `segment_anything.modeling.Sam` in eval mode with random weights.

    `sam.load_state_dict(torch.load(path, weights_only=True))` loads the published weights.
    """
    sam = Sam(
        image_encoder=TinyViT(),
        prompt_encoder=PromptEncoder(
            embed_dim=EMBEDDING_DIM,
            image_embedding_size=(GRID, GRID),
            input_image_size=(IMAGE_SIZE, IMAGE_SIZE),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=EMBEDDING_DIM,
            transformer=TwoWayTransformer(depth=2, embedding_dim=EMBEDDING_DIM, num_heads=8, mlp_dim=2048),
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
    sam.eval()
    return sam

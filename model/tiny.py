"""The bundled `tiny` SAM: EfficientNet-Lite0 under segment-anything's own prompt encoder and mask decoder.

The image encoder is EfficientNet-Lite0 (Tan & Le 2019; the "Lite" variant has neither squeeze-and-excitation nor
swish, so it is quick on a CPU) with a small feature pyramid neck. Two additions, both around segment-anything's
classes, let so small a network learn to follow a click:

1. every prompt is also drawn into the prompt encoder's mask input (`draw_prompt`), and
2. the embedding sampled at a point goes through one linear layer and is added to that point's token.
"""

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

INPUT_SIZE = 512  # px, longest side of the image as the encoder sees it
GRID = 32  # the embedding is (256, GRID, GRID): stride 16
CHANNELS = 256
# (repeats, kernel, stride, expansion, output channels) per stage: table 1 of arXiv 1905.11946 with width and depth 1.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
TAPS = (4, 10, 15)  # blocks whose output the neck reads: strides 8, 16, 32
POINT_SIGMAS = (
    (2.0, 4.0),
    (8.0, 2.0),
)  # (sigma, height) of the Gaussians drawn for a click, at quarter resolution
BOX_INSIDE, BOX_OUTSIDE = 2.0, -6.0
LOGIT_LIMIT = 8.0  # earlier logits are clamped to +-8 (p = 0.9997) before they go back in


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding (more on the right and below), which the ImageNet weights expect."""

    def forward(self, x: Tensor) -> Tensor:
        if self.groups > 1 and x.requires_grad and x.device.type == "cpu":
            # Depthwise backward in bfloat16 is slow on a CPU: a training step takes 1.84 s, so 1.61 s.
            with torch.autocast("cpu", enabled=False):
                return self._same(x.float())
        return self._same(x)

    def _same(self, x: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        if pads[0] == pads[1] and pads[2] == pads[3]:
            return F.conv2d(x, self.weight, self.bias, self.stride, (pads[2], pads[0]), 1, self.groups)
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, 1, self.groups)


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        SameConv(inputs, outputs, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3),
    ]


class InvertedResidual(nn.Module):
    """Mobile inverted bottleneck: expand, depthwise convolution, project; with a skip where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers = [*_conv_norm(inputs, wide, 1), nn.ReLU6(inplace=True)] if expansion != 1 else []
        layers += [*_conv_norm(wide, wide, kernel, stride, groups=wide), nn.ReLU6(inplace=True)]
        self.layers = nn.Sequential(*layers, *_conv_norm(wide, outputs, 1))
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.skip else y


class TinyEncoder(nn.Module):
    """EfficientNet-Lite0 and a neck: (B, 3, 512, 512) normalised RGB -> (B, 256, 32, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.img_size = INPUT_SIZE  # segment-anything's Sam reads this name
        self.stem = nn.Sequential(*_conv_norm(3, 32, 3, 2), nn.ReLU6(inplace=True))
        blocks: list[nn.Module] = []
        inputs = 32
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for i in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.fine = nn.Conv2d(40, CHANNELS, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(112, CHANNELS, 1)
        self.coarse = nn.Conv2d(320, CHANNELS, 1)
        self.merge = nn.Sequential(
            LayerNorm2d(CHANNELS),
            nn.GELU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            LayerNorm2d(CHANNELS),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        taps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in TAPS:
                taps.append(x)
        fine, middle, coarse = taps
        wide = F.interpolate(self.coarse(coarse), scale_factor=2.0, mode="bilinear", align_corners=False)
        merged: Tensor = self.merge(self.fine(fine) + self.middle(middle) + wide)
        return merged


class TinySam(Sam):  # type: ignore[misc]  # segment-anything has no types
    """segment-anything's Sam with the tiny encoder, a 32 x 32 grid and the two additions above."""

    def __init__(self) -> None:
        transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=1024, num_heads=8)
        super().__init__(
            image_encoder=TinyEncoder(),
            prompt_encoder=PromptEncoder(CHANNELS, (GRID, GRID), (INPUT_SIZE, INPUT_SIZE), mask_in_chans=16),
            mask_decoder=MaskDecoder(transformer_dim=CHANNELS, transformer=transformer),
        )
        self.point_context = nn.Linear(CHANNELS, CHANNELS)

    def encode_prompts(
        self,
        features: Tensor,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        logits: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Prompts as the mask decoder's two inputs.

        `features` (1, 256, 32, 32); `points` (B, N, 2) xy in px of the 512 px input with `labels` (B, N): 1 positive,
        0 negative, -1 padding; `boxes` (B, 4) xyxy; `logits` (B, 1, 128, 128) of an earlier answer. Any may be None,
        as long as there is a point or a box. Gives sparse (B, M, 256) and dense (B, 256, 32, 32) embeddings.
        """
        drawn = draw_prompt(points, labels, boxes)
        if logits is not None:
            drawn = drawn + logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        prompt = None if points is None or labels is None else (points, labels)
        sparse, dense = self.prompt_encoder(points=prompt, boxes=boxes, masks=drawn)
        if points is not None and labels is not None:
            at = (points + 0.5) / INPUT_SIZE * 2 - 1
            sampled = F.grid_sample(
                features.float().expand(len(points), -1, -1, -1), at[:, :, None].float(), align_corners=False
            )
            context = self.point_context(sampled[..., 0].transpose(1, 2)) * (labels >= 0)[..., None]
            sparse = torch.cat([sparse[:, : points.shape[1]] + context, sparse[:, points.shape[1] :]], dim=1)
        return sparse, dense


def draw_prompt(points: Tensor | None, labels: Tensor | None, boxes: Tensor | None) -> Tensor:
    """Prompts drawn as an image of logits, (B, 1, 128, 128) float32: clicks as Gaussians, a box as a rectangle.

    Arguments as for `TinySam.encode_prompts`. Raises ValueError without any prompt.
    """
    given = points if points is not None else boxes
    if given is None:
        raise ValueError("a prompt needs at least one point or a box")
    size = 4 * GRID
    axis = (torch.arange(size, device=given.device, dtype=torch.float32) + 0.5) * (INPUT_SIZE / size) - 0.5  # px
    drawn = torch.zeros((len(given), 1, size, size), device=given.device)
    if points is not None and labels is not None:
        sign = torch.where(labels > 0, 1.0, torch.where(labels == 0, -1.0, 0.0))
        dx = (axis - points[..., :1]) / 4  # (B, N, size), in quarter-resolution cells
        dy = (axis - points[..., 1:]) / 4
        for sigma, height in POINT_SIGMAS:
            gx, gy = torch.exp(-(dx**2) / (2 * sigma**2)), torch.exp(-(dy**2) / (2 * sigma**2))
            drawn = drawn + height * torch.einsum("bn,bny,bnx->byx", sign, gy, gx)[:, None]
    if boxes is not None:
        x0, y0, x1, y1 = (boxes[:, i, None] for i in range(4))
        inside = ((axis >= y0) & (axis <= y1))[:, :, None] & ((axis >= x0) & (axis <= x1))[:, None, :]
        drawn = drawn + torch.where(inside, BOX_INSIDE, BOX_OUTSIDE)[:, None]
    return drawn

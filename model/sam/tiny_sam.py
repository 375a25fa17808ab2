"""The bundled `tiny` SAM: EfficientNet-Lite0 under segment-anything's own prompt encoder and mask decoder.

The image encoder is EfficientNet-Lite0 (Tan & Le 2019; the "Lite" variant has neither squeeze-and-excitation nor
swish, so it is quick on a CPU) with a small feature pyramid neck. Three additions, all around segment-anything's
classes, let so small a network learn to respond to clicks:

1. every prompt is also drawn into the prompt encoder's mask input (`draw_prompt`);
2. the embedding and the rims at a point go through a linear layer and are added to that point's token;
3. the rims, a few convolutions over the embedding's thumbnail, are added in the mask decoder's upscaling, as SAM 2 does
   with its encoder's early layers (arXiv 2408.00714): a 32 x 32 grid alone cannot outline objects smaller than a cell.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skylight.model.sam.segment_anything_import import LayerNorm2d, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

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
# The standard deviations of the middle tap's values and of the fine one's, over seven packs.
CONTEXT_SCALE, DETAIL_SCALE = 5.35, 7.94
POINT_SIGMAS = (
    (2.0, 4.0),
    (8.0, 2.0),
)  # (sigma, height) of the Gaussians drawn for a click, at quarter resolution
RIM_CHANNELS = (32, 64)  # at a quarter and at an eighth of the input's resolution
BOX_INSIDE, BOX_OUTSIDE = 2.0, -6.0
LOGIT_LIMIT = 8.0  # earlier logits are clamped to +-8 (p = 0.9997) before they go back in


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding (more on the right and below), which the ImageNet weights expect."""

    def forward(self, x: Tensor) -> Tensor:
        if self.groups > 1 and x.requires_grad and x.device.type == "cpu":
            # Depthwise backward in bfloat16 is slow on a CPU: in float32 a training step takes 12 % less time.
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
        return self.with_taps(x)[0]

    def with_taps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The embedding (B, 256, 32, 32), and two taps with ImageNet's weights, which pretraining does not change:

        the middle one (B, 112, 32, 32) and the fine one (B, 40, 64, 64).
        """
        x = self.stem(x)
        taps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in TAPS:
                taps.append(x)
        fine, middle, coarse = taps
        wide = F.interpolate(self.coarse(coarse), scale_factor=2.0, mode="bilinear", align_corners=False)
        merged: Tensor = self.merge(self.fine(fine) + self.middle(middle) + wide)
        return merged, middle / CONTEXT_SCALE, fine / DETAIL_SCALE


class Rims(nn.Module):
    """Details finer than the grid: (B, 3, 128, 128) thumbnail in [-1, 1] -> (B, 32, 128, 128) and (B, 64, 64, 64)."""

    def __init__(self) -> None:
        super().__init__()
        fine, middle = RIM_CHANNELS
        self.fine = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, fine, 3, padding=1),
            nn.GELU(),
        )
        self.middle = nn.Sequential(nn.Conv2d(fine, middle, 3, stride=2, padding=1), nn.GELU())
        self.add_fine = nn.Conv2d(fine, fine, 1)
        self.add_middle = nn.Conv2d(middle, middle, 1)

    def forward(self, thumbnail: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(thumbnail)
        return self.add_fine(fine), self.add_middle(self.middle(fine))


class RimMaskDecoder(MaskDecoder):  # type: ignore[misc]  # segment-anything has no types
    """segment-anything's mask decoder, its upscaled embedding joined by the rims."""

    def forward(
        self, features: Tensor, position: Tensor, rims: Sequence[Tensor], sparse: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, 3, 4h, 4w) and predicted IoUs (B, 3) of B prompts, on one image or on one each.

        `features` (1 or B, 256, h, w), `rims` of as many, `position` (1, 256, h, w), `sparse` (B, N, 256), `dense`
        (B, 256, h, w).
        """
        prompts, (height, width) = len(sparse), features.shape[-2:]
        outputs = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([outputs.expand(prompts, -1, -1), sparse], 1)
        hidden, image = self.transformer(features + dense, position.expand(prompts, -1, -1, -1), tokens)
        image = image.transpose(1, 2).view(prompts, CHANNELS, height, width)
        widen, norm, activate, widen_again, activate_again = self.output_upscaling
        fine, middle = rims[:2]
        image = activate(norm(widen(image) + middle))
        image = activate_again(widen_again(image) + fine)
        networks = list(self.output_hypernetworks_mlps)[1:]  # without the first, for unambiguous prompts
        mixes = torch.stack([network(hidden[:, 2 + i]) for i, network in enumerate(networks)], 1)
        masks = (mixes @ image.flatten(2)).view(prompts, len(networks), 4 * height, 4 * width)
        return masks, self.iou_prediction_head(hidden[:, 0])[:, 1:]


class TinySam(Sam):  # type: ignore[misc]  # segment-anything has no types
    """segment-anything's Sam with the tiny encoder, a 32 x 32 grid and the additions above."""

    def __init__(self) -> None:
        transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=1024, num_heads=8)
        super().__init__(
            image_encoder=TinyEncoder(),
            prompt_encoder=PromptEncoder(CHANNELS, (GRID, GRID), (INPUT_SIZE, INPUT_SIZE), mask_in_chans=16),
            mask_decoder=RimMaskDecoder(transformer_dim=CHANNELS, transformer=transformer),
        )
        self.rims = Rims()
        self.point_context = nn.Linear(CHANNELS + RIM_CHANNELS[0], CHANNELS)

    def decode(
        self,
        features: Tensor,
        rims: Sequence[Tensor],
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        logits: Tensor | None,
        offset: tuple[int, int] = (0, 0),
        position: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Three masks' logits (B, 3, 4h, 4w) and their predicted IoUs (B, 3) for B prompts, on one image or one each.

        `features` (1 or B, 256, h, w) and `rims` (of its thumbnail) of an image, or of a part of it, which then starts
        at `offset` (row, column) of the 32 x 32 grid. `points` (B, N, 2) xy in px of the part with `labels`
        (B, N): 1 positive, 0 negative; `boxes` (B, 4) xyxy; `logits` (B, 1, 4h, 4w) of an earlier answer. Any of these
        may be None, as long as there is a point or a box. `position` is the result of `prompt_encoder.get_dense_pe()`,
        for repeated calls.
        """
        height, width = features.shape[-2:]
        drawn = draw_prompt(points, labels, boxes, (4 * height, 4 * width))
        if logits is not None:
            drawn = drawn + logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        stride = INPUT_SIZE // GRID
        shift = torch.tensor([offset[1] * stride, offset[0] * stride], device=features.device)
        prompt = None if points is None or labels is None else (points + shift, labels)
        shifted_boxes = None if boxes is None else boxes + shift.repeat(2)
        sparse, dense = self.prompt_encoder(points=prompt, boxes=shifted_boxes, masks=drawn)
        if points is not None:
            extent = torch.tensor([width * stride, height * stride], device=features.device)
            at = ((points + 0.5) / extent * 2 - 1)[:, :, None].float()
            sampled = [
                F.grid_sample(plane.float().expand(len(points), -1, -1, -1), at, align_corners=False)[..., 0]
                for plane in (features, rims[0])
            ]
            context = self.point_context(torch.cat(sampled, 1).transpose(1, 2))
            sparse = torch.cat([sparse[:, : points.shape[1]] + context, sparse[:, points.shape[1] :]], dim=1)
        if position is None:
            position = self.prompt_encoder.get_dense_pe()
        position = position[..., offset[0] : offset[0] + height, offset[1] : offset[1] + width]
        masks, scores = self.mask_decoder(features, position, rims, sparse, dense)
        return masks, scores


def draw_prompt(points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Prompts drawn as an image of logits, (B, 1, *size) float32: clicks as Gaussians, a box as a rectangle.

    Arguments as for `TinySam.decode`, `size` (rows, columns) at a quarter of the input's resolution. Raises ValueError
    without any prompt.
    """
    prompts = points if points is not None else boxes
    if prompts is None:
        raise ValueError("a prompt needs at least one point or a box")
    # The cells' centers, px.
    down, across = (torch.arange(n, device=prompts.device, dtype=torch.float32) * 4 + 1.5 for n in size)
    drawn = torch.zeros((len(prompts), 1, *size), device=prompts.device)
    if points is not None and labels is not None:
        sign = torch.where(labels > 0, 1.0, -1.0)
        dx = (across - points[..., :1]) / 4  # (B, N, columns), in cells
        dy = (down - points[..., 1:]) / 4
        for sigma, height in POINT_SIGMAS:
            gx, gy = torch.exp(-(dx**2) / (2 * sigma**2)), torch.exp(-(dy**2) / (2 * sigma**2))
            drawn = drawn + height * torch.einsum("bn,bny,bnx->byx", sign, gy, gx)[:, None]
    if boxes is not None:
        x0, y0, x1, y1 = (boxes[:, i, None] for i in range(4))
        inside = ((down >= y0) & (down <= y1))[:, :, None] & ((across >= x0) & (across <= x1))[:, None, :]
        drawn = drawn + torch.where(inside, BOX_INSIDE, BOX_OUTSIDE)[:, None]
    return drawn

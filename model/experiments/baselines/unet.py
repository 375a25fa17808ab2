"""U-Nets, trained on a few masks from scratch, or with an encoder that was pretrained on ImageNet.

The one from scratch follows Ronneberger et al. 2015 (arXiv 1505.04597) with a quarter of its channels and BatchNorm.
The other is segmentation-models-pytorch's `Unet` with EfficientNet-Lite0 as its encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from skylight.model.decoder.losses import crop_loss
from skylight.model.masks.label_map import IGNORE
from skylight.model.runtime.cpu import has_bfloat16
from skylight.model.sam.imagenet_weights import load_layers

Picture = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # an image (H, W, 3) RGB and its label map (H, W)
DEEPEST = 32  # px of the input per cell of the coarsest level; an image's sides are padded to multiples of it
ENCODER = "tu-tf_efficientnet_lite0"  # timm's, which pads as TensorFlow, where the weights were trained
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, RGB in [0, 255]


@dataclass(frozen=True)
class UNetConfig:
    """How a U-Net is trained; docs/decisions/baselines.md has what fewer steps would do."""

    imagenet: bool = False  # whether the encoder is EfficientNet-Lite0 with ImageNet's weights
    steps: int | None = None  # None: `first_steps` with one image and `image_steps` more for each further one
    first_steps: int = 300
    image_steps: int = 20
    batch: int = 8  # crops per step
    side: int = 512  # px, the longer side to which an image is scaled, as the tiny SAM sees it
    crop: int = 256  # px, a multiple of DEEPEST
    centred: float = 0.3  # share of crops laid around an object; as the domain decoder's
    learning_rate: float = 2e-3  # AdamW, one cycle
    encoder_rate: float = 2e-4  # of ImageNet's weights
    frozen: int = 0  # of the encoder's 17 layers, from the stem on, that keep ImageNet's weights
    weight_decay: float = 0.02


class UNet(nn.Module):
    """Five levels of two convolutions each, joined at every resolution; 1.9 M parameters for one label."""

    def __init__(self, classes: int, channels: tuple[int, ...] = (16, 32, 64, 128, 256)) -> None:
        super().__init__()
        self.down = nn.ModuleList(_two(a, b) for a, b in zip((3, *channels), channels, strict=False))
        pairs = list(zip(channels[:0:-1], channels[-2::-1], strict=True))  # (deeper, shallower), the deepest first
        self.rise = nn.ModuleList(nn.ConvTranspose2d(deep, shallow, 2, stride=2) for deep, shallow in pairs)
        self.up = nn.ModuleList(_two(2 * shallow, shallow) for _, shallow in pairs)
        self.head = nn.Conv2d(channels[0], classes, 1)

    def forward(self, picture: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of pictures (B, 3, H, W) in [0, 1]; H and W are multiples of 32."""
        x, skips = (picture - 0.5) / 0.25, []
        for i, level in enumerate(self.down):
            x = level(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for rise, level, skip in zip(self.rise, self.up, skips[-2::-1], strict=True):
            x = level(torch.cat([skip, rise(x)], 1))
        logits: Tensor = self.head(x)
        return logits


class ImageNetUNet(nn.Module):
    """segmentation-models-pytorch's U-Net with EfficientNet-Lite0 as its encoder.

    The encoder's BatchNorm keeps ImageNet's statistics: a few images' own are too noisy.
    """

    def __init__(self, classes: int) -> None:
        """Untrained. Raises ModuleNotFoundError without the extra `simulate`."""
        from segmentation_models_pytorch import Unet  # an optional extra

        super().__init__()
        self.unet = Unet(ENCODER, encoder_weights=None, classes=classes)
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN)[:, None, None] / 255, persistent=False)
        self.register_buffer("deviation", torch.tensor(PIXEL_STD)[:, None, None] / 255, persistent=False)

    @property
    def layers(self) -> list[nn.Module]:
        """The encoder's 17 layers: the stem, and the blocks."""
        model = self.unet.encoder.model
        return [nn.ModuleList([model.conv_stem, model.bn1]), *(block for stage in model.blocks for block in stage)]

    def load_imagenet(self) -> None:
        """Give the encoder ImageNet's weights. Raises ModuleNotFoundError without the extra `simulate`."""
        load_layers(self.layers)

    def train(self, mode: bool = True) -> "ImageNetUNet":
        """Switch to training or back; the encoder's norms stay as they are."""
        super().train(mode)
        self.unet.encoder.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of images (B, 3, H, W) in [0, 1]; H and W are multiples of 32."""
        logits: Tensor = self.unet((image - self.mean) / self.deviation)
        return logits


def _two(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions, each normed and rectified."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def build_unet(labels: int, config: UNetConfig) -> UNet | ImageNetUNet:
    """An untrained U-Net for `labels` labels; an encoder that is to have ImageNet's weights does not have them yet."""
    return (ImageNetUNet if config.imagenet else UNet)(labels + 1)


def train_unet(pictures: Sequence[Picture], labels: int, config: UNetConfig, seed: int) -> nn.Module:
    """Train a U-Net for `labels` labels; the same pictures and seed give the same one on the same machine.

    Label maps hold 0 for background, k for the k-th label, 255 where nothing is to be learned.
    """
    torch.manual_seed(seed)
    network = build_unet(labels, config).to(memory_format=torch.channels_last).train()
    if isinstance(network, ImageNetUNet):
        network.load_imagenet()
        for layer in network.layers[: config.frozen]:
            layer.requires_grad_(False)
    slow = [p for name, p in network.named_parameters() if name.startswith("unet.encoder.") and p.requires_grad]
    fast = [p for name, p in network.named_parameters() if not name.startswith("unet.encoder.")]
    groups = [{"params": fast, "lr": config.learning_rate}, {"params": slow, "lr": config.encoder_rate}]
    groups = [group for group in groups if group["params"]]
    steps = config.steps or config.first_steps + config.image_steps * (len(pictures) - 1)
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.15)
    crops = Crops(pictures, labels, config, np.random.default_rng(seed))
    half = has_bfloat16()
    for _ in range(steps):
        images, targets = crops.draw()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = network(images.contiguous(memory_format=torch.channels_last))
        loss = crop_loss(logits.float(), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def apply_unet(network: nn.Module, image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The label map (H, W) of an image (H, W, 3), found on it scaled so that its longer side is `side` px."""
    scaled = np.asarray(Image.fromarray(image).resize(_scaled(image, side), Image.Resampling.BILINEAR))
    rows, columns = scaled.shape[:2]
    padded = np.pad(scaled, ((0, -rows % DEEPEST), (0, -columns % DEEPEST), (0, 0)), "edge")
    picture = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
        logits = network(picture.contiguous(memory_format=torch.channels_last)).float()
    full = F.interpolate(logits[..., :rows, :columns], image.shape[:2], mode="bilinear", align_corners=False)
    return full[0].argmax(0).numpy().astype(np.uint8)


class Crops:
    """Draws batches of augmented crops of some pictures: flips, quarter turns, contrast, brightness, gamma."""

    def __init__(self, pictures: Sequence[Picture], labels: int, config: UNetConfig, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.classes = torch.arange(labels + 1, dtype=torch.uint8)[:, None, None]
        self.items = [_prepared(picture, config) for picture in pictures]
        known = [(each != 0) & (each != IGNORE) for _, each in self.items]
        self.objects = [np.flatnonzero(mask).astype(np.int32) for mask in known]

    def draw(self) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, c, c) in [0, 1] and targets (B, labels + 1, c, c), one-hot or all zero where ignored."""
        several = self.rng.integers(len(self.items), size=self.config.batch)
        images, targets = (torch.stack(parts) for parts in zip(*(self._crop(int(i)) for i in several), strict=True))
        gamma, gain = (torch.empty(len(several), 1, 1, 1).uniform_(-1, 1).mul(0.35).exp() for _ in range(2))
        shift = torch.empty_like(gain).uniform_(-0.12, 0.12)
        bent = (images.float() / 255) ** gamma
        middle = bent.mean((1, 2, 3), keepdim=True)
        return ((bent - middle) * gain + middle + shift).clamp(0, 1), targets

    def _crop(self, i: int) -> tuple[Tensor, Tensor]:
        rng, side, (image, label_map), objects = self.rng, self.config.crop, self.items[i], self.objects[i]
        centre = None
        if len(objects) and rng.random() < self.config.centred:
            centre = divmod(int(rng.choice(objects)), label_map.shape[1])
        corner = []
        for axis in range(2):
            room = label_map.shape[axis] - side
            start = rng.integers(room + 1) if centre is None else centre[axis] - rng.integers(side)
            corner.append(int(np.clip(start, 0, room)))
        window = (slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side))
        turns, flip = int(rng.integers(4)), bool(rng.random() < 0.5)
        part, there = np.rot90(image[window], turns), np.rot90(label_map[window], turns)
        if flip:
            part, there = part[:, ::-1], there[:, ::-1]
        target = (torch.from_numpy(there.copy()) == self.classes).float()
        return torch.from_numpy(part.copy()).permute(2, 0, 1), target


def _scaled(image: NDArray[np.uint8], side: int) -> tuple[int, int]:
    """Columns and rows of an image scaled so that the longer is `side`."""
    height, width = image.shape[:2]
    longer = max(height, width)
    return max(round(width * side / longer), 1), max(round(height * side / longer), 1)


def _prepared(picture: Picture, config: UNetConfig) -> Picture:
    """Scaled, and padded to the size of a crop at least; the padding is ignored."""
    image, label_map = picture
    size = _scaled(image, config.side)
    pixels = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    classes = np.asarray(Image.fromarray(label_map).resize(size, Image.Resampling.NEAREST))
    pad = [(0, max(config.crop - n, 0)) for n in classes.shape]
    return np.pad(pixels, [*pad, (0, 0)], "edge"), np.pad(classes, pad, constant_values=IGNORE)

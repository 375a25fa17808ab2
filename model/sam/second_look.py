"""A second look at small objects: SAM encodes a window around its first answer, in which the object is large.

On a grid of 32 x 32 cells an object of a tenth of the image is three cells wide. A window of two and a half times its
size, seen at 192 px, takes a fifth of the encoder's time for a whole image. The window follows from the prompt and the
first answer alone, so no state is needed. Constants: docs/decisions/second-look.md.
"""

import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from skylight.model.images.raster import Window
from skylight.model.masks.clicked_parts import clicked_parts
from skylight.model.masks.upsampling import upsample_mask
from skylight.model.sam.mask_refinement import MaskRefiner
from skylight.model.sam.mask_scoring import MaskScorer, ScaledPrompt
from skylight.model.sam.tiny_sam import GRID, INPUT_SIZE, TinySam
from skylight.model.sam.types import Prompt

SMALL = 0.15  # of the image's longer side: smaller objects get a second look
WINDOW_FACTOR = 2.5  # the window's side over the object's
SMALLEST_WINDOW = 48  # px of the image, a window's side at least
SIDE = 192  # px of the window as the encoder sees it
PICTURE_SIDE = 1024  # px, longer side of an embedding's picture
QUALITY = 92  # of its JPEG


@dataclass(frozen=True)
class WindowPixels:
    """A window of an image as the encoder sees it: pixels (1, 3, SIDE, SIDE) in [0, 255], `rows` x `columns` of them
    filled, and `scale`, their number per px of the image.
    """

    pixels: Tensor
    rows: int
    columns: int
    scale: float


def pack_picture(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The JPEG file, (N,) uint8, of an image (H, W, 3) uint8 RGB with a longer side of `PICTURE_SIDE` px at most."""
    picture = Image.fromarray(image)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def window_for(
    size: tuple[int, int], mask: NDArray[np.bool_], points: NDArray[np.float32], box: NDArray[np.float32] | None
) -> Window | None:
    """The window to look at again, in an image of `size` (H, W); None if there is nothing, or it is not small.

    It lies around the box, or else the first answer (H, W) bool, and all positive points (N, 2) xy.
    """
    corners = [points.astype(float)]
    if box is not None:
        corners.append(box.reshape(2, 2).astype(float))
    elif len(points) and mask.any():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        corners.append(np.array([[columns[0], rows[0]], [columns[-1], rows[-1]]], float))
    extremes = np.concatenate(corners)
    if not len(extremes):
        return None
    low, high = extremes.min(0), extremes.max(0)
    longest = float((high - low).max()) + 1
    if longest >= SMALL * max(size):
        return None
    side = round(max(WINDOW_FACTOR * longest, SMALLEST_WINDOW))
    height, width = min(side, size[0]), min(side, size[1])
    x, y = (low + high) / 2
    row, column = round(y - height / 2), round(x - width / 2)
    return min(max(row, 0), size[0] - height), min(max(column, 0), size[1] - width), height, width


def unpack_picture(picture: NDArray[np.uint8]) -> Image.Image:
    """The image of a `pack_picture` file; 4 ms at 1024 px."""
    with Image.open(io.BytesIO(picture.tobytes())) as file:
        return file.convert("RGB")


def crop(picture: Image.Image, size: tuple[int, int], window: Window) -> WindowPixels:
    """A window of an image of `size` (H, W), cut from its unpacked picture."""
    row, column, height, width = window
    scale = SIDE / max(height, width)
    rows, columns = max(round(height * scale), 1), max(round(width * scale), 1)
    share_x, share_y = picture.width / size[1], picture.height / size[0]
    box = column * share_x, row * share_y, (column + width) * share_x, (row + height) * share_y
    resized = picture.resize((columns, rows), Image.Resampling.BILINEAR, box=box)
    pixels = torch.zeros(1, 3, SIDE, SIDE)
    pixels[0, :, :rows, :columns] = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
    return WindowPixels(pixels, rows, columns, scale)


def segment_window(
    window: Window,
    network: TinySam,
    position: Tensor,
    picture: Image.Image,
    size: tuple[int, int],
    prompt: Prompt,
    scorer: MaskScorer,
    candidates: int = 3,
) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
    """SAM's masks in a window, those with the highest scores first, at most `candidates` of them.

    Masks (K, H, W) bool of the whole image, their expected IoUs (K,) float32, and the logits (K, h, w) float32 of the
    window that they come from. The prompt is in px of the image; negative points outside of the window are left out.
    `position` as for `TinySam.decode`.
    """
    row, column, height, width = window
    points, positive, box = prompt.points, prompt.positive, prompt.box
    device = network.pixel_mean.device
    corner = np.array([column, row], np.float32)
    inside = ((points >= corner) & (points < corner + (width, height))).all(1) | positive
    seen = crop(picture, size, window)
    clicks = torch.from_numpy((points[inside] - corner) * np.float32(seen.scale)).to(device)
    labels = torch.from_numpy(positive[inside].astype(np.float32)).to(device)
    window_box = (
        None if box is None else torch.from_numpy((box - np.tile(corner, 2)) * np.float32(seen.scale)).to(device)
    )
    pixels = seen.pixels.to(device)
    normalized = (pixels - network.pixel_mean) / network.pixel_std
    normalized[..., seen.rows :, :], normalized[..., seen.columns :] = 0, 0
    start = (GRID - SIDE * GRID // INPUT_SIZE) // 2  # position encodings as in the middle of the frame
    features, _, detail = network.image_encoder.with_taps(normalized)
    rims = network.rims(F.avg_pool2d(pixels, 4) / 127.5 - 1)
    earlier: Tensor | None = None
    # The clicks one after the other, each with the answer to those before as its mask prompt.
    for count in range(0 if window_box is not None else 1, len(clicks) + 1):
        low, scores = network.decode(
            features,
            rims,
            clicks[None, :count] if count else None,
            labels[None, :count] if count else None,
            None if window_box is None else window_box[None],
            earlier,
            (start, start),
            position,
        )
        earlier = low[:, scores[0].argmax()][:, None]
    window_pixels = seen.pixels[0].permute(1, 2, 0).numpy().astype(np.uint8)
    refiner = MaskRefiner(window_pixels, detail[0].cpu().numpy(), (seen.rows, seen.columns))
    places, signs = clicks.cpu().numpy(), positive[inside]
    scaled = ScaledPrompt(places[signs], places[~signs], None if window_box is None else window_box.cpu().numpy())
    selected, expected, _ = refiner.select(low[0].cpu().numpy(), scores[0].cpu().numpy(), scaled, scorer, candidates)
    masks = np.zeros((len(selected), *size), bool)
    for mask, logits in zip(masks, selected, strict=True):
        part = upsample_mask(logits[: seen.rows, : seen.columns], (height, width))
        mask[row : row + height, column : column + width] = clicked_parts(part, points[positive] - corner)
    return masks, expected, selected[:, : seen.rows, : seen.columns]

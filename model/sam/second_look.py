"""A second look at what is small: SAM sees a window around its first answer, in which the object is large.

On a grid of 32 x 32 cells an object of a tenth of the picture is three cells wide. A window of two and a half times its
size, seen at 192 px, takes a fifth of the encoder's time for a whole picture. Where the window lies follows from the
prompt and the first answer alone, so nothing has to be remembered.
"""

import io
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from skylight.model.masks.clicked_parts import clicked_parts
from skylight.model.masks.upsampling import enlarge
from skylight.model.sam.mask_refinement import Likeness
from skylight.model.sam.mask_scoring import Asked, Choice
from skylight.model.sam.tiny_sam import GRID, INPUT_SIZE, TinySam
from skylight.model.sam.types import Prompt, Window

# Of the image's longer side: what is smaller is looked at again. On held-out images of 7 packs and procedural pits,
# 141 objects, IoU of one click and of a box: 0.682, 0.782 without; at 0.1 0.697, 0.809, at 0.15 0.703, 0.810, at 0.2
# 0.702, 0.806.
SMALL = 0.15
AROUND = 2.5  # the window's side over the object's
LEAST = 48  # px of the image, the smallest window's side
# px that the encoder sees of it. On held-out images of those packs, and pits, 375 objects, IoU of one click, after
# three, of a box, and clicks to 0.85: 0.703, 0.813, 0.811, 5.1 (0.699, 0.810, 0.812, 5.2 with 3 times the object around
# it). At 256 px, as the tiny SAM saw most pictures in its pretraining, with 3 times the object, 0.706, 0.816, 0.813,
# 5.3: as good, but a click takes a quarter longer. At 160 px, with 3 times, 0.698, 0.807, 0.814, 5.3.
SIDE = 192
PICTURE_SIDE = 1024  # px, longer side of the picture that an embedding keeps for this
QUALITY = 92  # of its JPEG


@dataclass(frozen=True)
class Part:
    """A window of an image as the encoder sees it: pixels (1, 3, SIDE, SIDE) in [0, 255], `rows` x `columns` of them
    filled, and `scale`, their number per px of the image.
    """

    pixels: Tensor
    rows: int
    columns: int
    scale: float


def keep(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The JPEG file, (N,) uint8, of an image (H, W, 3) uint8 RGB with a longer side of `PICTURE_SIDE` px at most."""
    picture = Image.fromarray(image)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def window_for(
    size: tuple[int, int], mask: NDArray[np.bool_], points: NDArray[np.float32], box: NDArray[np.float32] | None
) -> Window | None:
    """Where to look again, in an image of `size` (H, W): around the box, or else the first answer (H, W) bool, and all
    positive points (N, 2) xy; None if that is not small, or there is nothing.
    """
    corners = [points.astype(float)]
    if box is not None:
        corners.append(box.reshape(2, 2).astype(float))
    elif len(points) and mask.any():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        corners.append(np.array([[columns[0], rows[0]], [columns[-1], rows[-1]]], float))
    there = np.concatenate(corners)
    if not len(there):
        return None
    low, high = there.min(0), there.max(0)
    longest = float((high - low).max()) + 1
    if longest >= SMALL * max(size):
        return None
    side = round(max(AROUND * longest, LEAST))
    height, width = min(side, size[0]), min(side, size[1])
    x, y = (low + high) / 2
    row, column = round(y - height / 2), round(x - width / 2)
    return min(max(row, 0), size[0] - height), min(max(column, 0), size[1] - width), height, width


def unpack(picture: NDArray[np.uint8]) -> Image.Image:
    """The `keep`-t picture, decoded: 4 ms at 1024 px."""
    with Image.open(io.BytesIO(picture.tobytes())) as file:
        return file.convert("RGB")


def part(picture: Image.Image, size: tuple[int, int], window: Window) -> Part:
    """A window of an image of `size` (H, W) from its unpacked picture."""
    row, column, height, width = window
    scale = SIDE / max(height, width)
    rows, columns = max(round(height * scale), 1), max(round(width * scale), 1)
    share_x, share_y = picture.width / size[1], picture.height / size[0]
    box = column * share_x, row * share_y, (column + width) * share_x, (row + height) * share_y
    seen = picture.resize((columns, rows), Image.Resampling.BILINEAR, box=box)
    pixels = torch.zeros(1, 3, SIDE, SIDE)
    pixels[0, :, :rows, :columns] = torch.from_numpy(np.array(seen)).permute(2, 0, 1)
    return Part(pixels, rows, columns, scale)


def answer_in(
    window: Window,
    network: TinySam,
    position: Tensor,
    picture: Image.Image,
    size: tuple[int, int],
    prompt: Prompt,
    judge: Choice,
    candidates: int = 3,
) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
    """SAM's masks in a window, (K, H, W) bool of the whole image, their predicted IoUs (K,) float32, and the logits
    (K, h, w) float32 of the window that they are cut from.

    Those that the `judge` likes best first, at most `candidates` of them.

    Negative points outside of it say nothing about it. The prompt is in px of the image, `position` as for
    `TinySam.answer`.
    """
    row, column, height, width = window
    points, positive, box = prompt.points, prompt.positive, prompt.box
    device = network.pixel_mean.device
    corner = np.array([column, row], np.float32)
    inside = ((points >= corner) & (points < corner + (width, height))).all(1) | positive
    seen = part(picture, size, window)
    mine = torch.from_numpy((points[inside] - corner) * np.float32(seen.scale)).to(device)
    labels = torch.from_numpy(positive[inside].astype(np.float32)).to(device)
    framed = None if box is None else torch.from_numpy((box - np.tile(corner, 2)) * np.float32(seen.scale)).to(device)
    pixels = seen.pixels.to(device)
    normal = (pixels - network.pixel_mean) / network.pixel_std
    normal[..., seen.rows :, :], normal[..., seen.columns :] = 0, 0
    start = (GRID - SIDE * GRID // INPUT_SIZE) // 2  # as if it lay in the middle of the frame
    features, _, detail = network.image_encoder.with_taps(normal)
    rims = network.rims(F.avg_pool2d(pixels, 4) / 127.5 - 1)
    earlier: Tensor | None = None
    # The clicks one after the other, each with the answer to those before, as they came.
    for count in range(0 if framed is not None else 1, len(mine) + 1):
        low, scores = network.answer(
            features,
            rims,
            mine[None, :count] if count else None,
            labels[None, :count] if count else None,
            None if framed is None else framed[None],
            earlier,
            (start, start),
            position,
        )
        earlier = low[:, scores[0].argmax()][:, None]
    seen_as = seen.pixels[0].permute(1, 2, 0).numpy().astype(np.uint8)
    likeness = Likeness(seen_as, detail[0].cpu().numpy(), (seen.rows, seen.columns))
    clicks, signs = mine.cpu().numpy(), positive[inside]
    asked = Asked(clicks[signs], clicks[~signs], None if framed is None else framed.cpu().numpy())
    chosen, expected, _ = likeness.chosen(low[0].cpu().numpy(), scores[0].cpu().numpy(), asked, judge, candidates)
    masks = np.zeros((len(chosen), *size), bool)
    for mask, whole in zip(masks, chosen, strict=True):
        enlarged = enlarge(whole[: seen.rows, : seen.columns], (height, width))
        mask[row : row + height, column : column + width] = clicked_parts(enlarged, points[positive] - corner)
    return masks, expected, chosen[:, : seen.rows, : seen.columns]

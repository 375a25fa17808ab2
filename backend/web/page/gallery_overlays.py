"""Small pictures of a version's prediction beside the truth: truth, prediction, and where they disagree.

Drawn from the embedding's thumbnail, so the image itself is not needed.
"""

import io

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from skylight.model.decoder.inference import as_tensors
from skylight.model.decoder.network import DomainDecoder
from skylight.model.masks.label_map import IGNORE
from skylight.model.sam.types import Embedding

SIDE = 256  # px, the longer side of each of the three; a thumbnail has 256 (tiny) or 512
GAP = 4  # px between two of them, transparent
FILL_OPACITY = 0.45  # of a label's color over the picture
WEBP_QUALITY = 82  # 20 to 40 kB for the three, a fifth of a PNG
CLASS_BATCH = 16  # classes whose logits are in memory at the same time
# One per label, then repeated: those of the page's curves, bright enough for dark pictures. Missed and invented are
# blue and orange, which people with any kind of color blindness can tell apart (Okabe & Ito 2008).
LABEL_COLORS = np.array(
    [(240, 131, 95), (46, 196, 182), (255, 201, 60), (122, 162, 247), (199, 125, 255), (132, 204, 22)], np.float32
)
MISSED, INVENTED, CONFUSED = (64, 160, 255), (255, 150, 30), (220, 90, 220)

Picture = NDArray[np.uint8]  # (h, w, 3) RGB
LabelMap = NDArray[np.uint8]  # (h, w), 0 background, k = k-th label, 255 ignore


def draw(decoder: DomainDecoder, embedding: Embedding, truth: LabelMap) -> bytes:
    """Truth, prediction and disagreement side by side as a WebP file.

    `truth` (H, W) uint8 in the decoder's labels, of any size with the image's proportions. The embedding must be of the
    decoder's SAM.
    """
    image = thumbnail_image(embedding)
    size = image.shape[0], image.shape[1]
    truth = resize_nearest(truth, size)
    prediction = predict_labels(decoder, embedding, size)
    return encode([overlay(image, truth), overlay(image, prediction), disagreement(image, truth, prediction)])


def thumbnail_image(embedding: Embedding) -> Picture:
    """The image behind an embedding, (h, w, 3) uint8 with a longer side of `SIDE` px, from its thumbnail."""
    rows, columns = embedding.extent(embedding.thumbnail.shape[0])
    height, width = embedding.size
    scale = SIDE / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    small = Image.fromarray(np.ascontiguousarray(embedding.thumbnail[:rows, :columns]))
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC))


def predict_labels(decoder: DomainDecoder, embedding: Embedding, size: tuple[int, int]) -> LabelMap:
    """The decoder's most likely label of each of `size` (h, w) pixels, (h, w) uint8: never the image's full size."""
    classes = torch.arange(len(decoder.config.labels) + 1)
    with torch.inference_mode():
        trunk = decoder.trunk(*as_tensors(embedding))
        rows, columns = embedding.extent(2 * trunk.shape[-1])
        highest, winner = torch.full(size, -torch.inf), torch.zeros(size, dtype=torch.long)
        for batch in torch.split(classes, CLASS_BATCH):
            logits = decoder.logits(trunk, batch)[..., :rows, :columns]
            best, which = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0].max(0)
            winner = torch.where(best > highest, batch[which], winner)
            highest = torch.maximum(best, highest)
    labels: LabelMap = winner.to(torch.uint8).numpy()
    return labels


def resize_nearest(label_map: LabelMap, size: tuple[int, int]) -> LabelMap:
    """A label map (H, W) uint8 resized to (h, w), by the nearest pixel."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)
        for new, old in zip(size, label_map.shape, strict=True)
    )
    scaled: LabelMap = label_map[np.ix_(rows, columns)]
    return scaled


def overlay(image: Picture, label_map: LabelMap) -> Picture:
    """The image (h, w, 3) uint8 with the pixels of each label of a (h, w) map in its color, stronger on their edge."""
    out = image.astype(np.float32)
    for k in np.unique(label_map):
        if k not in (0, IGNORE):
            mask = label_map == k
            color = LABEL_COLORS[(int(k) - 1) % len(LABEL_COLORS)]
            out[mask] = (1 - FILL_OPACITY) * out[mask] + FILL_OPACITY * color
            out[edge_pixels(mask)] = color
    return out.astype(np.uint8)


def disagreement(image: Picture, truth: LabelMap, prediction: LabelMap) -> Picture:
    """The image (h, w, 3) uint8 in gray; blue where an object was missed, orange where one was invented, violet where
    it has another label.
    """
    gray = image.mean(axis=2, keepdims=True).repeat(3, axis=2) * 0.6
    known = truth != IGNORE
    for mask, color in (
        (known & (truth > 0) & (prediction == 0), MISSED),
        (known & (truth == 0) & (prediction > 0), INVENTED),
        (known & (truth > 0) & (prediction > 0) & (truth != prediction), CONFUSED),
    ):
        gray[mask] = 0.25 * gray[mask] + 0.75 * np.array(color, np.float32)
    gray[edge_pixels(known & (truth > 0))] = 230
    drawn: Picture = gray.astype(np.uint8)
    return drawn


def edge_pixels(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a (h, w) mask that have one of their four neighbours outside it."""
    edge: NDArray[np.bool_] = mask & ~ndimage.binary_erosion(mask, border_value=1)
    return edge


def encode(pictures: list[Picture]) -> bytes:
    """Pictures (h, w, 3) uint8 of one size side by side as a WebP file, the gaps between them transparent."""
    height, width = pictures[0].shape[:2]
    step = width + GAP
    sheet = np.zeros((height, step * len(pictures) - GAP, 4), np.uint8)
    for i, picture in enumerate(pictures):
        sheet[:, i * step : i * step + width, :3] = picture
        sheet[:, i * step : i * step + width, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "WEBP", quality=WEBP_QUALITY, method=2)
    return buffer.getvalue()

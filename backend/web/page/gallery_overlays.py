"""A version's answer beside the truth, as a small picture: truth, prediction, and where they disagree.

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
from skylight.model.sam.segmenter import Embedding

SIDE = 256  # px, the longer side of one of the three; the thumbnail's is 256 (tiny) or 512
GAP = 4  # px between two of them, clear
FILL = 0.45  # share of a label's colour over the picture
QUALITY = 82  # of the WebP file: 20 to 40 kB for the three, a fifth of a PNG
AT_ONCE = 16  # classes whose logits are in memory at the same time
# One per label, by turns: those of the page's curves, bright enough for dark pictures. Missed and invented are blue and
# orange, which people with any kind of colour blindness can tell apart (Okabe & Ito 2008).
LABEL_COLOURS = np.array(
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
    shown = picture(embedding)
    size = shown.shape[:2]
    small = nearest(truth, (size[0], size[1]))
    found = predicted(decoder, embedding, (size[0], size[1]))
    return encode([coloured(shown, small), coloured(shown, found), disagreement(shown, small, found)])


def picture(embedding: Embedding) -> Picture:
    """The image behind an embedding, (h, w, 3) uint8 with a longer side of `SIDE` px, from its thumbnail."""
    rows, columns = embedding.extent(embedding.thumbnail.shape[0])
    height, width = embedding.size
    scale = SIDE / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    small = Image.fromarray(np.ascontiguousarray(embedding.thumbnail[:rows, :columns]))
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC))


def predicted(decoder: DomainDecoder, embedding: Embedding, size: tuple[int, int]) -> LabelMap:
    """The decoder's most likely label of each of `size` (h, w) pixels, (h, w) uint8: never the image's full size."""
    classes = torch.arange(len(decoder.config.labels) + 1)
    with torch.inference_mode():
        trunk = decoder.trunk(*as_tensors(embedding))
        rows, columns = embedding.extent(2 * trunk.shape[-1])
        highest, winner = torch.full(size, -torch.inf), torch.zeros(size, dtype=torch.long)
        for some in torch.split(classes, AT_ONCE):
            logits = decoder.logits(trunk, some)[..., :rows, :columns]
            best, which = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0].max(0)
            winner = torch.where(best > highest, some[which], winner)
            highest = torch.maximum(best, highest)
    found: LabelMap = winner.to(torch.uint8).numpy()
    return found


def nearest(label_map: LabelMap, size: tuple[int, int]) -> LabelMap:
    """A label map (H, W) at another size (h, w), each pixel the one in the middle of its place."""
    rows, columns = (
        np.minimum(((np.arange(wanted) + 0.5) * given / wanted).astype(np.int64), given - 1)
        for wanted, given in zip(size, label_map.shape, strict=True)
    )
    scaled: LabelMap = label_map[np.ix_(rows, columns)]
    return scaled


def coloured(shown: Picture, label_map: LabelMap) -> Picture:
    """The picture with every label's pixels in its colour, stronger on their rim."""
    out = shown.astype(np.float32)
    for k in np.unique(label_map):
        if k not in (0, IGNORE):
            mask = label_map == k
            colour = LABEL_COLOURS[(int(k) - 1) % len(LABEL_COLOURS)]
            out[mask] = (1 - FILL) * out[mask] + FILL * colour
            out[rim(mask)] = colour
    return out.astype(np.uint8)


def disagreement(shown: Picture, truth: LabelMap, found: LabelMap) -> Picture:
    """The picture in gray; blue where an object was missed, orange where one was invented, violet: another label."""
    gray = shown.mean(axis=2, keepdims=True).repeat(3, axis=2) * 0.6
    known = truth != IGNORE
    for mask, colour in (
        (known & (truth > 0) & (found == 0), MISSED),
        (known & (truth == 0) & (found > 0), INVENTED),
        (known & (truth > 0) & (found > 0) & (truth != found), CONFUSED),
    ):
        gray[mask] = 0.25 * gray[mask] + 0.75 * np.array(colour, np.float32)
    gray[rim(known & (truth > 0))] = 230
    drawn: Picture = gray.astype(np.uint8)
    return drawn


def rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a (h, w) mask that have one of their four neighbours outside it."""
    edge: NDArray[np.bool_] = mask & ~ndimage.binary_erosion(mask, border_value=1)
    return edge


def encode(pictures: list[Picture]) -> bytes:
    """Pictures of one size side by side as a WebP file, the gaps between them clear."""
    height, width = pictures[0].shape[:2]
    step = width + GAP
    sheet = np.zeros((height, step * len(pictures) - GAP, 4), np.uint8)
    for i, each in enumerate(pictures):
        sheet[:, i * step : i * step + width, :3] = each
        sheet[:, i * step : i * step + width, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "WEBP", quality=QUALITY, method=2)
    return buffer.getvalue()

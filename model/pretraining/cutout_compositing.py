"""Images composed of cut-out drawings on backgrounds, for pretraining only.

Procedural outlines are simple and their fillings even. Clip art brings what they lack: thousands of real outlines
around fillings of many colors and parts. Debian's package openclipart-png holds 4,800 drawings in the public domain;
any folder of PNG files with an alpha channel will do.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from skylight.model.pretraining.procedural_images import surface

SIZE = 384  # px of an image's side
# Folders of openclipart that hold frames and signs.
NOT_OBJECTS = frozenset({"buttons", "computer", "logos", "signs_and_symbols"})
FULLEST, THINNEST = 0.93, 0.15  # share of a drawing's rectangle that it may fill
SMALLEST, LARGEST = 0.05, 0.95  # of the image's side that a drawing's longer side measures
MOST_PIXELS = 9_000_000  # of a drawing; openclipart has one of 623 million
VISIBLE = 40  # px of a drawing that must stay visible

Image3 = NDArray[np.uint8]
Texture = NDArray[np.float32]


class Cutouts:
    """Composes images of a folder's drawings on procedural backgrounds, or on pieces of the given photographs."""

    def __init__(self, folder: Path, photographs: Sequence[Callable[[], Image3]] = ()) -> None:
        self.files = sorted(
            path for path in folder.rglob("*.png") if NOT_OBJECTS.isdisjoint(path.relative_to(folder).parts)
        )
        if not self.files:
            raise FileNotFoundError(f"{folder} holds no PNG file")
        self.photographs = photographs

    def compose(self, rng: np.random.Generator) -> tuple[Image3, NDArray[np.uint16]]:
        """An image (384, 384, 3) uint8 RGB and its drawings' numbers (384, 384) uint16; one to four kinds, each several
        times.
        """
        canvas = self._background(rng)
        ids = np.zeros((SIZE, SIZE), np.uint16)
        for _ in range(int(rng.integers(1, 5))):
            drawing = self._drawing(rng)
            share = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))
            paint = self._paint(rng)
            for _ in range(int(np.clip(rng.uniform(0.1, 0.8) / share**2, 1, 15))):
                extent = float(np.clip(share * np.exp(rng.normal(0, 0.2)), SMALLEST, LARGEST)) * SIZE
                _place(rng, canvas, ids, paint(_posed(rng, drawing, extent)))
        counts = np.bincount(ids.ravel())
        visible = np.where(counts[ids] >= VISIBLE, ids, 0).astype(np.uint16)
        return (np.clip(canvas, 0, 1) * 255).astype(np.uint8), visible

    def _drawing(self, rng: np.random.Generator) -> Image.Image:
        """A drawing that is one solid object, RGBA; about half of openclipart's files are."""
        while True:
            path = self.files[int(rng.integers(len(self.files)))]
            drawing = _read(path)
            if drawing is None:
                continue
            drawing.thumbnail((SIZE, SIZE))
            drawing = drawing.crop(drawing.getchannel("A").getbbox() or (0, 0, 1, 1))
            opaque = np.asarray(drawing)[..., 3] > 127
            solid = ndimage.binary_fill_holes(opaque)
            pieces = np.bincount(ndimage.label(solid)[0].ravel())[1:]
            if (
                min(solid.shape) >= 16
                and THINNEST < solid.mean() < FULLEST
                and opaque.sum() > 0.9 * solid.sum()
                and pieces.max() > 0.85 * solid.sum()
            ):
                return drawing

    def _background(self, rng: np.random.Generator) -> Texture:
        """A background or a filling, (384, 384, 3) in about [0, 1]."""
        if not self.photographs or rng.random() < 0.5:
            return surface(rng, SIZE)
        image = self.photographs[int(rng.integers(len(self.photographs)))]()
        side = int(rng.integers(min(image.shape[:2]) // 4, min(image.shape[:2]) + 1))
        y, x = (int(rng.integers(length - side + 1)) for length in image.shape[:2])
        piece = Image.fromarray(image[y : y + side, x : x + side]).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        texture = np.asarray(piece, np.float32) / np.float32(255)
        if rng.random() < 0.4:
            texture = ndimage.gaussian_filter(texture, (s := rng.uniform(0, 4), s, 0))
        return texture

    def _paint(self, rng: np.random.Generator) -> Callable[[Texture], Texture]:
        """How one kind is painted, RGBA to RGBA: in its own colors, in others, or as a filling of its outline."""
        order = rng.permutation(3) if rng.random() < 0.5 else np.arange(3)
        gain, shift = rng.uniform(0.5, 1.2, 3).astype(np.float32), np.float32(rng.uniform(-0.1, 0.3))
        filling = self._background(rng) if rng.random() < 0.5 else None
        own = np.float32(rng.choice([0.0, rng.uniform(0.1, 0.9)]))  # share of the drawing's colors that stays

        def paint(drawing: Texture) -> Texture:
            colors = drawing[..., order] * gain + shift
            if filling is not None:
                height, width = drawing.shape[:2]
                y, x = (int(rng.integers(max(SIZE - n, 0) + 1)) for n in (height, width))
                texture = np.resize(filling[y : y + height, x : x + width], (height, width, 3))
                colors = own * colors + (1 - own) * texture
            return np.concatenate([colors, drawing[..., 3:]], 2)

        return paint


def _read(path: Path) -> Image.Image | None:
    """A drawing, RGBA; None if it is larger than `MOST_PIXELS`."""
    try:
        with Image.open(path) as file:
            return file.convert("RGBA") if file.width * file.height <= MOST_PIXELS else None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None


def _posed(rng: np.random.Generator, drawing: Image.Image, extent: float) -> Texture:
    """A drawing scaled to `extent` px, stretched, mirrored and turned; (h, w, 4) float32 in [0, 1]."""
    scale = extent / max(drawing.size)
    stretch = np.exp(rng.normal(0, 0.15, 2)) * scale
    size = (max(round(drawing.width * stretch[0]), 4), max(round(drawing.height * stretch[1]), 4))
    posed = drawing.resize(size, Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        posed = posed.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.7:
        posed = posed.rotate(float(rng.uniform(0, 360)), Image.Resampling.BILINEAR, expand=True)
    return np.asarray(posed, np.float32) / np.float32(255)


def _place(rng: np.random.Generator, canvas: Texture, ids: NDArray[np.uint16], drawing: Texture) -> None:
    """Place a drawing (h, w, 4) anywhere on the canvas, over what it covers."""
    height, width = drawing.shape[:2]
    top, left = int(rng.integers(-height // 3, SIZE - height // 2)), int(rng.integers(-width // 3, SIZE - width // 2))
    down = slice(max(top, 0), min(top + height, SIZE))
    across = slice(max(left, 0), min(left + width, SIZE))
    part = drawing[down.start - top : down.stop - top, across.start - left : across.stop - left]
    if not part.size:
        return
    inside = ndimage.binary_fill_holes(part[..., 3] > 0.5)
    over = inside.astype(np.float32)
    if (soft := rng.uniform(0, 1.5)) > 0.5:
        over = ndimage.gaussian_filter(over, soft)
    over *= np.float32(1 if rng.random() < 0.7 else rng.uniform(0.4, 1))
    if rng.random() < 0.2:  # a shadow beside it
        far = rng.uniform(-0.15, 0.15, 2) * (height, width)
        cast = ndimage.shift(over, far, order=0)
        canvas[down, across] *= 1 - np.float32(rng.uniform(0.2, 0.7)) * cast[..., None]
    canvas[down, across] += over[..., None] * (part[..., :3] - canvas[down, across])
    ids[down, across][inside] = int(ids.max()) + 1

"""Procedural images of many more kinds than `synthetic_scenes` has, for pretraining only.

An image is a texture with objects of one to three kinds. A kind has a family of outlines (wavy ellipses, polygons,
stars, ragged blobs, cracks), a style of painting (filled, outlined, domed, hollow, shadowed), and sometimes parts (a
core, spots), whose map is the second answer to an ambiguous click. Objects lie apart, touch, or overlap.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from skylight.model.datasets.synthetic_scenes import fractal_noise

Grid = NDArray[np.float32]
SMALLEST = 24  # visible px of an object; smaller ones are removed from the map
OUTLINES = ("ellipse", "ellipse", "wavy", "polygon", "star", "ragged", "crack")
PAINTS = ("fill", "fill", "texture", "outline", "dome", "bowl", "hole", "halo")
LAYOUTS = ("apart", "apart", "cluster", "overlap", "leaves")


@dataclass(frozen=True)
class ProceduralImage:
    """An image (H, W, 3) uint8 RGB; numbers of its objects (H, W) uint16, 0 background; numbers of their parts, or
    None.
    """

    image: NDArray[np.uint8]
    objects: NDArray[np.uint16]
    parts: NDArray[np.uint16] | None


@dataclass(frozen=True)
class _Kind:
    outline: str
    paint: str
    radius: float  # px, the median
    spread: float  # of the radius' logarithm
    colour: Grid  # (3,)
    pattern: Grid  # (H, W), mean 0
    contrast: float
    soft: float  # px over which the rim fades
    parts: str  # "", "core" or "spots"


def procedural_image(seed: int, size: int = 384) -> ProceduralImage:
    """An image of `size` x `size` px from a seed; the same seed gives the same image."""
    rng = np.random.default_rng((seed, 7))
    light = rng.uniform(0, 2 * np.pi)
    picture = surface(rng, size)
    kinds = [_kind(rng, size, picture) for _ in range(int(rng.integers(1, 4)))]
    layout = str(rng.choice(LAYOUTS))
    objects = np.zeros((size, size), np.uint16)
    parts = np.zeros((size, size), np.uint16)
    for number, (kind, x, y, radius) in enumerate(_places(rng, size, kinds, layout), 1):
        outline = _outline(rng, size, kind.outline, x, y, radius)
        if outline is None:
            continue
        window, mask = outline
        if layout not in ("overlap", "leaves"):
            mask = mask & (objects[window] == 0)
        _paint(rng, picture, window, mask, kind, light)
        objects[window][mask] = number
        parts[window][mask] = 0
        if kind.parts:
            _add_parts(rng, picture, parts, window, mask, kind, number)
    if rng.random() < 0.3:
        _scratch(rng, picture)
    image = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return ProceduralImage(image, _without_tiny(objects), _without_tiny(parts) if parts.any() else None)


def _without_tiny(ids: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The map without objects that are too small to be seen."""
    counts = np.bincount(ids.ravel())
    return np.where(counts[ids] >= SMALLEST, ids, 0).astype(np.uint16)


def _pattern(rng: np.random.Generator, size: int) -> Grid:
    """A texture (size, size), mean 0, standard deviation about 1."""
    kind = rng.choice(["noise", "noise", "grain", "waves", "cells", "flat"])
    if kind == "noise":
        return fractal_noise(rng, size, rng.uniform(0.8, 2.4))
    if kind == "grain":
        grain = ndimage.gaussian_filter(rng.normal(size=(size, size)).astype(np.float32), rng.uniform(0.6, 3, 2))
        return np.asarray(grain / max(grain.std(), 1e-6), np.float32)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    if kind == "waves":
        warp = 0.03 * fractal_noise(rng, size, 2.0)
        turn, count = rng.uniform(0, np.pi), rng.uniform(4, 40)
        return np.asarray(1.4 * np.sin(2 * np.pi * count * (x * np.cos(turn) + y * np.sin(turn) + warp)), np.float32)
    if kind == "cells":
        seeds = np.ones((size, size), bool)
        seeds[tuple(rng.integers(size, size=(2, int(rng.integers(20, 300)))))] = False
        far = ndimage.distance_transform_edt(seeds).astype(np.float32)
        return np.asarray((far - far.mean()) / far.std(), np.float32)
    return np.asarray((x - 0.5) * rng.normal() + (y - 0.5) * rng.normal(), np.float32)


def surface(rng: np.random.Generator, size: int) -> Grid:
    """The background, (size, size, 3) in about [0, 1]."""
    gray = rng.random() < 0.5
    colour = np.full(3, rng.uniform(0.08, 0.9)) if gray else rng.uniform(0.05, 0.95, 3)
    picture = np.broadcast_to(colour.astype(np.float32), (size, size, 3)).copy()
    for _ in range(int(rng.integers(1, 3))):
        direction = np.ones(3) if gray else rng.normal(1, 0.5, 3)
        picture += _pattern(rng, size)[..., None] * (direction * rng.uniform(0.005, 0.12)).astype(np.float32)
    return picture


def _kind(rng: np.random.Generator, size: int, picture: Grid) -> _Kind:
    ground = picture.mean((0, 1))
    step = rng.choice([-1.0, 1.0]) * rng.uniform(0.08, 0.6)
    colour = ground + step * (np.ones(3) if rng.random() < 0.6 else rng.normal(0.5, 0.8, 3))
    outline, paint = str(rng.choice(OUTLINES)), str(rng.choice(PAINTS))
    radius = float(np.exp(rng.uniform(np.log(0.02), np.log(0.25)))) * size
    parts = str(rng.choice(["", "", "core", "spots"])) if radius > 0.06 * size and outline != "crack" else ""
    return _Kind(
        outline,
        paint,
        radius,
        rng.uniform(0.05, 0.5),
        np.clip(colour, 0.02, 0.98).astype(np.float32),
        _pattern(rng, size),
        rng.uniform(0.0, 0.12),
        rng.uniform(0.3, 2.5),
        parts,
    )


def _places(
    rng: np.random.Generator, size: int, kinds: list[_Kind], layout: str
) -> list[tuple[_Kind, float, float, float]]:
    """Kind, x, y, and radius of each object, px."""
    placed: list[tuple[_Kind, float, float, float]] = []
    for kind in kinds:
        most = 0.6 * size * size / (np.pi * kind.radius**2)
        count = int(np.clip(rng.uniform(0.1, 0.9) * most, 1, 60)) * (3 if layout == "leaves" else 1)
        for _ in range(count):
            radius = float(kind.radius * np.exp(rng.normal(0, kind.spread)))
            for _attempt in range(8):
                x, y = rng.uniform(0, size, 2)
                if layout == "cluster" and placed and rng.random() < 0.8:
                    _, px, py, pr = placed[int(rng.integers(len(placed)))]
                    turn, reach = rng.uniform(0, 2 * np.pi), (pr + radius) * rng.uniform(0.85, 1.1)
                    x, y = px + reach * np.cos(turn), py + reach * np.sin(turn)
                gap = {"apart": 1.1, "cluster": 0.75, "overlap": 0.4, "leaves": 0.0}[layout]
                if all(np.hypot(x - px, y - py) > gap * (radius + pr) for _, px, py, pr in placed):
                    placed.append((kind, float(x), float(y), radius))
                    break
    order = rng.permutation(len(placed))
    return [placed[i] for i in order]


Window = tuple[slice, slice]


def _outline(
    rng: np.random.Generator, size: int, family: str, x: float, y: float, radius: float
) -> tuple[Window, NDArray[np.bool_]] | None:
    """An object's window, and its mask within that; None if nothing of it is in the image."""
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    reach = np.ones_like(angles)
    flat = rng.uniform(0.5, 1)
    if family in ("wavy", "ragged"):
        rough = 0.12 if family == "wavy" else 0.3
        for k in range(2, 7 if family == "wavy" else 14):
            reach += rough / np.sqrt(k) * rng.normal() * np.cos(k * angles + rng.uniform(0, 2 * np.pi))
    elif family == "star":
        reach += rng.uniform(0.15, 0.45) * np.cos(int(rng.integers(3, 9)) * angles)
    elif family == "polygon":
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
        if rng.random() < 0.5:
            angles = np.array([1, 3, 5, 7]) * np.pi / 4
        reach = np.ones_like(angles)
    reach = radius * np.clip(reach, 0.2, 1.8)
    turn = rng.uniform(0, np.pi)
    along, across = reach * np.cos(angles), reach * np.sin(angles) * flat
    points = np.stack(
        [x + along * np.cos(turn) - across * np.sin(turn), y + along * np.sin(turn) + across * np.cos(turn)]
    )
    width = 0.0
    if family == "crack":
        steps = np.cumsum(rng.normal(0, 0.35, 24)) + turn
        points = np.stack([x + np.cumsum(np.cos(steps)) * radius / 6, y + np.cumsum(np.sin(steps)) * radius / 6])
        width = max(radius * rng.uniform(0.06, 0.2), 3)
    low = np.maximum(np.floor(points.min(1) - width - 2), 0).astype(int)
    high = np.minimum(np.ceil(points.max(1) + width + 3), size).astype(int)
    if (high - low).min() < 3:
        return None
    canvas = Image.new("1", (int(high[0] - low[0]), int(high[1] - low[1])))
    drawn = [(float(px), float(py)) for px, py in (points - low[:, None]).T]
    if family == "crack":
        ImageDraw.Draw(canvas).line(drawn, fill=1, width=round(width), joint="curve")
    else:
        ImageDraw.Draw(canvas).polygon(drawn, fill=1)
    mask = np.array(canvas)
    return ((slice(low[1], high[1]), slice(low[0], high[0])), mask) if mask.any() else None


def _paint(
    rng: np.random.Generator,
    picture: Grid,
    window: Window,
    mask: NDArray[np.bool_],
    kind: _Kind,
    light: float,
) -> None:
    if not mask.any():
        return
    part = picture[window]
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].astype(np.float32)  # px from the rim
    edge = np.clip(depth / kind.soft, 0, 1)[..., None]
    deepest = max(float(depth.max()), 1.0)
    colour = kind.colour + kind.contrast * kind.pattern[window][..., None]
    if kind.paint in ("fill", "texture"):
        inside = colour if kind.paint == "texture" else kind.colour * np.float32(rng.uniform(0.85, 1.15))
        part += edge * np.float32(rng.uniform(0.6, 1)) * (inside - part)
    elif kind.paint == "outline":
        thick = max(deepest * rng.uniform(0.05, 0.3), 1.5)
        part += edge * (depth < thick)[..., None] * (kind.colour - part)
    elif kind.paint == "halo":
        part += np.clip(depth / deepest, 0, 1)[..., None] ** np.float32(rng.uniform(0.3, 1)) * (colour - part)
    else:
        slope_y, slope_x = np.gradient(ndimage.gaussian_filter(np.minimum(depth, deepest * 0.7), 0.06 * deepest + 0.7))
        toward = (slope_x * np.cos(light) + slope_y * np.sin(light))[..., None].astype(np.float32)
        strength = np.float32(rng.uniform(0.1, 0.4))
        if kind.paint == "dome":
            part += edge * np.float32(rng.uniform(0, 0.9)) * (colour - part) - edge * strength * toward
        elif kind.paint == "bowl":
            part += edge * strength * toward + edge * np.float32(rng.uniform(-0.05, 0.05))
        else:  # a hole: dark, its far wall lit
            lit = np.clip(toward, 0, 1) * np.float32(rng.uniform(0, 0.8))
            part += edge * (np.float32(rng.uniform(0, 0.12)) + lit * kind.colour - part)
    if kind.paint in ("dome", "fill") and rng.random() < 0.3:  # a shadow beside it
        far = max(deepest * rng.uniform(0.2, 0.8), 1)
        cast = ndimage.shift(mask.astype(np.float32), (far * np.sin(light), far * np.cos(light)), order=0) > 0
        part[cast & ~mask] *= np.float32(rng.uniform(0.3, 0.8))


def _add_parts(
    rng: np.random.Generator,
    picture: Grid,
    parts: NDArray[np.uint16],
    window: Window,
    mask: NDArray[np.bool_],
    kind: _Kind,
    number: int,
) -> None:
    """Paint a core or a few spots into an object; each spot has a number of its own."""
    rows, columns = np.nonzero(mask)
    if len(rows) < 200:
        return
    count = 1 if kind.parts == "core" else int(rng.integers(1, 8))
    share = rng.uniform(0.3, 0.6) if kind.parts == "core" else rng.uniform(0.08, 0.25)
    radius = share * float(np.sqrt(len(rows) / np.pi))
    colour = np.clip(kind.colour + rng.choice([-1, 1]) * rng.uniform(0.1, 0.5) * rng.normal(1, 0.4, 3), 0, 1)
    top, left = window[0].start, window[1].start
    for i in range(count):
        at = rng.integers(len(rows))
        y, x = (rows.mean(), columns.mean()) if kind.parts == "core" else (rows[at], columns[at])
        outline = _outline(rng, len(picture), "wavy", float(x + left), float(y + top), radius)
        if outline is None:
            continue
        (down, across), shape = outline
        whole = np.zeros(picture.shape[:2], bool)
        whole[window] = mask
        shape = shape & whole[down, across]
        picture[down, across][shape] += np.float32(rng.uniform(0.6, 1)) * (
            colour.astype(np.float32) - picture[down, across][shape]
        )
        parts[down, across][shape] = number * 8 + i


def _scratch(rng: np.random.Generator, picture: Grid) -> None:
    """Draw lines that belong to no object."""
    size = len(picture)
    canvas = Image.new("1", (size, size))
    for _ in range(int(rng.integers(1, 6))):
        ends = [float(v) for v in rng.uniform(0, size, 4)]
        ImageDraw.Draw(canvas).line(ends, fill=1, width=int(rng.integers(1, 4)))
    picture[np.array(canvas)] += np.float32(rng.normal(0, 0.2))

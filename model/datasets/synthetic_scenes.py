"""Procedural planetary scenes: rolling terrain with pits (skylights), craters as look-alikes, and boulders.

Everything follows from a seed, so tests, the demo project and pretraining need no picture from anywhere. Terrain is
fractal noise lit as a height field; a pit is a steep hole whose floor lies in shadow but for a lit far wall; a
crater is a shallow bowl with a raised rim, lit like the terrain around it, which is what makes it a look-alike.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KINDS = ("pit", "crater", "boulder")
OBJECT_COUNTS = {"pit": (1, 5), "crater": (2, 7), "boulder": (3, 14)}  # fewest and most in a scene
OBJECT_RADII = {
    "pit": (0.025, 0.10),
    "crater": (0.03, 0.13),
    "boulder": (0.006, 0.025),
}  # share of the scene's side
REACH = 2.2  # radii; beyond, an object changes nothing (a rim's height is under 1e-8 of its crest, a cast shadow ends)
CLEARANCE = 1.15  # objects keep their radii's sum times this apart: truth masks never overlap


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene: its kind and its mask, (H, W) bool."""

    kind: str
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """A picture, (H, W, 3) uint8 RGB, and the objects in it."""

    image: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]

    def truth(self, kind: str = "pit") -> NDArray[np.bool_]:
        """The union of one kind's masks, (H, W) bool."""
        masks = [item.mask for item in self.objects if item.kind == kind]
        return np.any(masks, axis=0) if masks else np.zeros(self.image.shape[:2], bool)


def fractal_noise(rng: np.random.Generator, size: int, slope: float) -> NDArray[np.float32]:
    """Noise with an amplitude spectrum 1/f^slope, (size, size) float32, mean 0, standard deviation 1."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1
    spectrum = np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency**slope
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (size, size))
    scaled: NDArray[np.float32] = (noise / noise.std()).astype(np.float32)
    return scaled


def scene(seed: int, size: int = 512) -> Scene:
    """A scene of `size` x `size` px from a seed; the same seed gives the same scene."""
    rng = np.random.default_rng(seed)
    sun = rng.uniform(0, 2 * np.pi)
    light = np.array([np.cos(sun), np.sin(sun)], np.float32)  # points to where the light comes from, xy
    height = fractal_noise(rng, size, rng.uniform(1.4, 2.2)) * size * rng.uniform(0.004, 0.012)
    height += fractal_noise(rng, size, 0.7) * size * rng.uniform(0.0002, 0.0008)
    outlines = [_outline(rng, size, kind, x, y, r) for kind, x, y, r in _places(rng, size)]
    for outline in outlines:
        outline.raise_terrain(height[outline.window], rng)
    gy, gx = np.gradient(height)
    slope = rng.uniform(0.5, 1.1)
    shade = 0.5 - slope * (gx * light[0] + gy * light[1]) / np.sqrt(1 + gx**2 + gy**2)
    albedo = 1 + fractal_noise(rng, size, 1.2) * rng.uniform(0.02, 0.12)
    picture = np.clip(shade, 0.05, 1.2) * albedo
    objects = []
    for outline in outlines:
        outline.paint(picture[outline.window], light, rng)
        mask = np.zeros((size, size), bool)
        mask[outline.window] = outline.distance < 1
        objects.append(SceneObject(outline.kind, mask))
    return Scene(_expose(picture, rng), tuple(objects))


@dataclass(frozen=True)
class _Outline:
    """Where an object is, over a window of the scene: `distance` is 0 at its centre and 1 on its rim."""

    kind: str
    radius: float  # px
    window: tuple[slice, slice]  # rows, columns; all that the object changes lies within
    distance: NDArray[np.float32]
    dx: NDArray[np.float32]  # px from the centre, over the radius
    dy: NDArray[np.float32]

    def raise_terrain(self, height: NDArray[np.float32], rng: np.random.Generator) -> None:
        d, r = self.distance, self.radius
        if self.kind == "crater":
            depth, rim = r * rng.uniform(0.15, 0.35), r * rng.uniform(0.03, 0.10)
            height += np.where(d < 1, depth * (d**2 - 1), 0) + rim * np.exp(-(((d - 1) / 0.18) ** 2))
        elif self.kind == "pit":
            height += r * rng.uniform(0.0, 0.06) * np.exp(-(((d - 1) / 0.2) ** 2))
        else:
            height += r * 0.8 * np.sqrt(np.clip(1 - d**2, 0, None))

    def paint(self, picture: NDArray[np.float32], light: NDArray[np.float32], rng: np.random.Generator) -> None:
        toward = self.dx * light[0] + self.dy * light[1]
        if self.kind == "pit":
            shadow, lit = rng.uniform(0.02, 0.16), rng.uniform(0.25, 0.75)
            reach = rng.uniform(0.35, 0.9)  # how much of the floor the wall's shadow covers
            far = np.clip((-toward - reach + 0.35) * 4, 0, 1) * np.clip(self.distance, 0, 1)
            edge = np.clip((1 - self.distance) * self.radius, 0, 1)  # one pixel of anti-aliasing
            picture += edge * (shadow + (lit - shadow) * far - picture)
            rim = np.exp(-(((self.distance - 1.04) / 0.06) ** 2)) * np.clip(-toward, 0, 1)
            picture += rng.uniform(0, 0.25) * rim
        elif self.kind == "boulder":
            away = np.hypot(self.dx + 1.1 * light[0], self.dy + 1.1 * light[1])
            cast = (away < 1) & (self.distance >= 1)
            picture[cast] *= rng.uniform(0.25, 0.6)
            bright = np.clip(0.65 + 0.35 * toward, 0.1, 1.2) * rng.uniform(0.8, 1.2)
            picture += np.clip((1 - self.distance) * self.radius, 0, 1) * (bright - picture)


def _places(rng: np.random.Generator, size: int) -> list[tuple[str, float, float, float]]:
    """Kind, x, y, radius (px) of each object, none overlapping."""
    placed: list[tuple[str, float, float, float]] = []
    for kind in KINDS:
        low, high = OBJECT_COUNTS[kind]
        for _ in range(int(rng.integers(low, high + 1))):
            smallest, largest = np.log(OBJECT_RADII[kind])
            r = float(np.exp(rng.uniform(smallest, largest))) * size
            for _attempt in range(20):
                x, y = rng.uniform(r * 0.7, size - r * 0.7, 2)
                if all(np.hypot(x - px, y - py) > CLEARANCE * (r + pr) for _, px, py, pr in placed):
                    placed.append((kind, float(x), float(y), r))
                    break
    return placed


def _outline(rng: np.random.Generator, size: int, kind: str, x: float, y: float, r: float) -> _Outline:
    """An irregular ellipse: up to 25 % flattened, its radius modulated by a few low harmonics."""
    left, right = max(int(x - REACH * r), 0), min(int(x + REACH * r) + 2, size)
    top, bottom = max(int(y - REACH * r), 0), min(int(y + REACH * r) + 2, size)
    columns, rows = np.arange(left, right, dtype=np.float32), np.arange(top, bottom, dtype=np.float32)
    dx, dy = np.meshgrid((columns - x) / r, (rows - y) / r)
    turn, flat = rng.uniform(0, np.pi), rng.uniform(0.75, 1)
    along, across = dx * np.cos(turn) + dy * np.sin(turn), (dy * np.cos(turn) - dx * np.sin(turn)) / flat
    angle = np.arctan2(across, along)
    rough = {"pit": 0.07, "crater": 0.03, "boulder": 0.10}[kind]
    wave = np.ones_like(angle)
    for k in range(2, 7):
        wave += rough / (k - 1) * rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    distance = np.hypot(along, across) / np.clip(wave, 0.6, 1.1)
    window = (slice(top, bottom), slice(left, right))
    return _Outline(kind, r, window, distance.astype(np.float32), dx, dy)


def _expose(picture: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Contrast, sensor noise and a slight tint; (H, W) float -> (H, W, 3) uint8."""
    low, high = np.percentile(picture, (1, 99.5))
    gray = np.clip((picture - low) / max(high - low, 1e-6), 0, 1) ** rng.uniform(0.75, 1.3)
    gray = gray * rng.uniform(0.65, 0.95) + rng.uniform(0.0, 0.08) + rng.normal(0, rng.uniform(0.005, 0.03), gray.shape)
    green = rng.uniform(0.75, 0.95)
    tint = np.array([1, green, green * rng.uniform(0.7, 1)]) if rng.random() < 0.5 else np.ones(3)
    rgb: NDArray[np.uint8] = (np.clip(gray[..., None] * tint, 0, 1) * 255).astype(np.uint8)
    return rgb

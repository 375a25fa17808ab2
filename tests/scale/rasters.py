"""A picture of 20,000 x 20,000 px beside one of 1024: the first click, a pre-annotation, memory, and small objects.

The large one is a mosaic of procedural cells of 128 px, of which one in twenty holds pits, 6 to 26 px wide. Everything
that is timed runs in a process of its own, so that its greatest memory is its own.
"""

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from rasterio.windows import Window
from scipy import ndimage

from skylight.backend.demo.demo import label_config
from skylight.backend.images.embedder import ImageEmbedder
from skylight.backend.images.large_images import LargeImageStore
from skylight.backend.inference.click import click
from skylight.backend.inference.preannotation import preannotation_large
from skylight.backend.labelstudio.label_config import Labeling, parse_config
from skylight.backend.service import Service
from skylight.backend.settings import Settings
from skylight.model.datasets.synthetic_scenes import fractal_noise, scene
from skylight.model.decoder import network
from skylight.model.decoder.inference import predict_pixels
from skylight.model.decoder.network import DecoderConfig
from skylight.model.decoder.samples import Sample
from skylight.model.decoder.training import TrainConfig, train
from skylight.model.embeddings.cache import EmbeddingCache
from skylight.model.sam import loading
from skylight.model.storage.file_store import FolderStore
from tests.support.planted_embeddings import key_point

SIDE, SMALL, CELL = 20_000, 1024, 128  # px: the large picture, the small one, a cell
VARIANTS, RARE = 48, 0.05  # cells with pits that there are, and their share
WIDE = 8, 16  # px, diameters of the objects that count as small
SOME = 100  # small objects that are looked at in crops of their own
GOAL_RATIO, GOAL_MEMORY = 1.5, 2.0  # of the first clicks; GB
CONFIG = label_config(["Pit"])
BRUSHES, POLYGONS = (parse_config(CONFIG.replace("BrushLabels", kind)) for kind in ("BrushLabels", "PolygonLabels"))


class Mosaic:
    """The large picture's cells: which variant is where, -1 for ground without anything."""

    def __init__(self, side: int) -> None:
        rng = np.random.default_rng(5)
        made = [scene(900 + k, CELL) for k in range(VARIANTS)]
        self.images = [each.image for each in made]
        self.truths = [each.truth() for each in made]
        self.ground = []
        for _ in range(8):
            gray = np.clip(120 + 22 * fractal_noise(rng, CELL, 1.0), 0, 255).astype(np.uint8)
            self.ground.append(np.repeat(gray[..., None], 3, 2))
        count = -(-side // CELL)
        self.cells = np.where(rng.random((count, count)) < RARE, rng.integers(0, VARIANTS, (count, count)), -1)
        self.side = side

    def rows(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture (CELL, side, 3) and truth (CELL, side) of one row of cells."""
        images, truths = [], []
        for column, kind in enumerate(self.cells[number]):
            images.append(self.images[kind] if kind >= 0 else self.ground[(number * 7 + column) % 8])
            truths.append(self.truths[kind] if kind >= 0 else np.zeros((CELL, CELL), bool))
        high = min(CELL, self.side - number * CELL)
        return np.concatenate(images, 1)[:high, : self.side], np.concatenate(truths, 1)[:high, : self.side]

    def write(self, path: Path) -> None:
        """As a tiled GeoTIFF with JPEG's compression, as mosaics come."""
        how = {"photometric": "ycbcr", "compress": "jpeg", "jpeg_quality": 90, "tiled": True}
        where = {"crs": "IAU_2015:49910", "transform": rasterio.Affine(0.25, 0, 0, 0, -0.25, 0)}
        with rasterio.open(path, "w", "GTiff", self.side, self.side, 3, dtype="uint8", **how, **where) as file:
            for number in range(0, len(self.cells), 4):
                image = np.concatenate([self.rows(k)[0] for k in range(number, min(number + 4, len(self.cells)))])
                file.write(np.moveaxis(image, 2, 0), window=Window(0, number * CELL, self.side, len(image)))

    def crop(self, top: int, left: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture and truth of SMALL x SMALL px."""
        both = [self.rows(k) for k in range(top // CELL, -(-(top + SMALL) // CELL))]
        image, truth = (
            np.concatenate(part)[top % CELL :][:SMALL, left : left + SMALL] for part in zip(*both, strict=True)
        )
        return np.ascontiguousarray(image), truth


def run(table: Any, side: int = SIDE) -> None:
    """All rows."""
    mosaic = Mosaic(side)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        mosaic.write(home / "large.tif")
        crops = [mosaic.crop(0, 512 * k) for k in range(8)]
        Image.fromarray(crops[0][0]).save(home / "small.png")
        _alone(_train, home, crops[1:])
        name = f"{side} px"
        small, _ = _alone(_first_click, home, "small.png", (500.0, 500.0))
        large, memory = _alone(_first_click, home, "large.tif", (side / 2 + 20, side / 2 + 20))
        table.add(f"first click, its file not seen before, {SMALL} px PNG", small["cold"], "ms")
        table.add(f"first click, its file not seen before, {name} TIFF", large["cold"], "ms")
        table.add(f"first click in another tile, {name}", large["opened"], "ms")
        ratio = large["opened"] / small["cold"]
        table.add(f"first click once its file is there, {name} over {SMALL} px", ratio, "", most=GOAL_RATIO)
        table.add(f"memory of clicks, {name}", memory, "GB", most=GOAL_MEMORY)
        for kind, labeling in {"polygons": POLYGONS, "brushes, from cached embeddings": BRUSHES}.items():
            said, memory = _alone(_preannotate, home, labeling)
            table.add(f"pre-annotation by {kind}, {name}", said["seconds"], "s")
            table.add(f"pre-annotation by {kind}, {name}", said["regions"], "regions")
            table.add(f"memory of a pre-annotation by {kind}, {name}", memory, "GB", most=GOAL_MEMORY)
        found, _ = _alone(_small_objects, home, mosaic)
        for what, value in found.items():
            table.add(what, value, "")


def _alone(work: Callable[..., Any], *given: Any) -> tuple[Any, float]:
    """What `work` gives in a process of its own, and the most memory that took, GB."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        return alone.submit(_measured, work, given).result()


def _measured(work: Callable[..., Any], given: tuple[Any, ...]) -> tuple[Any, float]:
    answer = work(*given)
    return answer, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _service(home: Path) -> Service:
    """A service whose addresses are files' names."""
    service = Service(
        Settings(redis_url="unix:///nowhere/redis.sock", home=home, device="cpu", max_pixels=10**9, min_area=20)
    )
    segmenter = loading.load("tiny", None, "cpu")
    cache = EmbeddingCache(FolderStore(home), segmenter.encoder_id, 2**26)
    large = LargeImageStore(home / "pictures", SMALL)
    service._embedder = ImageEmbedder(segmenter, cache, lambda url: (home / url).read_bytes(), 10**9, large=large)
    return service


def _train(home: Path, crops: list[tuple[np.ndarray, np.ndarray]]) -> None:
    segmenter = loading.load("tiny", None, "cpu")
    samples = [Sample(str(k), segmenter.embed(image), truth.astype(np.uint8)) for k, (image, truth) in enumerate(crops)]
    config = DecoderConfig(POLYGONS.labels, segmenter.encoder_id)
    network.save(train(samples, [], config, TrainConfig(folds=1)).decoder, home / "decoder.safetensors")


def _click(service: Service, url: str, x: float, y: float, size: tuple[int, int]) -> float:
    """Milliseconds of a click, until its regions are made."""
    began = time.perf_counter()
    click(service, POLYGONS, {"id": 1, "data": {"image": url}}, {"result": [key_point("point", "Pit", x, y, size)]})
    return 1000 * (time.perf_counter() - began)


def _first_click(home: Path, url: str, at: tuple[float, float]) -> dict[str, float]:
    service = _service(home)
    warm = home / "warm.png"
    Image.fromarray(scene(1, 64).image).save(warm)
    _click(service, "warm.png", 30, 30, (64, 64))
    with Image.open(home / url) as picture:
        size = picture.height, picture.width
    cold = _click(service, url, *at, size)
    far = 0.25 * size[1], 0.75 * size[0]
    opened = [_click(service, url, far[0] + 2000 * k, far[1], size) for k in range(3)] if max(size) > SMALL else [0.0]
    return {"cold": cold, "opened": float(np.median(opened))}


def _preannotate(home: Path, labeling: Labeling) -> dict[str, Any]:
    service, decoder = _service(home), network.load(home / "decoder.safetensors")
    digest, raster = service.embedder.open("large.tif")
    began = time.perf_counter()
    regions, _ = preannotation_large(service, decoder, labeling, digest, raster)
    return {"seconds": time.perf_counter() - began, "regions": len(regions)}


def _small_objects(home: Path, mosaic: Mosaic) -> dict[str, float]:
    """Share of small objects that a decoder finds in the large picture, and in a crop around each."""
    from skylight.model.images.opening import open_raster
    from skylight.model.mapping.component_merging import LabelMap
    from skylight.model.mapping.tiled_inference import strips

    decoder, segmenter = network.load(home / "decoder.safetensors"), loading.load("tiny", None, "cpu")
    raster = open_raster(home / "large.tif")
    part = min(mosaic.side, 4096)
    raster.size = part, part  # its first rows and columns: tiles of the same size, and as many seams a px
    found = LabelMap(raster.size, 1)
    for _rows in found.fill(strips(decoder, segmenter, raster, SMALL)):
        pass
    whole = found.classes.read((0, 0, part, part)) == 1
    truth = np.concatenate([mosaic.rows(k)[1][:, :part] for k in range(part // CELL)])
    numbered, _count = ndimage.label(truth)
    rows: list[tuple[float, float]] = []
    for number, window in enumerate(ndimage.find_objects(numbered), 1):
        mask = numbered[window] == number
        if not WIDE[0] <= 2 * np.sqrt(mask.sum() / np.pi) <= WIDE[1] or len(rows) == SOME:
            continue
        top, left = (min(max(each.start - SMALL // 2, 0), part - SMALL) for each in window)
        own = predict_pixels(decoder, segmenter.embed(raster.read((top, left, SMALL, SMALL)))).winner
        wide = tuple(slice(max(each.start - 4, 0), each.stop + 4) for each in window)
        mine = numbered[wide] == number
        others = (numbered[wide] > 0) & ~mine
        shifted = tuple(slice(each.start - at, each.stop - at) for each, at in zip(wide, (top, left), strict=True))
        rows.append((_iou(whole[wide] & ~others, mine), _iou((own[shifted] == 1) & ~others, mine)))
    found.close()
    raster.close()
    scores = np.array(rows)
    return {
        f"objects of {WIDE[0]} to {WIDE[1]} px: looked at": float(len(rows)),
        "... found (IoU 0.5) in the large picture": float((scores[:, 0] >= 0.5).mean()),
        "... found (IoU 0.5) in a crop of their own": float((scores[:, 1] >= 0.5).mean()),
        "... mean IoU in the large picture": float(scores[:, 0].mean()),
        "... mean IoU in a crop of their own": float(scores[:, 1].mean()),
    }


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))

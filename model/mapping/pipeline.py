"""The outputs of `skylight map`: a trained decoder's objects, tables and label maps of images of any size.

OUT/<name>.png .tif .geojson .gpkg     of each input, as asked
OUT/objects.csv summary.csv coco.json index.html
OUT/parts/<name>.json                  the record of an input; written last: an input that has one is done
OUT/thumbnails/<name>.jpg
OUT/.copies/                           copies of objects in a bucket, while they are mapped
"""

import csv
import hashlib
import io
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from skylight.model.decoder.network import DomainDecoder
from skylight.model.images.decoding import MAX_PIXELS
from skylight.model.images.normalization import PER_IMAGE, Normalization
from skylight.model.images.opening import open_raster
from skylight.model.images.raster import Georeference, Raster
from skylight.model.mapping import contact_sheet, writers
from skylight.model.mapping.component_merging import LabelMap
from skylight.model.mapping.georeference import PixelCoordinates
from skylight.model.mapping.tiled_inference import strips
from skylight.model.mapping.vectorize import shape
from skylight.model.mapping.writers import Row
from skylight.model.masks.region import MaskRegion, StreamedRegion
from skylight.model.sam.segmenter import Segmenter
from skylight.model.storage import atomic_write

FORMATS = ("png", "geojson", "gpkg", "coco", "geotiff")
COPIES = ".copies"
STALE_SECONDS = 86_400.0  # age from which on a copy is one of a process that was killed
FORMAT_VERSION = 2  # of the outputs: 1 had background where there is no data
NEED_GEO = ("geojson", "gpkg", "geotiff")
COLUMNS = (
    "input", "object", "label", "version", "confidence", "area_px", "diameter_px", "x_px", "y_px",
    "area_m2", "diameter_m", "x", "y", "longitude", "latitude",
)  # fmt: skip
SUMMARY_COLUMNS = (
    "input",
    "label",
    "objects",
    "area_px",
    "area_m2",
    "median_diameter_px",
    "median_diameter_m",
    "confidence",
)


class Input(Protocol):
    """An image to be mapped, wherever it is stored."""

    @property
    def name(self) -> str:
        """What its outputs are called; unique in a run."""

    @property
    def address(self) -> str:
        """What the tables call it."""

    @property
    def is_remote(self) -> bool:
        """Whether `local` gives a copy, which has no other files beside it."""

    def state(self) -> tuple[int, int | str]:
        """Its size in bytes, and a mark that changes with its content. Raises OSError if it does not exist."""

    def local(self, folder: Path) -> AbstractContextManager[Path]:
        """Its file; a copy in `folder` that is deleted at the end, if `is_remote`. Raises OSError or ImageError."""


@dataclass(frozen=True)
class Measures:
    """Measures of a `MaskRegion` or `StreamedRegion`: all but its mask, of which only one is in memory at a time."""

    label: int
    top: int
    left: int
    height: int
    width: int
    area: int
    diameter: float
    centroid: tuple[float, float]
    score: float

    @classmethod
    def of(cls, found: MaskRegion | StreamedRegion) -> "Measures":
        """Of an object."""
        box = found.top, found.left, found.height, found.width
        return cls(found.label, *box, found.area, found.diameter, found.centroid, found.score)


@dataclass
class Objects:
    """The objects of an image: their measures and, for the formats that need them, polygons and COCO annotations."""

    measured: list[Measures] = field(default_factory=list)
    shapes: list[Any] = field(default_factory=list)
    coco: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    """How images are mapped."""

    out: Path
    formats: tuple[str, ...]
    version: str  # the decoder's name, as in the tables
    tile: int  # px, a tile's side
    min_area: int  # px, of the smallest object
    max_pixels: int = MAX_PIXELS  # of an image that has to be read whole
    bands: tuple[int, ...] = ()  # of these images, instead of the normalization's
    normalisation: Normalization = PER_IMAGE

    def key(self, image: Input) -> str:
        """A fingerprint of what an input's record depends on: an input is mapped again when that changes."""
        made_of: list[Any] = [image.address, *image.state(), self.version, sorted(self.formats)]
        made_of += [
            FORMAT_VERSION,
            self.tile,
            self.min_area,
            list(self.bands),
            *filter(None, [self.normalisation.key_suffix]),
        ]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def done(image: Input, options: Options) -> dict[str, Any] | None:
    """The record of an input that was mapped with these options, else None. Raises OSError if it does not exist."""
    try:
        record: dict[str, Any] = json.loads((options.out / "parts" / f"{image.name}.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return record if record.get("key") == options.key(image) else None


def map_image(
    image: Input, options: Options, decoder: DomainDecoder, segmenter: Segmenter, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Map an image and write its own files; gives its record. `progress` is called with the share that is done.

    Raises ImageError if it cannot be read, OSError if it cannot be copied or written.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    with image.local(options.out / COPIES) as path:
        raster = open_raster(path, options.max_pixels, options.bands, options.normalisation, untrusted=image.is_remote)
        return _map(image, options, decoder, segmenter, raster, progress)


def _map(
    image: Input,
    options: Options,
    decoder: DomainDecoder,
    segmenter: Segmenter,
    raster: Raster,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    """As `map_image`; closes the raster."""
    config = decoder.config
    separated = frozenset(config.labels.index(label) for label in config.separate)
    label_map = LabelMap(raster.size, len(config.labels), separated, options.out)
    try:
        for rows in label_map.fill(strips(decoder, segmenter, raster, options.tile)):
            progress(0.9 * rows / raster.size[0])
        objects = _collect_objects(label_map, options)
        rows_of = _rows(image, options, config.labels, objects.measured, raster.georeference)
        _write(image, options, config.labels, label_map, raster, objects, rows_of)
        record = {
            "key": options.key(image),
            "input": image.address,
            "size": list(raster.size),
            "crs": raster.georeference.crs if raster.georeference else None,
            "confidence": round(label_map.confidence, 4),
            "known": round(label_map.known, 6),
            "counts": dict(Counter(row["label"] for row in rows_of)),
            "thumbnail": _thumbnail(image, options, raster, objects.measured),
            "rows": rows_of,
            "coco": objects.coco,
        }
    finally:
        label_map.close()
        raster.close()
    atomic_write.write(options.out / "parts" / f"{image.name}.json", json.dumps(record).encode())
    progress(1.0)
    return record


def _remove_copies(folder: Path) -> None:
    """Remove the folder of copies, unless another process uses it; copies of killed processes are removed."""
    with suppress(OSError):  # it is not empty, or does not exist
        for path in folder.iterdir():
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)
        folder.rmdir()


def finish(options: Options, labels: Sequence[str], pictures: Sequence[dict[str, Any]]) -> list[str]:
    """Write the files about all images together; gives their names."""
    out = options.out
    _table(out / "objects.csv", COLUMNS, (row for picture in pictures for row in picture["rows"]))
    _table(out / "summary.csv", SUMMARY_COLUMNS, (row for picture in pictures for row in _summary(picture, labels)))
    contact_sheet.write_page(out / "index.html", f"{options.version}: {len(pictures)} pictures", pictures)
    names = ["objects.csv", "summary.csv", "index.html"]
    if "coco" in options.formats:
        writers.write_coco(out / "coco.json", labels, pictures)
        names.append("coco.json")
    _remove_copies(out / COPIES)
    return names


def _collect_objects(label_map: LabelMap, options: Options) -> Objects:
    """The objects of a label map."""
    objects = Objects()
    for found in label_map.objects(options.min_area):
        measured = Measures.of(found)
        objects.measured.append(measured)
        if "geojson" in options.formats or "gpkg" in options.formats:
            objects.shapes.append(shape(found))
        if "coco" in options.formats:
            row = {"area_px": measured.area, "confidence": round(measured.score, 4)}
            objects.coco.append(writers.coco_annotation(found, label_map.size, row))
    return objects


def _write(
    image: Input,
    options: Options,
    labels: Sequence[str],
    label_map: LabelMap,
    raster: Raster,
    objects: Objects,
    rows: Sequence[Row],
) -> None:
    georeference, at = raster.georeference, {kind: options.out / f"{image.name}.{kind}" for kind in (*FORMATS, "tif")}
    if "png" in options.formats:
        writers.write_png(at["png"], label_map.classes)
    if "geotiff" in options.formats:
        writers.write_geotiff(at["tif"], label_map.classes, georeference, labels)
    if "geojson" in options.formats:
        writers.write_geojson(at["geojson"], objects.shapes, rows, georeference)
    if "gpkg" in options.formats:
        writers.write_gpkg(at["gpkg"], objects.shapes, rows, georeference)


def _rows(
    image: Input,
    options: Options,
    labels: Sequence[str],
    objects: Sequence[Measures],
    georeference: Georeference | None,
) -> list[Row]:
    """The table of an image's objects."""
    geo = PixelCoordinates(georeference) if georeference else None
    centres = np.array([found.centroid for found in objects], float).reshape(-1, 2)
    placed = geo.xy(centres) if geo else None
    lonlat = geo.lonlat(centres) if geo and len(centres) else None
    rows = []
    for i, found in enumerate(objects):
        x, y = (float(value) for value in centres[i])
        pixel = geo.square_metres(x, y) if geo else None
        rows.append(
            {
                "input": image.address,
                "object": i + 1,
                "label": labels[found.label],
                "version": options.version,
                "confidence": round(found.score, 4),
                "area_px": found.area,
                "diameter_px": round(found.diameter, 2),
                "x_px": round(x, 2),
                "y_px": round(y, 2),
                "area_m2": None if pixel is None else _short(found.area * pixel),
                "diameter_m": None if pixel is None else _short(found.diameter * pixel**0.5),
                "x": None if placed is None else _short(float(placed[i, 0]), 12),
                "y": None if placed is None else _short(float(placed[i, 1]), 12),
                "longitude": None if lonlat is None else round(float(lonlat[i, 0]), 8),
                "latitude": None if lonlat is None else round(float(lonlat[i, 1]), 8),
            }
        )
    return rows


def _short(number: float, digits: int = 7) -> float:
    return float(f"{number:.{digits}g}")


def _thumbnail(image: Input, options: Options, raster: Raster, objects: Sequence[Measures]) -> str:
    boxes = [(one.label, one.left, one.top, one.width, one.height) for one in objects]
    picture = contact_sheet.draw(raster.thumbnail(contact_sheet.SIDE), raster.size, boxes)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    atomic_write.write(options.out / "thumbnails" / f"{image.name}.jpg", buffer.getvalue())
    return f"thumbnails/{image.name}.jpg"


def _summary(picture: dict[str, Any], labels: Sequence[str]) -> Iterator[Row]:
    """The summary of an image's objects for each label, also for labels without any."""
    for label in labels:
        rows = [row for row in picture["rows"] if row["label"] == label]
        metres = [row for row in rows if row["area_m2"] is not None]
        in_metres = bool(metres) or (picture["crs"] is not None and not rows)
        total = _short(sum(row["area_m2"] for row in metres)) if in_metres else None
        yield {
            "input": picture["input"],
            "label": label,
            "objects": len(rows),
            "area_px": sum(row["area_px"] for row in rows),
            "area_m2": total,
            "median_diameter_px": float(np.median([row["diameter_px"] for row in rows])) if rows else None,
            "median_diameter_m": _short(float(np.median([row["diameter_m"] for row in metres]))) if metres else None,
            "confidence": round(float(np.mean([row["confidence"] for row in rows])), 4) if rows else None,
        }


def _table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    atomic_write.write(path, text.getvalue().encode())


def discard_records(out: Path) -> None:
    """Delete the records of the inputs that are done, so that all are mapped again."""
    shutil.rmtree(out / "parts", ignore_errors=True)

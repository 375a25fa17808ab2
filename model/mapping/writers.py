"""Output files of `skylight map`: label maps as PNG or GeoTIFF, objects as GeoJSON, GeoPackage or COCO."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.model.images.disk_array import DiskArray
from skylight.model.images.raster import Georeference
from skylight.model.mapping.component_merging import UNKNOWN
from skylight.model.mapping.georeference import PixelCoordinates
from skylight.model.masks.coco_rle import encode_runs
from skylight.model.masks.contours import outlines
from skylight.model.masks.png import write_palette
from skylight.model.masks.polygon_simplification import simplify
from skylight.model.masks.region import MaskRegion, StreamedRegion
from skylight.model.storage import atomic_write

COLORS = ((228, 26, 28), (55, 126, 184), (77, 175, 74), (152, 78, 163), (255, 127, 0), (166, 86, 40), (247, 129, 191))
ROWS = 512  # of a label map that are written at a time
COCO_TOLERANCE = 0.999  # px, as polygons in Label Studio
FIELDS = ("label", "confidence", "area_px", "diameter_px", "area_m2", "diameter_m", "version")

Row = dict[str, Any]  # of the table of objects


def color(label: int) -> tuple[int, int, int]:
    """RGB of a label, 0 for the first."""
    return COLORS[label % len(COLORS)]


def write_png(path: Path, classes: DiskArray) -> None:
    """The label map as PNG with a palette: 0 background, k + 1 the k-th label, 255 (transparent) no data."""
    palette = bytes([0, 0, 0, *(level for k in range(UNKNOWN - 1) for level in color(k)), 0, 0, 0])
    with atomic_write.replacing(path) as part, part.open("wb") as file:
        write_palette(file, classes.size, (rows for _, rows in _strips(classes)), palette, b"\xff" * UNKNOWN + b"\0")


def _strips(classes: DiskArray) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """A label map's rows, `ROWS` at a time, with the first one's number."""
    height, width = classes.size
    for top in range(0, height, ROWS):
        yield top, classes.read((top, 0, min(ROWS, height - top), width))


def write_geotiff(path: Path, classes: DiskArray, georeference: Georeference | None, labels: Sequence[str]) -> None:
    """The label map as GeoTIFF, in the input's place, with a color table: 0 background, 255 no data.

    A tag `labels` has the labels' names, the background first.
    """
    import rasterio
    import rasterio.errors
    import rasterio.windows

    height, width = classes.size
    placement: dict[str, Any] = {"nodata": UNKNOWN}
    if georeference:
        placement |= {"transform": rasterio.Affine(*georeference.transform)}
        placement |= {"crs": georeference.crs} if georeference.crs else {}
    options = {"compress": "deflate", "tiled": True, "blockxsize": ROWS, "blockysize": ROWS, "bigtiff": "if_safer"}
    with (
        atomic_write.replacing(path) as part,
        warnings.catch_warnings(action="ignore", category=rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(part, "w", "GTiff", width, height, 1, dtype="uint8", **placement, **options) as file,
    ):
        colors = {k: (*color(k - 1), 255) for k in range(1, len(labels) + 1)}
        file.write_colormap(1, {0: (0, 0, 0, 0), UNKNOWN: (0, 0, 0, 0), **colors})
        file.update_tags(labels=json.dumps(["background", *labels]))
        for top, rows in _strips(classes):
            file.write(rows, 1, window=rasterio.windows.Window(0, top, width, len(rows)))


def write_geojson(path: Path, shapes: Sequence[Any], rows: Sequence[Row], georeference: Georeference | None) -> None:
    """Objects as GeoJSON: longitude and latitude on the Earth (RFC 7946), on another body its own system, see `geo`.

    Without a georeference the coordinates are px, y down; without a system those of the geotransform. `shapes` as of
    `vectorize.shape`, one for each row.
    """
    import shapely

    coordinates = PixelCoordinates(georeference) if georeference else None
    features = []
    for shape, row in zip(shapes, rows, strict=True):
        placed = shapely.transform(shape, coordinates.geojson) if coordinates else shape
        clockwise = shapely.normalize(placed)  # its outer rings
        geometry = shapely.geometry.mapping(shapely.reverse(clockwise))  # RFC 7946 wants them counterclockwise
        properties = {name: row[name] for name in FIELDS}
        features.append({"type": "Feature", "id": row["object"], "geometry": geometry, "properties": properties})
    head = coordinates.geojson_crs() if coordinates else {"coordinates": "px from the upper left corner, y down"}
    atomic_write.write(path, json.dumps({"type": "FeatureCollection", **head, "features": features}).encode())


def write_gpkg(path: Path, shapes: Sequence[Any], rows: Sequence[Row], georeference: Georeference | None) -> None:
    """Objects as a GeoPackage's layer `objects`, in the input's coordinate reference system; without one in px."""
    import shapely
    from pyogrio.raw import write

    to_xy = PixelCoordinates(georeference).xy if georeference else None
    placed = [shapely.transform(shape, to_xy) for shape in shapes] if to_xy else list(shapes)
    multi = [shapely.MultiPolygon(shapely.get_parts(shape).tolist()) for shape in placed]
    # It logs every file, and warns of one without a coordinate reference system.
    logging.getLogger("pyogrio").setLevel(logging.WARNING)
    with atomic_write.replacing(path) as part, warnings.catch_warnings(action="ignore"):
        write(
            part,
            geometry=np.array(shapely.to_wkb(np.array(multi, object)) if multi else [], object),
            field_data=[_column(name, rows) for name in FIELDS],
            fields=list(FIELDS),
            layer="objects",
            driver="GPKG",
            geometry_type="MultiPolygon",
            crs=georeference.crs if georeference else None,
        )


def _column(name: str, rows: Sequence[Row]) -> NDArray[Any]:
    values = [row[name] for row in rows]
    if name in ("label", "version"):
        return np.array(values, object)
    if name == "area_px":
        return np.array(values, np.int64)
    return np.array([np.nan if value is None else value for value in values], np.float64)


def coco_annotation(found: MaskRegion | StreamedRegion, size: tuple[int, int], row: Row) -> dict[str, Any]:
    """A COCO annotation of an object, without ids: a polygon, or run lengths if it has holes or is streamed."""
    rings = outlines(found.mask) if isinstance(found, MaskRegion) else []
    segmentation: Any
    if len(rings) != 1:
        segmentation = {"size": list(size), "counts": encode_runs(found, size)}
    else:
        ring = simplify(rings[0], COCO_TOLERANCE)
        ring = (ring if len(ring) >= 3 else rings[0]) + (found.left, found.top)
        segmentation = [np.round(ring, 2).ravel().tolist()]
    return {
        "category_id": found.label + 1,
        "bbox": [found.left, found.top, found.width, found.height],
        "area": row["area_px"],
        "score": row["confidence"],
        "segmentation": segmentation,
        "iscrowd": 0,
    }


def write_coco(path: Path, labels: Sequence[str], pictures: Sequence[Mapping[str, Any]]) -> None:
    """The objects of all images as one COCO file; `pictures` are the records that `pipeline.map_image` gives."""
    images: list[Row] = []
    annotations: list[Row] = []
    for number, picture in enumerate(pictures, 1):
        height, width = picture["size"]
        images.append({"id": number, "file_name": picture["input"], "height": height, "width": width})
        for annotation in picture["coco"]:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **annotation})
    categories = [{"id": k, "name": label} for k, label in enumerate(labels, 1)]
    body = {"images": images, "annotations": annotations, "categories": categories}
    atomic_write.write(path, json.dumps(body).encode())

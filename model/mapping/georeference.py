"""Where pixels lie on a planet: coordinates, metres, longitude and latitude. Needs the extra `geo`.

On the Earth GeoJSON is in longitude and latitude of WGS 84, as RFC 7946 asks. RFC 7946 knows no other body: a map of
one stays in its own coordinate reference system, which a member "crs" names, as GeoJSON had it before. So does one of
an engineer's own (LOCAL_CS), which lies nowhere on the Earth, and one of which only the geotransform is known.
"""

import json
import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.model.images.raster import Georeference

EARTH = 6_378_137.0  # m, semi-major axis of WGS 84
EARTH_LIKE = 0.005  # share by which an axis may differ and still be the Earth's: its spheres have 6370 or 6371 km
LOCAL = "LOCAL_CS["
UNIT = re.compile(r'UNIT\["[^"]*",\s*([0-9.eE+-]+)')
AXIS = re.compile(r'(?:SPHEROID|ELLIPSOID)\["[^"]*",\s*([0-9.]+)')


@dataclass(frozen=True)
class Geo:
    """A raster's place, with what its coordinate reference system, if it names one, says of metres and of the body."""

    place: Georeference

    @cached_property
    def _crs(self) -> Any:
        """None if there is none."""
        from rasterio.crs import CRS

        return None if self.place.crs is None else CRS.from_wkt(self.place.crs)

    @cached_property
    def axis(self) -> float:
        """The body's semi-major axis, m; 0 if the system names none."""
        found = AXIS.search(self.place.crs or "")
        return float(found[1]) if found else 0.0

    @property
    def on_earth(self) -> bool:
        """Whether the body is the Earth."""
        return abs(self.axis / EARTH - 1) < EARTH_LIKE

    @property
    def name(self) -> str:
        """The system as EPSG:32632 or the like, "" if it has no such name."""
        authority = self._crs.to_authority() if self._crs else None
        return ":".join(authority) if authority else ""

    def xy(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coordinates (N, 2) of points (N, 2) xy px."""
        a, b, c, d, e, f = self.place.transform
        placed: NDArray[np.float64] = points @ np.array([[a, d], [b, e]]) + (c, f)
        return placed

    def lonlat(self, points: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Longitude and latitude (N, 2), degrees, of points (N, 2) xy px; those of WGS 84 on the Earth.

        None if the system is none, or none of a body, or if there is no way from it to longitude and latitude.
        """
        from rasterio._err import CPLE_BaseError
        from rasterio.crs import CRS
        from rasterio.errors import RasterioError
        from rasterio.warp import transform

        if not self._crs or not (self._crs.is_geographic or self._crs.is_projected):
            return None
        placed = self.xy(points)
        if self._crs.is_geographic and not self.on_earth:
            return placed
        try:
            target = CRS.from_epsg(4326) if self.on_earth else CRS.from_wkt(_geographic(str(self.place.crs)))
            return np.stack([np.asarray(each) for each in transform(self._crs, target, *placed.T)], 1)
        except (ValueError, RasterioError, CPLE_BaseError):  # the last are GDAL's own, which rasterio hands through
            return None

    def square_metres(self, x: float, y: float) -> float | None:
        """The area of the pixel at x, y px, m2, on the plane of its system; of degrees on the body's sphere.

        None if its unit is not known.
        """
        a, b, _, d, e, _ = self.place.transform
        square = abs(a * e - b * d)
        if not self._crs:
            return None
        if self._crs.is_geographic:
            latitude = math.radians(float(self.xy(np.array([[x, y]]))[0, 1]))
            return square * math.radians(self.axis) ** 2 * math.cos(latitude)
        if self._crs.is_projected:
            return square * float(self._crs.linear_units_factor[1]) ** 2
        unit = UNIT.search(str(self.place.crs)) if str(self.place.crs).startswith(LOCAL) else None
        return square * float(unit[1]) ** 2 if unit else None

    def geojson(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (N, 2) xy px as GeoJSON has them: longitude and latitude on the Earth, else in the system itself."""
        found = self.lonlat(points) if self._in_degrees else None
        return self.xy(points) if found is None else found

    @cached_property
    def _in_degrees(self) -> bool:
        """Whether GeoJSON is in longitude and latitude of WGS 84."""
        return self.on_earth and self.lonlat(np.zeros((1, 2))) is not None

    def geojson_crs(self) -> dict[str, Any]:
        """The members that name the system in a GeoJSON file; none on the Earth."""
        if self._in_degrees:
            return {}
        if self.place.crs is None:
            return {"coordinates": "by the geotransform of the raster, which names no coordinate reference system"}
        if not self.name:
            return {"crs_wkt": self.place.crs}
        authority, code = self.name.split(":")
        return {"crs": {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{authority}::{code}"}}}


def _geographic(wkt: str) -> str:
    """The geographic system inside of a projected one, in WKT 1."""
    start = wkt.find("GEOGCS[")
    depth = 0
    for i in range(start, len(wkt)):
        depth += {"[": 1, "]": -1}.get(wkt[i], 0)
        if not depth and wkt[i] == "]":
            return wkt[start : i + 1]
    raise ValueError(f"no longitude and latitude belong to {json.dumps(wkt[:200])}")

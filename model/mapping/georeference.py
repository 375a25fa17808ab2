"""Coordinates, metres, and longitude and latitude of a raster's pixels, on any planet. Needs the extra `geo`.

On the Earth GeoJSON is in longitude and latitude of WGS 84, as RFC 7946 asks. RFC 7946 knows no other body: a map of
one stays in its own coordinate reference system, which a member "crs" names, as GeoJSON had it before. So does one of
a local engineering system, which lies nowhere on the Earth, and one of which only the geotransform is known.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skylight.model.images.raster import Georeference

EARTH = 6_378_137.0  # m, semi-major axis of WGS 84
EARTH_LIKE = 0.005  # share by which an axis may differ and still be the Earth's: its spheres have 6370 or 6371 km


@dataclass(frozen=True)
class PixelCoordinates:
    """Where the pixels of a raster lie, and how large they are, by its georeference."""

    georeference: Georeference

    @cached_property
    def _crs(self) -> Any:
        """The coordinate reference system, a pyproj.CRS; None if there is none."""
        from pyproj import CRS  # an optional extra

        return None if self.georeference.crs is None else CRS.from_wkt(self.georeference.crs)

    @cached_property
    def semi_major_axis(self) -> float:
        """The body's semi-major axis, m; 0 if the system names none."""
        ellipsoid = self._crs.ellipsoid if self._crs else None
        return float(ellipsoid.semi_major_metre) if ellipsoid else 0.0

    @property
    def on_earth(self) -> bool:
        """Whether the body is the Earth."""
        return abs(self.semi_major_axis / EARTH - 1) < EARTH_LIKE

    @property
    def name(self) -> str:
        """The system as EPSG:32632 or the like, "" if it has no such name."""
        authority = self._crs.to_authority() if self._crs else None
        return ":".join(authority) if authority else ""

    def xy(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coordinates (N, 2) in the system of points (N, 2) xy px."""
        a, b, c, d, e, f = self.georeference.transform
        coordinates: NDArray[np.float64] = points @ np.array([[a, d], [b, e]]) + (c, f)
        return coordinates

    def lonlat(self, points: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Longitude and latitude (N, 2), degrees, of points (N, 2) xy px; those of WGS 84 on the Earth.

        None if the system is none, or none of a body, or if PROJ cannot transform it to longitude and latitude.
        """
        from pyproj import CRS, Transformer  # an optional extra
        from pyproj.exceptions import ProjError

        if not self._crs or not (self._crs.is_geographic or self._crs.is_projected):
            return None
        coordinates = self.xy(points)
        if self._crs.is_geographic and not self.on_earth:
            return coordinates
        try:
            target = CRS.from_epsg(4326) if self.on_earth else self._crs.geodetic_crs
            transformer = Transformer.from_crs(self._crs, target, always_xy=True)
            x, y = coordinates.T.tolist()  # an array of one point would be taken for a number
            return np.stack(transformer.transform(x, y, errcheck=True), 1)
        except ProjError:
            return None

    def square_metres(self, x: float, y: float) -> float | None:
        """The area of the pixel at x, y px, m2, on the plane of its system; of degrees on the body's sphere.

        None if its unit is not known.
        """
        a, b, _, d, e, _ = self.georeference.transform
        square = abs(a * e - b * d)
        if not self._crs:
            return None
        if self._crs.is_geographic:
            latitude = math.radians(float(self.xy(np.array([[x, y]]))[0, 1]))
            return square * math.radians(self.semi_major_axis) ** 2 * math.cos(latitude)
        if (self._crs.is_projected or self._crs.is_engineering) and self._crs.axis_info:
            return square * float(self._crs.axis_info[0].unit_conversion_factor) ** 2
        return None

    def geojson(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (N, 2) xy px as GeoJSON has them: longitude and latitude on the Earth, else in the system itself."""
        lonlat = self.lonlat(points) if self._in_degrees else None
        return self.xy(points) if lonlat is None else lonlat

    @cached_property
    def _in_degrees(self) -> bool:
        """Whether GeoJSON is in longitude and latitude of WGS 84."""
        return self.on_earth and self.lonlat(np.zeros((1, 2))) is not None

    def geojson_crs(self) -> dict[str, Any]:
        """The members that name the system in a GeoJSON file; none on the Earth."""
        if self._in_degrees:
            return {}
        if self.georeference.crs is None:
            return {"coordinates": "by the geotransform of the raster, which names no coordinate reference system"}
        if not self.name:
            return {"crs_wkt": self.georeference.crs}
        authority, code = self.name.split(":")
        return {"crs": {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{authority}::{code}"}}}

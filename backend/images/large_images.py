"""Files of images larger than a tile, from which windows are read: `SKYLIGHT_HOME/pictures`.

A GeoTIFF or JPEG 2000 stays as it came, if rasterio is installed to read it by windows; any other image is decoded
once, into a file of its pixels.
"""

import threading
import time
from contextlib import suppress
from pathlib import Path

from cachetools import LRUCache

from skylight.model.images.decoding import ImageError
from skylight.model.images.geotiff import RasterioRaster
from skylight.model.images.normalization import PER_IMAGE, Normalization
from skylight.model.images.opening import header_size, reads_by_windows, unpack_pixels
from skylight.model.images.raster import NumpyRaster, Raster
from skylight.model.storage import atomic_write

KEPT_BYTES = 10 * 2**30  # of files; beyond, those opened least recently are deleted, and fetched again when needed
MAX_OPEN = 4  # files that are held open
# Endings of files. Earlier releases wrote npy and raw.npy, whose pixels are not what is read now; they age out.
KINDS = ("tif", "pixels.npy")
PART_SECONDS = 3600.0  # age at which a part file was left by a process that was killed


class LargeImageStore:
    """The large images under a folder; thread-safe."""

    def __init__(self, folder: Path, side: int) -> None:
        """`side` is that of a tile in px; an image is large if a side of it is longer."""
        self.folder = folder
        self.side = side
        self._lock = threading.Lock()
        # A raster is closed when nobody reads it any more.
        self._open: LRUCache[tuple[str, Normalization], Raster] = LRUCache(MAX_OPEN)

    def open(self, digest: str, normalization: Normalization = PER_IMAGE) -> Raster | None:
        """The image with this sha256, None if it is not kept (any more).

        Raises ImageError if it cannot be read by the normalization.
        """
        with self._lock:
            if (raster := self._open.get((digest, normalization))) is not None:
                return raster
            path = next((path for path in self._paths(digest) if path.exists()), None)
            if path is None:
                return None
            path.touch()
            raster = RasterioRaster(path, normalization) if path.suffix == ".tif" else NumpyRaster(path, normalization)
            self._open[digest, normalization] = raster
            return raster

    def add(self, digest: str, data: bytes, max_pixels: int, normalization: Normalization = PER_IMAGE) -> Raster | None:
        """Store an image's file if it is large, and open it; None if it is not.

        Raises ImageError if it has more than `max_pixels` pixels, or is damaged.
        """
        height, width = header_size(data)
        if max(height, width) <= self.side:
            return None
        if height * width > max_pixels:
            raise ImageError(
                f"the picture has {width} x {height} pixels, more than the {max_pixels} of SKYLIGHT_MAX_PIXELS; "
                "raise that, or scale the picture down"
            )
        if not any(path.exists() for path in self._paths(digest)):
            path = self.folder / f"{digest}.{KINDS[not reads_by_windows(data)]}"
            if reads_by_windows(data):
                atomic_write.write(path, data, durable=False)
            else:
                unpack_pixels(data, path, max_pixels)
            self._make_room(path)
        return self.open(digest, normalization)

    def _paths(self, digest: str) -> list[Path]:
        return [self.folder / f"{digest}.{kind}" for kind in KINDS]

    def _make_room(self, newest: Path) -> None:
        """Delete left part files, and the files opened least recently beyond `KEPT_BYTES`."""
        with suppress(FileNotFoundError):  # another process was quicker
            for path in self.folder.glob(".*"):
                if time.time() - path.stat().st_mtime > PART_SECONDS:
                    path.unlink()
            files = sorted(self.folder.glob("[!.]*"), key=lambda path: path.stat().st_mtime, reverse=True)
            total = 0
            for path in files:
                total += path.stat().st_size
                if total > KEPT_BYTES and path != newest:
                    path.unlink()

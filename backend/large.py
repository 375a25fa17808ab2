"""Pictures larger than a tile, kept as files so that windows of them can be read: `SKYLIGHT_HOME/pictures`.

A GeoTIFF or JPEG 2000 stays as it came, if rasterio is there to read it by windows; of any other picture the pixels are
written, three bytes each, so that it is unpacked once.
"""

import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from model import files
from model.images import ImageError
from model.rasters import Raster, Stored, Windowed, has_rasterio, header, unpack

KEPT_BYTES = 10 * 2**30  # of files; beyond, those opened least recently give way, and are fetched again when needed
OPEN = 4  # files that are held open
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")


class Large:
    """The large pictures under a folder; thread-safe."""

    def __init__(self, folder: Path, side: int) -> None:
        """`side`: that of a tile in px; a picture is large if a side of it is longer."""
        self.folder = folder
        self.side = side
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Raster] = OrderedDict()

    def _has(self, digest: str) -> bool:
        """Whether the picture with this sha256 is kept here."""
        return any(path.exists() for path in self._paths(digest))

    def open(self, digest: str) -> Raster | None:
        """A kept picture, None if it is not here (any more)."""
        with self._lock:
            if digest in self._open:
                self._open.move_to_end(digest)
                return self._open[digest]
            for path in self._paths(digest):
                if path.exists():
                    path.touch()
                    raster = Windowed(path) if path.suffix == ".tif" else Stored(path)
                    self._open[digest] = raster
                    while len(self._open) > OPEN:
                        self._open.popitem(last=False)  # closed when nobody reads it any more
                    return raster
        return None

    def keep(self, digest: str, data: bytes, max_pixels: int) -> Raster | None:
        """Keep a picture's file if it is large, and open it; None if it is not.

        Raises ImageError if it has more than `max_pixels` pixels, or is damaged.
        """
        by_windows = has_rasterio() and data.startswith((*TIFF, *JPEG_2000))
        height, width = header(data)
        if max(height, width) <= self.side and not (by_windows and not height):
            return None
        if height * width > max_pixels:
            raise ImageError(
                f"the picture has {width} x {height} pixels, more than the {max_pixels} of SKYLIGHT_MAX_PIXELS; "
                "raise that, or scale the picture down"
            )
        if not self._has(digest):
            path = self.folder / f"{digest}.{'tif' if by_windows else 'npy'}"
            if by_windows:
                files.write(path, data)
            else:
                unpack(data, path, max_pixels)
            self._make_room(path)
        raster = self.open(digest)
        return raster if raster is not None and max(raster.size) > self.side else None

    def _paths(self, digest: str) -> list[Path]:
        return [self.folder / f"{digest}.{kind}" for kind in ("tif", "npy")]

    def _make_room(self, newest: Path) -> None:
        with suppress(FileNotFoundError):  # another process was quicker
            found = sorted(self.folder.glob("[!.]*"), key=lambda path: path.stat().st_mtime, reverse=True)
            held = 0
            for path in found:
                held += path.stat().st_size
                if held > KEPT_BYTES and path != newest:
                    path.unlink()

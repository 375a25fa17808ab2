"""Pictures larger than a tile, kept as files so that windows of them can be read: `SKYLIGHT_HOME/pictures`.

A GeoTIFF or JPEG 2000 stays as it came, if rasterio is there to read it by windows; of any other picture the pixels are
written, three bytes each, or as many as its numbers have, so that it is unpacked once.
"""

import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from skylight.model.images.decoding import ImageError
from skylight.model.images.normalization import OWN, Normalisation
from skylight.model.images.raster import Raster, Stored, Windowed, by_windows, header, unpack
from skylight.model.storage import atomic_write

KEPT_BYTES = 10 * 2**30  # of files; beyond, those opened least recently give way, and are fetched again when needed
OPEN = 4  # files that are held open
# Of files. Before there were npy, of 8 bits by each picture's own range, and raw.npy, where what is transparent is
# black; they give way in time.
KINDS = ("tif", "pixels.npy")
PART_SECONDS = 3600.0  # a file that is still being written after so long was left by a process that was killed


class LargeImageStore:
    """The large pictures under a folder; thread-safe."""

    def __init__(self, folder: Path, side: int) -> None:
        """`side`: that of a tile in px; a picture is large if a side of it is longer."""
        self.folder = folder
        self.side = side
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, Normalisation], Raster] = OrderedDict()

    def _has(self, digest: str) -> bool:
        """Whether the picture with this sha256 is kept here."""
        return any(path.exists() for path in self._paths(digest))

    def open(self, digest: str, how: Normalisation = OWN) -> Raster | None:
        """A kept picture, None if it is not here (any more). Raises ImageError if it is not seen so."""
        with self._lock:
            if (digest, how) in self._open:
                self._open.move_to_end((digest, how))
                return self._open[digest, how]
            for path in self._paths(digest):
                if path.exists():
                    path.touch()
                    raster = Windowed(path, how) if path.suffix == ".tif" else Stored(path, how)
                    self._open[digest, how] = raster
                    while len(self._open) > OPEN:
                        self._open.popitem(last=False)  # closed when nobody reads it any more
                    return raster
        return None

    def add(self, digest: str, data: bytes, max_pixels: int, how: Normalisation = OWN) -> Raster | None:
        """Keep a picture's file if it is large, and open it; None if it is not.

        Raises ImageError if it has more than `max_pixels` pixels, or is damaged.
        """
        height, width = header(data)
        if max(height, width) <= self.side:
            return None
        if height * width > max_pixels:
            raise ImageError(
                f"the picture has {width} x {height} pixels, more than the {max_pixels} of SKYLIGHT_MAX_PIXELS; "
                "raise that, or scale the picture down"
            )
        if not self._has(digest):
            path = self.folder / f"{digest}.{KINDS[not by_windows(data)]}"
            if by_windows(data):
                atomic_write.write(path, data, durable=False)
            else:
                unpack(data, path, max_pixels)
            self._make_room(path)
        return self.open(digest, how)

    def _paths(self, digest: str) -> list[Path]:
        return [self.folder / f"{digest}.{kind}" for kind in KINDS]

    def _make_room(self, newest: Path) -> None:
        with suppress(FileNotFoundError):  # another process was quicker
            for path in self.folder.glob(".*"):
                if time.time() - path.stat().st_mtime > PART_SECONDS:
                    path.unlink()
            found = sorted(self.folder.glob("[!.]*"), key=lambda path: path.stat().st_mtime, reverse=True)
            held = 0
            for path in found:
                held += path.stat().st_size
                if held > KEPT_BYTES and path != newest:
                    path.unlink()

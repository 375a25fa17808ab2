"""From a task's image URL to its embedding, fetched and encoded at most once."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from backend.errors import MediaError
from backend.large import Large
from model import tiles
from model.embeddings import EmbeddingCache
from model.images import content_hash, decode
from model.rasters import Raster, Window
from model.sam import Embedding, Segmenter

REMEMBERED_URLS = 20_000
REMEMBERED_SECONDS = 600.0  # how long an address is trusted to show the same image without being fetched again


class Pictures:
    """Embeddings by URL. An address's content hash is remembered a while: a click on a known image fetches nothing."""

    def __init__(
        self,
        segmenter: Segmenter,
        cache: EmbeddingCache,
        fetch: Callable[[str], bytes],
        max_pixels: int,
        clock: Callable[[], float] = time.monotonic,
        large: Large | None = None,
    ) -> None:
        self.segmenter = segmenter
        self.cache = cache
        self.fetch = fetch
        self.max_pixels = max_pixels
        self.clock = clock
        self.large = large
        self._lock = threading.Lock()
        self._hashes: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def embedding(self, url: str) -> tuple[str, Embedding]:
        """The sha256 and the embedding of the image behind a URL. Raises MediaError or ImageError."""
        digest = self._known(url)
        if digest is not None:
            return digest, self.known(digest, url)
        data = self.fetch(url)
        digest = content_hash(data)
        self._remember(url, digest)
        return digest, self.cache.get(digest, lambda: self._embed(digest, data))

    def known(self, digest: str, url: str) -> Embedding:
        """The embedding of an image by its sha256, fetched from `url` only if it was never encoded by this SAM.

        Raises MediaError if another image is behind the URL now.
        """

        def compute() -> Embedding:
            if self.large is not None and (raster := self.large.open(digest)) is not None:
                return self._from_afar(raster)
            data = self.fetch(url)
            actual = content_hash(data)
            if actual != digest:
                self._remember(url, actual)
                raise MediaError("the image's address shows another image now than before; annotate that one")
            return self._embed(digest, data)

        return self.cache.get(digest, compute)

    def look(self, url: str) -> tuple[str, Embedding | Raster]:
        """The sha256 of the image behind a URL, and its embedding; if it is larger than a tile, the image by windows.

        Raises MediaError or ImageError.
        """
        if self.large is None:
            return self.embedding(url)
        digest = self._known(url)
        if digest is not None:
            if (raster := self.large.open(digest)) is not None:
                return digest, raster
            embedding = self.known(digest, url)  # joins in, if it is under way
            if max(embedding.size) <= self.large.side:
                return digest, embedding
            if (raster := self.large.open(digest)) is not None:
                return digest, raster
        data = self.fetch(url)
        digest = content_hash(data)
        self._remember(url, digest)
        raster = self.large.keep(digest, data, self.max_pixels)
        if raster is not None:
            return digest, raster
        return digest, self.cache.get(digest, lambda: self.segmenter.embed(decode(data, self.max_pixels)))

    @property
    def side(self) -> int:
        """The side of a tile, px."""
        return self.large.side if self.large else tiles.default_side(self.segmenter)

    def tile(self, digest: str, raster: Raster, window: Window) -> Embedding:
        """The embedding of a part of a large image, made at most once. Raises ImageError."""
        key = f"{digest}-{'-'.join(map(str, window))}"
        return self.cache.get(key, lambda: tiles.embed(self.segmenter, raster, window))

    def _embed(self, digest: str, data: bytes) -> Embedding:
        """The embedding of an image, of a large one as it looks from afar."""
        raster = self.large.keep(digest, data, self.max_pixels) if self.large else None
        if raster is None:
            return self.segmenter.embed(decode(data, self.max_pixels))
        return self._from_afar(raster)

    def _from_afar(self, raster: Raster) -> Embedding:
        return tiles.embed(self.segmenter, raster, (0, 0, *raster.size))

    def _known(self, url: str) -> str | None:
        with self._lock:
            digest, since = self._hashes.get(url, ("", -REMEMBERED_SECONDS))
            return digest if digest and self.clock() - since < REMEMBERED_SECONDS else None

    def _remember(self, url: str, digest: str) -> None:
        with self._lock:
            self._hashes[url] = (digest, self.clock())
            self._hashes.move_to_end(url)
            while len(self._hashes) > REMEMBERED_URLS:
                self._hashes.popitem(last=False)

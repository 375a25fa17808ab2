"""From a task's image URL to its embedding, fetched and encoded at most once."""

import copy
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from backend.errors import MediaError
from backend.large import Large
from model import tiles
from model.embeddings import EmbeddingCache
from model.images import content_hash
from model.normalisation import OWN, Normalisation
from model.rasters import Raster, Window, in_memory
from model.sam import Embedding, Segmenter

REMEMBERED_URLS = 20_000
REMEMBERED_SECONDS = 600.0  # how long an address is trusted to show the same image without being fetched again


class Pictures:
    """Embeddings by URL. An address's content hash is remembered a while: a click on a known image fetches nothing.

    An embedding is kept under the image's sha256, with the normalisation's mark where there is one. An image that it
    leaves as it is (of 8 bits, no bands chosen) then has its embedding under both; it is not encoded for that.
    """

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
        self.how = OWN
        self._lock = threading.Lock()
        self._hashes: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def seen(self, how: Normalisation) -> "Pictures":
        """The same with pictures seen by another normalisation; all that is kept is shared."""
        if how == self.how:
            return self
        made = copy.copy(self)
        made.how = how
        return made

    def key(self, digest: str) -> str:
        """What an image's embedding is kept under."""
        return digest + self.how.mark

    def embedding(self, url: str) -> tuple[str, Embedding]:
        """The sha256 and the embedding of the image behind a URL. Raises MediaError or ImageError."""
        digest = self._known(url)
        if digest is not None:
            return digest, self.known(digest, url)
        data = self.fetch(url)
        digest = content_hash(data)
        self._remember(url, digest)
        return digest, self._get(digest, lambda: self._embed(digest, data))

    def known(self, digest: str, url: str) -> Embedding:
        """The embedding of an image by its sha256, fetched from `url` only if it was never encoded by this SAM.

        Raises MediaError if another image is behind the URL now.
        """

        def compute() -> Embedding:
            if self.large is not None and (raster := self.large.open(digest, self.how)) is not None:
                return self._from_afar(digest, raster)
            data = self.fetch(url)
            actual = content_hash(data)
            if actual != digest:
                self._remember(url, actual)
                raise MediaError("the image's address shows another image now than before; annotate that one")
            return self._embed(digest, data)

        return self._get(digest, compute)

    def look(self, url: str) -> tuple[str, Embedding | Raster]:
        """The sha256 of the image behind a URL, and its embedding; if it is larger than a tile, the image by windows.

        Raises MediaError or ImageError.
        """
        if self.large is None:
            return self.embedding(url)
        digest = self._known(url)
        if digest is not None:
            if (raster := self.large.open(digest, self.how)) is not None:
                return digest, raster
            embedding = self.known(digest, url)  # joins in, if it is under way
            if max(embedding.size) <= self.large.side:
                return digest, embedding
            if (raster := self.large.open(digest, self.how)) is not None:
                return digest, raster
        data = self.fetch(url)
        digest = content_hash(data)
        self._remember(url, digest)
        raster = self.large.keep(digest, data, self.max_pixels, self.how)
        if raster is not None:
            return digest, raster
        return digest, self._get(digest, lambda: self._embed(digest, data))

    def tile_count(self, url: str) -> int:
        """How many tiles the image behind a URL is looked at in. Raises MediaError or ImageError."""
        found = self.look(url)[1]
        return 1 if isinstance(found, Embedding) else len(tiles.windows(found.size, self.side))

    @property
    def side(self) -> int:
        """The side of a tile, px."""
        return self.large.side if self.large else tiles.default_side(self.segmenter)

    def tile(self, digest: str, raster: Raster, window: Window) -> Embedding:
        """The embedding of a part of a large image, made at most once. Raises ImageError."""
        part = f"-{'-'.join(map(str, window))}"
        return self.cache.get(self.key(digest) + part, lambda: self._part(digest + part, raster, window))

    def _get(self, digest: str, compute: Callable[[], Embedding]) -> Embedding:
        return self.cache.get(self.key(digest), compute)

    def _embed(self, digest: str, data: bytes) -> Embedding:
        """The embedding of an image, of a large one as it looks from afar."""
        raster = self.large.keep(digest, data, self.max_pixels, self.how) if self.large else None
        if raster is not None:
            return self._from_afar(digest, raster)
        small = in_memory(data, self.max_pixels, self.how)
        pixels = small.read((0, 0, *small.size))
        return self._encoded(digest, small, lambda: replace(self.segmenter.embed(pixels), quantiles=small.quantiles))

    def _from_afar(self, digest: str, raster: Raster) -> Embedding:
        return self._part(digest, raster, (0, 0, *raster.size))

    def _part(self, key: str, raster: Raster, window: Window) -> Embedding:
        return self._encoded(key, raster, lambda: tiles.embed(self.segmenter, raster, window))

    def _encoded(self, key: str, raster: Raster, encode: Callable[[], Embedding]) -> Embedding:
        """What is to be kept by this normalisation; it may be there by another, of an image that is the same by all."""
        return self.cache.get(key, encode) if raster.plain and self.how != OWN else encode()

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

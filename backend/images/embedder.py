"""Embeddings of images by URL, each image fetched and encoded at most once."""

import copy
import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from cachetools import TTLCache

from skylight.backend.errors import MediaError
from skylight.backend.images.large_images import LargeImageStore
from skylight.model.embeddings.cache import EmbeddingCache
from skylight.model.images import tiling
from skylight.model.images.decoding import content_hash
from skylight.model.images.normalization import PER_IMAGE, Normalization
from skylight.model.images.opening import load_raster
from skylight.model.images.raster import Raster, Window
from skylight.model.mapping import tiled_inference
from skylight.model.sam.segmenter import Segmenter, is_embedding_of
from skylight.model.sam.types import Embedding, pack_known

MAX_REMEMBERED_URLS = 20_000
REMEMBERED_SECONDS = 600.0  # how long a URL is trusted to show the same image without being fetched again


@dataclass(frozen=True)
class _View:
    """A window of an image as a SAM sees it; `small`: all of an image that is not larger than a tile."""

    segmenter: Segmenter
    raster: Raster
    window: Window
    small: bool

    def encode(self) -> Embedding:
        """The window's embedding. Raises ImageError."""
        if not self.small:
            return tiled_inference.embed(self.segmenter, self.raster, self.window)
        known = pack_known(self.raster.known(self.window))
        embedding = self.segmenter.embed(self.raster.read(self.window))
        return replace(embedding, quantiles=self.raster.quantiles, known=known)

    def matches(self, embedding: Embedding) -> bool:
        """Whether an embedding is of the pixels that are read now. Raises ImageError."""
        if self.small:
            pixels, known = self.raster.read(self.window), pack_known(self.raster.known(self.window))
        else:
            pixels, known = tiled_inference.pixels(self.segmenter, self.raster, self.window), None
        same = embedding.size == self.window[2:] and (known is None) == (embedding.known is None)
        return same and is_embedding_of(embedding, pixels)


class ImageEmbedder:
    """Embeddings of images by URL, thread-safe.

    A URL's content hash is remembered for a while, so that a click on a known image fetches nothing. An embedding is
    cached under the image's sha256, followed by the normalization's mark where there is one. An image that the
    normalization leaves as it is (of 8 bits, no bands chosen) is encoded once and cached under both keys.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        cache: EmbeddingCache,
        fetch: Callable[[str], bytes],
        max_pixels: int,
        clock: Callable[[], float] = time.monotonic,
        large: LargeImageStore | None = None,
    ) -> None:
        self.segmenter = segmenter
        self.cache = cache
        self.fetch = fetch
        self.max_pixels = max_pixels
        self.large = large
        self.normalization = PER_IMAGE
        self._lock = threading.Lock()
        self._digests: TTLCache[str, str] = TTLCache(MAX_REMEMBERED_URLS, REMEMBERED_SECONDS, clock)

    def with_normalization(self, normalization: Normalization) -> "ImageEmbedder":
        """An embedder of images read by another normalization; caches are shared with this one."""
        if normalization == self.normalization:
            return self
        other = copy.copy(self)
        other.normalization = normalization
        return other

    def cache_key(self, digest: str) -> str:
        """The cache key of an image's embedding, by the image's sha256."""
        return digest + self.normalization.key_suffix

    def embedding(self, url: str) -> tuple[str, Embedding]:
        """The sha256 and the embedding of the image behind a URL. Raises MediaError or ImageError."""
        digest = self._remembered(url)
        if digest is not None:
            return digest, self.embedding_of(digest, url)
        data = self.fetch(url)
        digest = content_hash(data)
        self._remember(url, digest)
        return digest, self._get(digest, lambda: self._view(digest, data))

    def embedding_of(self, digest: str, url: str) -> Embedding:
        """The embedding of the image with this sha256, fetched from `url` only if this SAM has not encoded it yet.

        Raises MediaError if another image is behind the URL now.
        """

        def view() -> _View:
            if self.large is not None and (raster := self.large.open(digest, self.normalization)) is not None:
                return self._whole_view(raster)
            data = self.fetch(url)
            actual = content_hash(data)
            if actual != digest:
                self._remember(url, actual)
                raise MediaError("the image's address shows another image now than before; annotate that one")
            return self._view(digest, data)

        return self._get(digest, view)

    def open(self, url: str) -> tuple[str, Embedding | Raster]:
        """The sha256 of the image behind a URL, with its embedding or, if it is larger than a tile, its raster.

        Raises MediaError or ImageError.
        """
        if self.large is None:
            return self.embedding(url)
        digest = self._remembered(url)
        if digest is not None:
            if (raster := self.large.open(digest, self.normalization)) is not None:
                return digest, raster
            embedding = self.embedding_of(digest, url)  # waits for it, if it is being computed
            if max(embedding.size) <= self.large.side:
                return digest, embedding
            if (raster := self.large.open(digest, self.normalization)) is not None:
                return digest, raster
        data = self.fetch(url)
        digest = content_hash(data)
        self._remember(url, digest)
        raster = self.large.add(digest, data, self.max_pixels, self.normalization)
        if raster is not None:
            return digest, raster
        return digest, self._get(digest, lambda: self._view(digest, data))

    def tile_count(self, url: str) -> int:
        """The number of tiles that the image behind a URL is split into. Raises MediaError or ImageError."""
        image = self.open(url)[1]
        return 1 if isinstance(image, Embedding) else len(tiling.tile_windows(image.size, self.side))

    @property
    def side(self) -> int:
        """The side of a tile, px."""
        return self.large.side if self.large else tiled_inference.default_side(self.segmenter)

    def tile_embedding(self, digest: str, raster: Raster, window: Window) -> Embedding:
        """The embedding of a window of a large image, computed at most once. Raises ImageError."""
        part = f"-{'-'.join(map(str, window))}"
        return self._get(digest, lambda: _View(self.segmenter, raster, window, small=False), part)

    def _get(self, digest: str, view: Callable[[], _View], part: str = "") -> Embedding:
        """The cached embedding of an image, or of the part of it that the key ends with.

        `view` is called only where the embedding has to be computed or checked. Where the normalization leaves the
        image as it is, the embedding without normalization is taken.
        """
        view = functools.cache(view)

        def compute() -> Embedding:
            if view().raster.fixed_levels and self.normalization != PER_IMAGE:
                return self.cache.get(digest + part, view().encode, check)
            return view().encode()

        def check(embedding: Embedding) -> bool | None:
            try:
                return view().matches(embedding)
            except MediaError:  # the image cannot be fetched now
                return None

        return self.cache.get(self.cache_key(digest) + part, compute, check)

    def _view(self, digest: str, data: bytes) -> _View:
        """The whole of an image, a large one scaled down. Raises ImageError."""
        raster = self.large.add(digest, data, self.max_pixels, self.normalization) if self.large else None
        if raster is not None:
            return self._whole_view(raster)
        small = load_raster(data, self.max_pixels, self.normalization)
        return _View(self.segmenter, small, (0, 0, *small.size), small=True)

    def _whole_view(self, raster: Raster) -> _View:
        return _View(self.segmenter, raster, (0, 0, *raster.size), small=False)

    def _remembered(self, url: str) -> str | None:
        with self._lock:
            return self._digests.get(url)

    def _remember(self, url: str, digest: str) -> None:
        with self._lock:
            self._digests[url] = digest

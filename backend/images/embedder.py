"""From a task's image URL to its embedding, fetched and encoded at most once."""

import copy
import functools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from skylight.backend.errors import MediaError
from skylight.backend.images.large_images import LargeImageStore
from skylight.model.embeddings.cache import EmbeddingCache
from skylight.model.images.decoding import content_hash
from skylight.model.images.normalization import OWN, Normalisation
from skylight.model.images.raster import Raster, Window, in_memory
from skylight.model.mapping import tiled_inference
from skylight.model.sam.segmenter import Segmenter, is_of
from skylight.model.sam.types import Embedding, pack_known

REMEMBERED_URLS = 20_000
REMEMBERED_SECONDS = 600.0  # how long an address is trusted to show the same image without being fetched again


@dataclass(frozen=True)
class _View:
    """A part of a picture as a SAM sees it; `small`: all of one that is not larger than a tile."""

    segmenter: Segmenter
    raster: Raster
    window: Window
    small: bool

    def encode(self) -> Embedding:
        """Its embedding. Raises ImageError."""
        if not self.small:
            return tiled_inference.embed(self.segmenter, self.raster, self.window)
        known = pack_known(self.raster.known(self.window))
        made = self.segmenter.embed(self.raster.read(self.window))
        return replace(made, quantiles=self.raster.quantiles, known=known)

    def made(self, embedding: Embedding) -> bool:
        """Whether an embedding is of the pixels that are read today. Raises ImageError."""
        if self.small:
            pixels, known = self.raster.read(self.window), pack_known(self.raster.known(self.window))
        else:
            pixels, known = tiled_inference.pixels(self.segmenter, self.raster, self.window), None
        same = embedding.size == self.window[2:] and (known is None) == (embedding.known is None)
        return same and is_of(embedding, pixels)


class ImageEmbedder:
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
        large: LargeImageStore | None = None,
    ) -> None:
        self.segmenter = segmenter
        self.cache = cache
        self.fetch = fetch
        self.max_pixels = max_pixels
        self.clock = clock
        self.large = large
        self.normalization = OWN
        self._lock = threading.Lock()
        self._hashes: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def with_normalization(self, normalization: Normalisation) -> "ImageEmbedder":
        """The same with pictures seen by another normalisation; all that is kept is shared."""
        if normalization == self.normalization:
            return self
        made = copy.copy(self)
        made.normalization = normalization
        return made

    def cache_key(self, digest: str) -> str:
        """What an image's embedding is kept under."""
        return digest + self.normalization.mark

    def embedding(self, url: str) -> tuple[str, Embedding]:
        """The sha256 and the embedding of the image behind a URL. Raises MediaError or ImageError."""
        digest = self._known(url)
        if digest is not None:
            return digest, self.embedding_of(digest, url)
        data = self.fetch(url)
        digest = content_hash(data)
        self._remember(url, digest)
        return digest, self._get(digest, lambda: self._view(digest, data))

    def embedding_of(self, digest: str, url: str) -> Embedding:
        """The embedding of an image by its sha256, fetched from `url` only if it was never encoded by this SAM.

        Raises MediaError if another image is behind the URL now.
        """

        def view() -> _View:
            if self.large is not None and (raster := self.large.open(digest, self.normalization)) is not None:
                return self._from_afar(raster)
            data = self.fetch(url)
            actual = content_hash(data)
            if actual != digest:
                self._remember(url, actual)
                raise MediaError("the image's address shows another image now than before; annotate that one")
            return self._view(digest, data)

        return self._get(digest, view)

    def open(self, url: str) -> tuple[str, Embedding | Raster]:
        """The sha256 of the image behind a URL, and its embedding; if it is larger than a tile, the image by windows.

        Raises MediaError or ImageError.
        """
        if self.large is None:
            return self.embedding(url)
        digest = self._known(url)
        if digest is not None:
            if (raster := self.large.open(digest, self.normalization)) is not None:
                return digest, raster
            embedding = self.embedding_of(digest, url)  # joins in, if it is under way
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
        """How many tiles the image behind a URL is looked at in. Raises MediaError or ImageError."""
        found = self.open(url)[1]
        return 1 if isinstance(found, Embedding) else len(tiled_inference.windows(found.size, self.side))

    @property
    def side(self) -> int:
        """The side of a tile, px."""
        return self.large.side if self.large else tiled_inference.default_side(self.segmenter)

    def tile_embedding(self, digest: str, raster: Raster, window: Window) -> Embedding:
        """The embedding of a part of a large image, made at most once. Raises ImageError."""
        part = f"-{'-'.join(map(str, window))}"
        return self._get(digest, lambda: _View(self.segmenter, raster, window, small=False), part)

    def _get(self, digest: str, view: Callable[[], _View], part: str = "") -> Embedding:
        """The embedding of an image, or a part of it; `view` is asked for only where it has to be made, or checked.

        What is to be kept by this normalisation may be there by another, of an image that is the same by all.
        """
        view = functools.cache(view)

        def compute() -> Embedding:
            if view().raster.plain and self.normalization != OWN:
                return self.cache.get(digest + part, view().encode, check)
            return view().encode()

        def check(embedding: Embedding) -> bool | None:
            try:
                return view().made(embedding)
            except MediaError:  # the storage is away
                return None

        return self.cache.get(self.cache_key(digest) + part, compute, check)

    def _view(self, digest: str, data: bytes) -> _View:
        """An image as it is looked at whole, a large one from afar. Raises ImageError."""
        raster = self.large.add(digest, data, self.max_pixels, self.normalization) if self.large else None
        if raster is not None:
            return self._from_afar(raster)
        small = in_memory(data, self.max_pixels, self.normalization)
        return _View(self.segmenter, small, (0, 0, *small.size), small=True)

    def _from_afar(self, raster: Raster) -> _View:
        return _View(self.segmenter, raster, (0, 0, *raster.size), small=False)

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

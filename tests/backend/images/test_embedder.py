"""From a URL to an embedding: fetched and encoded once, and never another image's."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skylight.backend.errors import MediaError
from skylight.backend.images.embedder import REMEMBERED_SECONDS, ImageEmbedder
from skylight.model.embeddings.cache import EmbeddingCache
from skylight.model.embeddings.file_format import has_reader
from skylight.model.images.decoding import ImageError, content_hash
from skylight.model.storage.file_store import FolderStore
from tests.support.picture_kinds import raster, saved, turned
from tests.support.planted_embeddings import STEP, Planted, png, write_as_before

A, B = (png(np.full((8, 8, 3), level, np.uint8)) for level in (32, 96))


class Web:
    """Addresses and what is behind them, a clock, and a SAM that counts."""

    def __init__(self, folder: Path) -> None:
        self.files = {"/a.png": A, "/b.png": B}
        self.fetched: list[str] = []
        self.encoded = 0
        self.now = 0.0
        self.cache = EmbeddingCache(FolderStore(folder), "planted-1", 0)
        self.embedder = ImageEmbedder(self, self.cache, self.fetch, 10**6, lambda: self.now)  # type: ignore[arg-type]

    def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        if url not in self.files:
            raise MediaError(f"{url} answered 404")
        return self.files[url]

    def embed(self, image):
        self.encoded += 1
        time.sleep(0.05)
        return Planted().embed(image)

    def level(self, url: str) -> float:
        return float(self.embedder.embedding(url)[1].features[0, 0, 0]) * STEP


@pytest.fixture
def web(tmp_path: Path) -> Web:
    return Web(tmp_path)


def test_a_known_address_is_neither_fetched_nor_encoded_again(web):
    for _ in range(3):
        digest, embedding = web.embedder.embedding("/a.png")
        assert (digest, embedding.size, web.level("/a.png")) == (content_hash(A), (8, 8), 32)
    assert (web.fetched, web.encoded) == (["/a.png"], 1)


def test_the_same_content_at_another_address_is_not_encoded_again(web):
    web.files["/copy.png"] = A
    assert web.level("/a.png") == web.level("/copy.png")
    assert (len(web.fetched), web.encoded) == (2, 1)


def test_an_address_is_looked_at_again_after_a_while(web):
    assert web.level("/a.png") == 32
    web.files["/a.png"] = B
    web.now = REMEMBERED_SECONDS - 1
    assert web.level("/a.png") == 32
    web.now = REMEMBERED_SECONDS
    assert web.level("/a.png") == 96


def test_an_image_that_changed_is_never_kept_under_the_other_ones_hash(web):
    digest, _ = web.embedder.embedding("/a.png")
    web.files["/a.png"] = B
    web.level("/b.png")  # takes the memory's only place
    web.cache.path(digest).unlink()
    with pytest.raises(MediaError, match="another image"):
        web.embedder.embedding("/a.png")
    assert web.level("/a.png") == 96  # from then on it is the new one
    assert not web.cache.path(digest).exists()
    with pytest.raises(MediaError, match="another image"):
        web.embedder.embedding_of(digest, "/a.png")


def test_many_at_once_encode_an_image_once(web):
    found = []
    threads = [threading.Thread(target=lambda: found.append(web.level("/a.png"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, web.encoded) == ([32.0] * 6, 1)


def test_a_failure_is_not_remembered(web):
    with pytest.raises(MediaError):
        web.embedder.embedding("/c.png")
    web.files["/c.png"] = b"half a"
    with pytest.raises(ImageError):
        web.embedder.embedding("/c.png")
    web.now = REMEMBERED_SECONDS
    web.files["/c.png"] = B
    assert web.level("/c.png") == 96


def turned_webp() -> tuple[bytes, np.ndarray]:
    """A WebP with EXIF that says upside down, which no browser heeds, and its pixels."""
    image = np.repeat(np.arange(8, dtype=np.uint8)[:, None] * 24, 8, 1)[..., None].repeat(3, 2)
    return saved(Image.fromarray(image), "WEBP", lossless=True, exif=b"Exif\0\0" + turned(3)), image


def again(web) -> Web:
    """Another process on the same folder."""
    other = Web(web.cache.files.folder)
    other.files = web.files
    return other


def test_an_embedding_of_pixels_that_are_read_otherwise_now_is_made_anew(web):
    data, image = turned_webp()
    web.files["/a.webp"] = data
    digest = content_hash(data)
    write_as_before(web.cache.path(digest), Planted().embed(image[::-1, ::-1]))
    write_as_before(web.cache.path(content_hash(A)), Planted().embed(np.full((8, 8, 3), 32, np.uint8)))
    assert web.embedder.embedding("/a.webp")[1].thumbnail[0, 0, 0] == 0 and web.encoded == 1
    assert web.level("/a.png") == 32 and web.encoded == 1  # the other is right, and stays
    assert has_reader(web.cache.path(content_hash(A)).read_bytes())


def test_a_sample_of_before_is_learned_from_with_the_pixels_of_now(web):
    data, image = turned_webp()
    web.files["/a.webp"] = data
    digest = content_hash(data)
    write_as_before(web.cache.path(digest), Planted().embed(image[::-1, ::-1]))
    assert web.embedder.embedding_of(digest, "/a.webp").thumbnail[0, 0, 0] == 0
    assert (web.fetched, web.encoded) == (["/a.webp"], 1)
    other = again(web)
    assert other.embedder.embedding_of(digest, "/a.webp").thumbnail[0, 0, 0] == 0
    assert (other.fetched, other.encoded) == ([], 0)  # looked at once


def test_while_the_storage_is_away_an_embedding_of_before_is_used_and_looked_at_again_later(web):
    data, image = turned_webp()
    digest = content_hash(data)
    write_as_before(web.cache.path(digest), Planted().embed(image[::-1, ::-1]))
    assert web.embedder.embedding_of(digest, "/a.webp").thumbnail[0, 0, 0] == 168
    web.files["/a.webp"] = data
    assert web.embedder.embedding_of(digest, "/a.webp").thumbnail[0, 0, 0] == 0


def test_where_a_picture_is_known_is_kept_with_its_embedding(web):
    there = np.ones((1, 8, 8), np.uint8)
    there[:, 2:5, :3] = 255
    web.files["/a.tif"] = raster(there, nodata=255)
    expected = there[0] == 1
    for each in (web, again(web)):
        embedding = each.embedder.embedding("/a.tif")[1]
        assert (embedding.known_mask() == expected).all()
    assert web.embedder.embedding("/a.png")[1].where_known() is None

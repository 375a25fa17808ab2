"""From a URL to an embedding: fetched and encoded once, and never another image's."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from backend.errors import MediaError
from backend.pictures import REMEMBERED_SECONDS, Pictures
from model.embeddings import EmbeddingCache
from model.images import ImageError, content_hash

from .planted import STEP, Planted, png

A, B = (png(np.full((8, 8, 3), level, np.uint8)) for level in (32, 96))


class Web:
    """Addresses and what is behind them, a clock, and a SAM that counts."""

    def __init__(self, folder: Path) -> None:
        self.files = {"/a.png": A, "/b.png": B}
        self.fetched: list[str] = []
        self.encoded = 0
        self.now = 0.0
        self.cache = EmbeddingCache(folder, "planted-1", 0)
        self.pictures = Pictures(self, self.cache, self.fetch, 10**6, lambda: self.now)  # type: ignore[arg-type]

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
        return float(self.pictures.embedding(url)[1].features[0, 0, 0]) * STEP


@pytest.fixture
def web(tmp_path: Path) -> Web:
    return Web(tmp_path)


def test_a_known_address_is_neither_fetched_nor_encoded_again(web):
    for _ in range(3):
        digest, embedding = web.pictures.embedding("/a.png")
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
    digest, _ = web.pictures.embedding("/a.png")
    web.files["/a.png"] = B
    web.level("/b.png")  # takes the memory's only place
    web.cache.path(digest).unlink()
    with pytest.raises(MediaError, match="another image"):
        web.pictures.embedding("/a.png")
    assert web.level("/a.png") == 96  # from then on it is the new one
    assert not web.cache.path(digest).exists()
    with pytest.raises(MediaError, match="another image"):
        web.pictures.known(digest, "/a.png")


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
        web.pictures.embedding("/c.png")
    web.files["/c.png"] = b"half a"
    with pytest.raises(ImageError):
        web.pictures.embedding("/c.png")
    web.now = REMEMBERED_SECONDS
    web.files["/c.png"] = B
    assert web.level("/c.png") == 96

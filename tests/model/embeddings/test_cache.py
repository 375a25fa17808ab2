"""The cache of embeddings: one computation per image, in memory within bounds, on disk for good."""

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save as safetensors

from skylight.model.embeddings.cache import EmbeddingCache
from skylight.model.embeddings.file_format import nbytes, pack, parse
from skylight.model.embeddings.quantization import dequantize, quantize
from skylight.model.sam.types import Embedding
from skylight.model.storage.file_store import FolderStore

MEGABYTE = 1 << 20


def embedding(seed: int = 0, size: tuple[int, int] = (30, 40)) -> Embedding:
    """One whose numbers are kept exactly, as only the cache's own are."""
    rng = np.random.default_rng(seed)
    features = dequantize(*quantize(rng.normal(size=(256, 4, 4)).astype(np.float16)))
    return Embedding(features, size, rng.integers(0, 256, (32, 32, 3)).astype(np.uint8))


def _thumbnail(side: int) -> NDArray[np.uint8]:
    return np.zeros((8 * side, 8 * side, 3), np.uint8)


def key(number: int) -> str:
    return f"{number:064x}"


def never() -> Embedding:
    raise AssertionError("computed although it was known")


def assert_same(one: Embedding, other: Embedding) -> None:
    np.testing.assert_array_equal(one.features, other.features)
    np.testing.assert_array_equal(one.thumbnail, other.thumbnail)
    assert (one.features.dtype, one.thumbnail.dtype, one.size) == (other.features.dtype, np.uint8, other.size)


def waits_for_another(thread: threading.Thread) -> bool:
    """Whether a thread stands in `Future.result`, that is, waits for what another one computes."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame and frame.f_code is not Future.result.__code__:
        frame = frame.f_back
    return frame is not None


def ask_together(cache: EmbeddingCache, compute: Callable[[], Embedding], others: int) -> list[Embedding | Exception]:
    """What `get` gives to several threads that all ask before the first one's `compute` ends."""
    answers: list[Embedding | Exception] = []

    def compute_once_all_wait() -> Embedding:
        end = time.monotonic() + 10
        while sum(map(waits_for_another, threads)) < others and time.monotonic() < end:
            time.sleep(0.005)
        return compute()

    def ask() -> None:
        try:
            answers.append(cache.get(key(1), compute_once_all_wait))
        except RuntimeError as error:
            answers.append(error)

    threads = [threading.Thread(target=ask) for _ in range(others + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_threads_that_want_one_image_compute_it_once(tmp_path: Path) -> None:
    calls = []

    def compute() -> Embedding:
        calls.append(threading.get_ident())
        return embedding()

    answers = ask_together(EmbeddingCache(FolderStore(tmp_path), "tiny-1", MEGABYTE), compute, others=2)
    assert len(calls) == 1 and len(answers) == 3
    assert all(answer is answers[0] and isinstance(answer, Embedding) for answer in answers)


def test_an_error_reaches_all_who_wait_and_is_not_remembered(tmp_path: Path) -> None:
    calls = []

    def fail() -> Embedding:
        calls.append(threading.get_ident())
        raise RuntimeError("the picture is broken")

    cache = EmbeddingCache(FolderStore(tmp_path), "tiny-1", MEGABYTE)
    answers = ask_together(cache, fail, others=2)
    assert len(calls) == 1
    assert [str(answer) for answer in answers] == ["the picture is broken"] * 3
    assert_same(cache.get(key(1), embedding), embedding())


def test_threads_that_want_different_images_do_not_wait_for_each_other(tmp_path: Path) -> None:
    cache = EmbeddingCache(FolderStore(tmp_path), "tiny-1", MEGABYTE)
    together = threading.Barrier(2, timeout=10)

    def compute(number: int) -> Embedding:
        together.wait()  # breaks, with an error, unless both compute at the same time
        return embedding(number)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda number: cache.get(key(number), lambda: compute(number)), range(2)))
    for number in range(2):
        assert_same(found[number], embedding(number))


def test_memory_keeps_the_latest_used_within_its_bound(tmp_path: Path) -> None:
    cache = EmbeddingCache(FolderStore(tmp_path), "tiny-1", 3 * nbytes(embedding()))
    held = [cache.get(key(i), lambda i=i: embedding(i)) for i in range(3)]
    assert cache.get(key(0), never) is held[0]  # used, so that 1 is now the oldest
    held.append(cache.get(key(3), lambda: embedding(3)))
    for number in (3, 0, 2):
        assert cache.get(key(number), never) is held[number]
    reread = cache.get(key(1), never)
    assert reread is not held[1]
    assert_same(reread, held[1])
    assert cache.get(key(3), never) is not held[3]  # the oldest of the three above gave way


def test_the_memory_bound_holds_however_often_images_come_and_go(tmp_path: Path) -> None:
    cache = EmbeddingCache(FolderStore(tmp_path), "tiny-1", 3 * nbytes(embedding()) + 100)
    for _ in range(3):
        latest = {i: cache.get(key(i), lambda i=i: embedding(i)) for i in range(10)}
    assert [i for i in (9, 8, 7) if cache.get(key(i), never) is latest[i]] == [9, 8, 7]
    assert not any(cache.get(key(i), never) is latest[i] for i in range(7))


def test_memory_s_count_is_that_of_what_it_holds(tmp_path: Path) -> None:
    cache = EmbeddingCache(FolderStore(tmp_path), "tiny-1", 5 * nbytes(embedding()))
    rng = np.random.default_rng(0)
    for number in rng.integers(0, 40, 300):
        size = 1 + int(number) % 7  # embeddings of many sizes, many of them more than once
        cache.get(
            key(int(number)), lambda size=size: Embedding(embedding().features[:, :size], (9, 9), _thumbnail(size))
        )
        assert cache._memory_used == sum(map(nbytes, cache._memory.values())) <= cache.memory_bytes
    for _ in range(2):
        cache._remember(key(99), embedding())
    assert cache._memory_used == sum(map(nbytes, cache._memory.values()))


def test_an_embedding_larger_than_the_bound_is_still_given(tmp_path: Path) -> None:
    cache = EmbeddingCache(FolderStore(tmp_path), "tiny-1", memory_bytes=1)
    for number in range(3):
        assert_same(cache.get(key(number), lambda number=number: embedding(number)), embedding(number))


def test_another_instance_reads_it_from_disk(tmp_path: Path) -> None:
    EmbeddingCache(FolderStore(tmp_path), "tiny-1", MEGABYTE).get(key(5), lambda: embedding(5, (123, 45)))
    found = EmbeddingCache(FolderStore(tmp_path), "tiny-1", MEGABYTE).get(key(5), never)
    assert_same(found, embedding(5, (123, 45)))
    assert found.size == (123, 45)


def test_what_was_just_computed_is_the_same_as_what_is_read_later(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    features, context = (rng.normal(size=(n, 4, 4)).astype(np.float16) for n in (256, 8))
    detail, picture = rng.normal(size=(3, 8, 8)).astype(np.float16), rng.integers(0, 256, 99).astype(np.uint8)
    made = Embedding(features, (30, 40), embedding().thumbnail, context, detail, picture, np.arange(101.0))
    caches = (EmbeddingCache(FolderStore(tmp_path), "tiny-1", MEGABYTE) for _ in range(2))
    first, later = (cache.get(key(1), lambda: made) for cache in caches)
    assert first.size == later.size == (30, 40)
    for name in ("features", "thumbnail", "context", "detail", "picture", "quantiles"):
        now, then, exact = (getattr(each, name) for each in (first, later, made))
        assert now.dtype == then.dtype == exact.dtype
        np.testing.assert_array_equal(now, then)
        np.testing.assert_allclose(now.astype(float), exact.astype(float), atol=0.02)


def test_a_file_has_one_byte_a_number() -> None:
    scales, head = 256 * 2 * 4, 1000
    assert 0 < len(pack(embedding())[0]) - 256 * 4 * 4 - 32 * 32 * 3 - scales < head


def test_the_folder_s_bound_holds_over_all_encoders_and_what_was_evicted_is_computed_again(tmp_path: Path) -> None:
    size = len(pack(embedding())[0])
    caches = [EmbeddingCache(FolderStore(tmp_path / "all"), name, 0, 4 * size) for name in ("tiny-1", "tiny-2")]
    for number in range(6):
        cache = caches[number % 2]
        cache.get(key(number), lambda number=number: embedding(number))
        os.utime(cache.path(key(number)), (1000 + number,) * 2)  # long ago, or it would be spared
    there = [caches[number % 2].path(key(number)).exists() for number in range(6)]
    assert there == [False, False, True, True, True, True]  # the fifth was one too many, and made room for two
    assert_same(caches[0].get(key(0), lambda: embedding(0)), embedding(0))


def test_being_read_counts_as_use(tmp_path: Path) -> None:
    cache = EmbeddingCache(FolderStore(tmp_path), "tiny-1", 0)
    for number in range(2):
        cache.get(key(number), lambda number=number: embedding(number))
        os.utime(cache.path(key(number)), (1000, 1000))
    cache.get(key(0), never)
    used = [cache.path(key(number)).stat().st_mtime for number in range(2)]
    assert time.time() - used[0] < 60 and used[1] == 1000


def test_a_full_disk_costs_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def full(name: str, data: bytes, durable: bool) -> None:
        raise OSError(28, "No space left on device")

    cache = EmbeddingCache(FolderStore(tmp_path), "tiny-1", MEGABYTE)
    monkeypatch.setattr(cache.files, "write", full)
    assert_same(cache.get(key(1), embedding), embedding())
    assert cache.get(key(1), never) is not None
    assert "No space left" in caplog.text


def test_another_encoder_s_embeddings_are_its_own(tmp_path: Path) -> None:
    EmbeddingCache(FolderStore(tmp_path), "tiny-1", MEGABYTE).get(key(5), lambda: embedding(5))
    other = EmbeddingCache(FolderStore(tmp_path), "tiny-2", MEGABYTE).get(key(5), lambda: embedding(6))
    assert_same(other, embedding(6))


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "no metadata", "another file", "of before"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage: str) -> None:
    cache = EmbeddingCache(FolderStore(tmp_path), "tiny-1", MEGABYTE)
    path = cache.path(key(7))
    whole = pack(embedding(7))[0]
    path.parent.mkdir(parents=True)
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "noise": np.random.default_rng(0).bytes(len(whole)),
            "no metadata": safetensors({"features": embedding().features, "thumbnail": embedding().thumbnail}),
            "of before": safetensors(  # two bytes a number
                {"features": embedding().features, "thumbnail": embedding().thumbnail},
                {"height": "30", "width": "40", "layout": "3"},
            ),
            "another file": safetensors({"weights": np.zeros(3)}, {"height": "30", "width": "40"}),
        }[damage]
    )
    assert_same(cache.get(key(7), lambda: embedding(8)), embedding(8))
    assert_same(parse(path.read_bytes()), embedding(8))


def test_the_file_lies_under_its_encoder_and_the_first_digits_of_its_key(tmp_path: Path) -> None:
    cache = EmbeddingCache(FolderStore(tmp_path), "tiny-1", MEGABYTE)
    cache.get("ab" + "0" * 62, embedding)
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [Path("embeddings", "tiny-1", "ab", "ab" + "0" * 62 + ".safetensors")]

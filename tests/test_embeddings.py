"""The cache of embeddings: one computation per image, in memory within bounds, on disk for good."""

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as safetensors

from model.embeddings import EmbeddingCache, nbytes, read, write
from model.sam import Embedding

MEGABYTE = 1 << 20


def embedding(seed: int = 0, size: tuple[int, int] = (30, 40)) -> Embedding:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(256, 4, 4)).astype(np.float16)
    return Embedding(features, size, rng.integers(0, 256, (32, 32, 3)).astype(np.uint8))


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

    answers = ask_together(EmbeddingCache(tmp_path, "tiny-1", MEGABYTE), compute, others=2)
    assert len(calls) == 1 and len(answers) == 3
    assert all(answer is answers[0] and isinstance(answer, Embedding) for answer in answers)


def test_an_error_reaches_all_who_wait_and_is_not_remembered(tmp_path: Path) -> None:
    calls = []

    def fail() -> Embedding:
        calls.append(threading.get_ident())
        raise RuntimeError("the picture is broken")

    cache = EmbeddingCache(tmp_path, "tiny-1", MEGABYTE)
    answers = ask_together(cache, fail, others=2)
    assert len(calls) == 1
    assert [str(answer) for answer in answers] == ["the picture is broken"] * 3
    assert_same(cache.get(key(1), embedding), embedding())


def test_threads_that_want_different_images_do_not_wait_for_each_other(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, "tiny-1", MEGABYTE)
    together = threading.Barrier(2, timeout=10)

    def compute(number: int) -> Embedding:
        together.wait()  # breaks, with an error, unless both compute at the same time
        return embedding(number)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda number: cache.get(key(number), lambda: compute(number)), range(2)))
    for number in range(2):
        assert_same(found[number], embedding(number))


def test_memory_keeps_the_latest_used_within_its_bound(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, "tiny-1", 3 * nbytes(embedding()))
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
    cache = EmbeddingCache(tmp_path, "tiny-1", 3 * nbytes(embedding()) + 100)
    for _ in range(3):
        latest = {i: cache.get(key(i), lambda i=i: embedding(i)) for i in range(10)}
    assert [i for i in (9, 8, 7) if cache.get(key(i), never) is latest[i]] == [9, 8, 7]
    assert not any(cache.get(key(i), never) is latest[i] for i in range(7))


def test_an_embedding_larger_than_the_bound_is_still_given(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, "tiny-1", memory_bytes=1)
    for number in range(3):
        assert_same(cache.get(key(number), lambda number=number: embedding(number)), embedding(number))


def test_another_instance_reads_it_from_disk(tmp_path: Path) -> None:
    EmbeddingCache(tmp_path, "tiny-1", MEGABYTE).get(key(5), lambda: embedding(5, (123, 45)))
    found = EmbeddingCache(tmp_path, "tiny-1", MEGABYTE).get(key(5), never)
    assert_same(found, embedding(5, (123, 45)))
    assert found.size == (123, 45)


def test_another_encoder_s_embeddings_are_its_own(tmp_path: Path) -> None:
    EmbeddingCache(tmp_path, "tiny-1", MEGABYTE).get(key(5), lambda: embedding(5))
    other = EmbeddingCache(tmp_path, "tiny-2", MEGABYTE).get(key(5), lambda: embedding(6))
    assert_same(other, embedding(6))


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "no metadata", "another file", "of before"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage: str) -> None:
    cache = EmbeddingCache(tmp_path, "tiny-1", MEGABYTE)
    path = cache.path(key(7))
    write(path, embedding(7))
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "noise": np.random.default_rng(0).bytes(len(whole)),
            "no metadata": safetensors({"features": embedding().features, "thumbnail": embedding().thumbnail}),
            "of before": safetensors(  # without detail
                {"features": embedding().features, "thumbnail": embedding().thumbnail},
                {"height": "30", "width": "40", "layout": "2"},
            ),
            "another file": safetensors({"weights": np.zeros(3)}, {"height": "30", "width": "40"}),
        }[damage]
    )
    assert_same(cache.get(key(7), lambda: embedding(8)), embedding(8))
    assert_same(read(path), embedding(8))


def test_the_file_lies_under_its_encoder_and_the_first_digits_of_its_key(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, "tiny-1", MEGABYTE)
    cache.get("ab" + "0" * 62, embedding)
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [Path("tiny-1", "ab", "ab" + "0" * 62 + ".safetensors")]


def test_reading_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing.safetensors")

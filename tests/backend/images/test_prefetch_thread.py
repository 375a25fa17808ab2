"""The images of tasks that are being opened."""

import threading

import pytest

from skylight.backend.errors import MediaError
from skylight.backend.images.prefetch_thread import MAX_WAITING, PrefetchThread
from tests.support.label_studio_double import wait_until

P = "1.1795340435"


class Encoder:
    """Takes each image when it is let."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.let = threading.Semaphore(0)

    def __call__(self, project: str, url: str) -> None:
        assert project == P
        self.taken.append(url)
        self.let.acquire()
        if url == "/gone":
            raise MediaError("it is gone")
        if url == "/odd":
            raise RuntimeError("odd")


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


def finish(opened: PrefetchThread, encoder: Encoder) -> None:
    encoder.let.release(1000)
    wait_until(lambda: not opened.busy)


def test_it_returns_at_once_and_one_image_is_embedded_at_a_time(encoder):
    opened = PrefetchThread(encoder)
    opened.request(P, ["/a", "/b"])
    wait_until(lambda: encoder.taken)
    assert opened.busy and encoder.taken == ["/a"]
    finish(opened, encoder)
    assert encoder.taken == ["/a", "/b"]


def test_the_task_opened_last_goes_first(encoder):
    opened = PrefetchThread(encoder)
    opened.request(P, ["/a", "/b", "/c"])
    wait_until(lambda: encoder.taken)
    opened.request(P, ["/x", "/c"])
    finish(opened, encoder)
    assert encoder.taken == ["/a", "/x", "/c", "/b"]


def test_no_more_than_some_wait(encoder):
    opened = PrefetchThread(encoder)
    for number in range(100):
        opened.request(P, [f"/{number}"])
    finish(opened, encoder)
    assert len(encoder.taken) <= MAX_WAITING + 1 and "/99" in encoder.taken


def test_an_image_that_cannot_be_embedded_does_not_stop_the_others(encoder, caplog):
    opened = PrefetchThread(encoder)
    opened.request(P, ["/gone", "/odd", "/a"])
    finish(opened, encoder)
    assert encoder.taken == ["/gone", "/odd", "/a"]
    assert "it is gone" in caplog.text and "did not foresee" in caplog.text


def test_after_it_has_ended_it_begins_again(encoder):
    opened = PrefetchThread(encoder)
    encoder.let.release(1000)
    for url in ("/a", "/b"):
        opened.request(P, [url])
        wait_until(lambda: not opened.busy)
    opened.request(P, [])
    assert not opened.busy and encoder.taken == ["/a", "/b"]

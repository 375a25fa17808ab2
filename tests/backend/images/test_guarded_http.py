"""The sockets of a download, against servers that drip, stall and lie."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from skylight.backend import allowed_hosts as hosts
from skylight.backend.allowed_hosts import HostList
from skylight.backend.errors import MediaError
from skylight.backend.images import download, guarded_http
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.settings import Settings
from tests.support.attacks import STRANGER
from tests.support.picture_sites import IMAGE, serving

DRIPS = {
    "status line": b"",
    "header": b"HTTP/1.1 200 OK\r\nX-Slow: ",
    "body of a length": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
    "body without a length": b"HTTP/1.1 200 OK\r\n\r\n",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n",
    "chunk's length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0000",
}


@contextmanager
def raw(answer: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """A server that does whatever with a connection until the end; gives its port."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def serve() -> None:
            while not ended.is_set():
                with suppress(OSError):
                    made, _ = server.accept()
                    with made:
                        answer(made, ended)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            thread.join()


def fetch(url: str, allowed: str = "127.0.0.1") -> bytes:
    return download.fetch(url, Settings(allowed_hosts=HostList.parse(allowed)), LabelStudio("", ""))


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("start", DRIPS.values(), ids=DRIPS)
def test_who_drips_is_cut_off_at_the_deadline(monkeypatch, start, scheme):
    """Each byte comes well within the limit of one read. (To https this is a handshake that never ends.)"""
    monkeypatch.setattr(download, "TOTAL_SECONDS", 0.3)
    dripped = 0

    def drip(made: socket.socket, ended: threading.Event) -> None:
        nonlocal dripped
        made.sendall(b"\x16\x03\x03\x40\x00" if scheme == "https" else start)
        for _ in range(1000):
            made.sendall(b"0")
            dripped += 1
            if ended.wait(0.02):
                return

    with raw(drip) as port, pytest.raises(MediaError, match="took longer than 0 s"):
        fetch(f"{scheme}://127.0.0.1:{port}/a.png")
    assert dripped < 1000


def test_redirects_share_one_deadline(monkeypatch):
    monkeypatch.setattr(download, "TOTAL_SECONDS", 0.3)

    def redirect(made: socket.socket, ended: threading.Event) -> None:
        ended.wait(0.15)
        made.sendall(b"HTTP/1.1 302 Found\r\nLocation: /b.png\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with raw(redirect) as port, pytest.raises(MediaError, match="took longer"):
        fetch(f"http://127.0.0.1:{port}/a.png")


def test_nothing_is_left_of_a_download(monkeypatch):
    before = threading.active_count()
    with serving() as site:
        site.anything = (200, {}, IMAGE)
        serving_threads = threading.active_count() - before
        for _ in range(3):
            assert fetch(f"{site.url}/a.png") == IMAGE
        until = time.monotonic() + 5
        while threading.active_count() - before > serving_threads and time.monotonic() < until:
            time.sleep(0.01)
        assert threading.active_count() - before <= serving_threads


def test_a_name_is_looked_up_once_and_the_address_that_was_checked_is_the_one(monkeypatch):
    """A second look would get what must not be called."""
    with serving(STRANGER) as stranger, serving() as inside:
        stranger.anything = (200, {}, IMAGE)
        real, looks = socket.getaddrinfo, []

        def look(name, port, *args, **options):
            if name != "rebinding.test":
                return real(name, port, *args, **options)
            looks.append(name)
            return real(STRANGER if len(looks) == 1 else "127.0.0.1", port, *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", look)
        monkeypatch.setattr(hosts, "is_public", lambda address: address == STRANGER)
        assert fetch(f"http://rebinding.test:{stranger.port}/a.png", "*") == IMAGE
        assert len(looks) == 1
        with pytest.raises(MediaError, match="add rebinding.test to SKYLIGHT_ALLOWED_HOSTS"):
            fetch(f"http://rebinding.test:{inside.port}/a.png", "*")
        assert (inside.connections, stranger.connections) == (0, 1)


def test_an_address_of_this_very_machine_is_refused_before_anything_is_sent(monkeypatch):
    """Even a public one: what listens there trusts who comes from here."""
    monkeypatch.setattr(hosts, "is_public", lambda _: True)
    with serving() as site:
        with pytest.raises(MediaError, match="neither Label Studio's nor public"):
            fetch(f"{site.url}/a.png", "*")
        assert site.seen == []


def test_of_several_addresses_the_next_is_tried_and_not_too_many(monkeypatch):
    with serving(STRANGER) as site:
        site.anything = (200, {}, IMAGE)
        addresses, real = ["127.0.0.4", STRANGER], socket.getaddrinfo
        monkeypatch.setattr(hosts, "is_public", lambda address: address.startswith("127.0.0."))

        def look(name, port, *args, **options):
            meant = addresses if name == "many.test" else [name]
            return [found for each in meant for found in real(each, port, *args, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", look)
        assert fetch(f"http://many.test:{site.port}/a.png", "*") == IMAGE
        addresses[:] = [f"127.0.0.{n}" for n in range(10, 10 + guarded_http.MAX_ADDRESSES)] + [STRANGER]
        with pytest.raises(MediaError, match="Is the server up"):
            fetch(f"http://many.test:{site.port}/a.png", "*")


def test_a_proxy_of_the_environment_is_for_hosts_that_are_vouched_for(monkeypatch):
    """It would look up names by itself."""
    with serving() as proxy:
        proxy.anything = (200, {}, IMAGE)
        monkeypatch.setenv("http_proxy", proxy.url)
        assert fetch("http://named.test/a.png", "named.test") == IMAGE
        with pytest.raises(MediaError, match="Is the server up"):
            fetch("http://other.invalid/a.png", "*")
        assert [path for path, _ in proxy.seen] == ["http://named.test/a.png"]

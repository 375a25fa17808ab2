"""The sockets of one download: they lead only where they may, and all end at its deadline.

Whatever a name means, what counts is the address that a socket goes to: it is looked up once, checked, and connected to
as a number, so that a name cannot mean something else at the second look (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from typing import Any, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection

from skylight.backend import allowed_hosts

MAX_ADDRESSES = 4
"""Addresses of one name that are tried; each may take the whole time for connecting."""


class AddressNotPublic(Exception):
    """A host may not be asked, because its address is not a public one. The address is not told: it is inside."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} is at an address that is not public")
        self.host = host


class SocketDeadline:
    """A context manager that holds the sockets of one download and shuts them when its time is over.

    A timeout of a socket is one of each read: whoever sends a byte now and then never runs into it.
    """

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._held: list[socket.socket] = []
        self._timer = threading.Timer(max(seconds, 0.0), self._cut)
        self._timer.daemon = True

    @property
    def expired(self) -> bool:
        """Whether the time is over: what was read is not all there is."""
        return time.monotonic() >= self._until

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            for held in self._held:
                held.close()
            self._held.clear()

    def register(self, connected: socket.socket) -> socket.socket:
        """Take note of a socket and give it back. Raises TimeoutError, the socket closed, when the time is over."""
        with self._lock:
            if self.expired:
                connected.close()
                raise TimeoutError("the time for this download is over")
            # A copy of its own: TLS takes the socket out of the object it is given.
            self._held.append(connected.dup())
        return connected

    def _cut(self) -> None:
        with self._lock:
            for held in self._held:
                with contextlib.suppress(OSError):
                    held.shutdown(socket.SHUT_RDWR)


class GuardedAdapter(HTTPAdapter):
    """Sends by sockets of a line; with `public`, to public addresses only and through no proxy.

    A proxy would look the name up itself, where no address can be checked.
    """

    def __init__(self, line: SocketDeadline, public: bool) -> None:
        self._public = public
        self._pools: dict[str, Any] = {
            "http": functools.partial(_Pool, line=line, public=public),
            "https": functools.partial(_SecurePool, line=line, public=public),
        }
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Have the pools make our connections."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
        """The same for those through a proxy."""
        manager = super().proxy_manager_for(proxy, **options)
        if proxy.lower().startswith("http"):
            manager.pool_classes_by_scheme = self._pools
        return manager

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send a request. Raises NotPublic."""
        return super().send(request, stream, timeout, verify, cert, {} if self._public else proxies)


class _Connection(HTTPConnection):
    def __init__(self, *args: Any, line: SocketDeadline, public: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self._line, self._public = line, public

    def _new_conn(self) -> socket.socket:
        return self._line.register(connect_public(self) if self._public else super()._new_conn())


class _SecureConnection(HTTPSConnection):
    def __init__(self, *args: Any, line: SocketDeadline, public: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self._line, self._public = line, public

    def _new_conn(self) -> socket.socket:
        return self._line.register(connect_public(self) if self._public else super()._new_conn())


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def connect_public(connection: HTTPConnection) -> socket.socket:
    """Connect, if all addresses of the host are public, to the first that answers. Raises NotPublic or urllib3's."""
    name, port = connection._dns_host, connection.port
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NameResolutionError(connection.host, connection, socket.gaierror(str(error))) from error
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    if not all(allowed_hosts.is_public(address) for address in addresses):
        raise AddressNotPublic(connection.host)
    reason: OSError | None = None
    for address in addresses[:MAX_ADDRESSES]:
        try:
            made = create_connection((address, port), connection.timeout, socket_options=connection.socket_options)
        except OSError as error:
            reason = error
            continue
        return _checked(made, connection.host)
    raise NewConnectionError(connection, f"Failed to establish a new connection: {reason}")


def _checked(made: socket.socket, host: str) -> socket.socket:
    """The socket, if it ends at a public address that is not this very machine's."""
    peer = str(made.getpeername()[0])
    if not allowed_hosts.is_public(peer) or peer == str(made.getsockname()[0]):
        made.close()
        raise AddressNotPublic(host)
    return made

"""HTTP sockets of a download: they connect only to addresses that are allowed, and are shut at its deadline.

A host is resolved once, and the address that was checked is connected to, so that a second lookup cannot lead elsewhere
(DNS rebinding).
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
    """A host is at an address that is not public. The message does not tell the address, as it is an internal one."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} is at an address that is not public")
        self.host = host


class SocketDeadline:
    """A context manager that shuts the sockets of one download after some seconds.

    The timeout of a socket is for each read: a server that sends a byte now and then never exceeds it.
    """

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(max(seconds, 0.0), self._shut_down)
        self._timer.daemon = True

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed: what was read may be incomplete."""
        return time.monotonic() >= self._deadline

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            for connection in self._sockets:
                connection.close()
            self._sockets.clear()

    def register(self, connected: socket.socket) -> socket.socket:
        """Register a socket and return it. Closes it and raises TimeoutError after the deadline."""
        with self._lock:
            if self.expired:
                connected.close()
                raise TimeoutError("the time for this download is over")
            # A copy of its own: TLS takes the socket out of the object it is given.
            self._sockets.append(connected.dup())
        return connected

    def _shut_down(self) -> None:
        with self._lock:
            for connection in self._sockets:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class GuardedAdapter(HTTPAdapter):
    """Sends requests by sockets with a deadline; with `public`, to public addresses only and through no proxy.

    A proxy would resolve the host itself, where no address can be checked.
    """

    def __init__(self, deadline: SocketDeadline, public: bool) -> None:
        self._public = public
        self._pools: dict[str, Any] = {
            "http": functools.partial(_Pool, deadline=deadline, public=public),
            "https": functools.partial(_SecurePool, deadline=deadline, public=public),
        }
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Use the pools whose connections are guarded."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
        """Use the guarded pools through an HTTP proxy, too."""
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
    def __init__(self, *args: Any, deadline: SocketDeadline, public: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self._socket_deadline, self._public = deadline, public

    def _new_conn(self) -> socket.socket:
        return self._socket_deadline.register(connect_public(self) if self._public else super()._new_conn())


class _SecureConnection(HTTPSConnection):
    def __init__(self, *args: Any, deadline: SocketDeadline, public: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self._socket_deadline, self._public = deadline, public

    def _new_conn(self) -> socket.socket:
        return self._socket_deadline.register(connect_public(self) if self._public else super()._new_conn())


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def connect_public(connection: HTTPConnection) -> socket.socket:
    """Connect, if all addresses of the host are public, to the first that answers. Raises NotPublic or urllib3's."""
    name, port = connection._dns_host, connection.port
    try:
        entries = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NameResolutionError(connection.host, connection, socket.gaierror(str(error))) from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    if not all(allowed_hosts.is_public(address) for address in addresses):
        raise AddressNotPublic(connection.host)
    failure: OSError | None = None
    for address in addresses[:MAX_ADDRESSES]:
        try:
            connected = create_connection((address, port), connection.timeout, socket_options=connection.socket_options)
        except OSError as error:
            failure = error
            continue
        return _checked(connected, connection.host)
    raise NewConnectionError(connection, f"Failed to establish a new connection: {failure}")


def _checked(connected: socket.socket, host: str) -> socket.socket:
    """The socket, if it ends at a public address that is not this very machine's."""
    peer = str(connected.getpeername()[0])
    if not allowed_hosts.is_public(peer) or peer == str(connected.getsockname()[0]):
        connected.close()
        raise AddressNotPublic(host)
    return connected

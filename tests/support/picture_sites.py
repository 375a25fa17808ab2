"""Little web servers of the tests: they serve what they are told to, and remember who came with what."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef0123456789abcdef01234567"
IMAGE = b"\x89PNG" + bytes(range(256)) * 40


class Site(ThreadingHTTPServer):
    """Serves `routes` (path to (status, headers, body)) and remembers who came with which credentials."""

    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), Handler)
        self.host, self.port = host, int(self.server_address[1])
        self.anything: tuple[int, dict[str, str], bytes] = (404, {}, b"no")  # where there is no route
        self.connections = 0
        self.spared = ""  # an address of ours, connections to which do not count
        self.routes: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.wants = ""  # the Authorization without which the answer is 401
        self.refuses: tuple[str, ...] = ()  # what a User-Agent that is answered 403 begins with
        self.agents: list[str] = []
        self.seen: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # IPv4 too
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        made, peer = super().get_request()
        self.connections += not self.spared or not made.getsockname()[0].endswith(self.spared)
        return made, peer

    def handle_error(self, *_: Any) -> None:
        pass  # who comes with TLS, or goes away


class Handler(BaseHTTPRequestHandler):
    server: Site

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        given = self.headers.get("Authorization")
        self.server.seen.append((self.path, given))
        agent = self.headers.get("User-Agent", "")
        self.server.agents.append(agent)
        status, headers, body = self.server.routes.get(self.path, self.server.anything)
        if self.server.refuses and (not agent or agent.lower().startswith(self.server.refuses)):
            status, headers, body = 403, {}, b"not you"
        if self.server.wants and given != self.server.wants:
            status, headers, body = 401, {}, b"who?"
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"access": "access.%d.x"}' % len(self.server.seen)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[Site]:
    """A site that answers; "::" is every address of this machine."""
    with Site(host) as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            site.shutdown()
            thread.join()

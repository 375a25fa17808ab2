"""A bucket on this machine: moto's server, and something in between that fails or is slow.

moto is in an environment of its own (`make .venv-moto/.installed`): botocore wants an older python-dateutil.
"""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests

from skylight.backend.process.ports import free_port
from tests.support.label_studio_double import wait_until

SERVER = Path(__file__).parents[2] / ".venv-moto/bin/moto_server"
USER, PASSWORD = "skylight", "0123456789abcdef"


@contextmanager
def serving_s3(*buckets: str, **environment: str) -> Iterator[int]:
    """Serve empty buckets, with moto's settings in the environment; gives the port."""
    port = free_port(0)
    command = [str(SERVER), "-H", "127.0.0.1", "-p", str(port)]
    given = {**os.environ, **environment}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=given) as process:
        wait_until(lambda: is_open(port), 60)
        for name in buckets:
            requests.put(f"http://127.0.0.1:{port}/{name}", timeout=30).raise_for_status()
        try:
            yield port
        finally:
            process.terminate()


def is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def credentials(port: int, host: str = "127.0.0.1") -> dict[str, str]:
    """The environment by which the bucket at a port is found."""
    return {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": USER,
        "AWS_SECRET_ACCESS_KEY": PASSWORD,
        "AWS_REGION": "us-east-1",
    }


class Between:
    """A TCP proxy to a port here: it hands through, cuts off, is slow, or answers 503 in the server's place."""

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self.target = target
        self.cut = False
        self.delay = 0.0  # s, before each connection is handed through
        self.failing = 0  # connections still to be answered 503
        self.failed = 0
        self._server = socket.create_server((host, 0))
        self.port: int = self._server.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_off(self) -> None:
        """From now on nothing goes through, what is on its way neither."""
        self.cut = True
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.close()
        self.cut_off()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self.cut:
                return
            time.sleep(self.delay)
            if self.failing:
                self.failing -= 1
                self.failed += 1
                client.recv(65536)
                client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", self.target)) as server:
                self._open |= {client, server}
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()
                self._open -= {client, server}


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)

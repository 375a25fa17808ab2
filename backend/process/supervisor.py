"""Supervisor of `skylight serve`: runs the broker, the workers and the web server, and restarts each that ends."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import redis

from skylight.backend.errors import Unavailable
from skylight.backend.process.socket_folder import socket_folder, socket_url
from skylight.backend.settings import Settings
from skylight.model.storage.atomic_write import write

SOCKET = "broker.sock"
BROKER_SECONDS = 20.0  # to start; a large append-only file is read first
STOP_SECONDS = 8.0  # from SIGTERM to SIGKILL; with the broker after the others all is over within 10 s
RESTART_SECONDS = 1.0  # between two looks at the children; a pause before a start is a multiple of it
STARTUP_SECONDS = 60.0  # a child that ends sooner after its start could not be started; PyTorch alone takes some
BROKER_STARTUP_SECONDS = 10.0
MAX_FAILED_STARTS = 6  # in a row that failed, half a minute with the pauses between them; then Skylight ends
# Signals by which a child is ended from outside, the last also by a system without memory: no failure of its own.
KILLS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
MAX_DOUBLINGS = 2  # of the pause after those
PROGRAM = [sys.executable, "-m", "skylight.backend.cli.main"]  # what runs as web server and worker
# Read by PyTorch and NumPy when they are imported.
THREADS = {
    # Two processes that compute at once spin for the cores that the other holds, by default for long; a short spin is
    # four times quicker (docs/decisions/threads-and-memory.md).
    "GOMP_SPINCOUNT": "10000",
    # NumPy's products are small, and its threads would hold the cores that PyTorch's and ONNX Runtime's ask for next.
    "OPENBLAS_NUM_THREADS": "1",
}
TUNING = THREADS | {
    # glibc's malloc gives each of many threads a heap of its own, and rarely returns memory to the system.
    "MALLOC_ARENA_MAX": "2",
    # What a click frees is kept for the next one: to get 11,000 pages anew took a third of a click's time.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # the most that glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(2**27),
}

log = logging.getLogger(__name__)


def broker_address_file(settings: Settings) -> Path:
    """The file with the URL of the embedded broker of the running `skylight serve`; stale after its end."""
    return settings.home / "broker" / "address"


@dataclass
class Child:
    """One child process in a process group of its own, so that Ctrl-C reaches it only through its parent."""

    name: str
    command: list[str]
    environ: Mapping[str, str]
    startup: float = STARTUP_SECONDS  # s; a child that ends sooner could not be started
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    started: float = field(default=0.0, repr=False)  # as `time.monotonic()` counts
    failed_starts: int = 0  # in a row
    restart_at: float | None = field(default=None, repr=False)  # when it is started again; None while it runs

    def start(self) -> None:
        """Start or restart it; what is left of its process group is killed first."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process = subprocess.Popen(self.command, env=dict(self.environ), process_group=0)
        self.started, self.restart_at = time.monotonic(), None

    def exit_status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self.process.poll() if self.process else 0

    def restart_if_ended(self) -> None:
        """Restart it if it has ended: at once, or after a pause that doubles while it ends soon after its start.

        Raises Unavailable if it cannot be started.
        """
        if (status := self.exit_status()) is None:
            return
        if self.restart_at is None:
            pause = self._next_pause(status)
            self.restart_at = time.monotonic() + pause
            log.error("%s ended with status %s and is started again in %.0f s", self.name, status, pause)
        if time.monotonic() >= self.restart_at:
            self.start()

    def _next_pause(self, status: int) -> float:
        """How long to wait before the next start, s. Raises Unavailable after `MAX_FAILED_STARTS` that failed."""
        self.failed_starts = self.failed_starts + 1 if time.monotonic() - self.started < self.startup else 1
        if -status in KILLS:
            self.failed_starts = min(self.failed_starts, 1 + MAX_DOUBLINGS)
        elif self.failed_starts >= MAX_FAILED_STARTS:
            raise Unavailable(
                f"{self.name} cannot be started: it ended {self.failed_starts} times in a row within "
                f"{self.startup:.0f} s, at last with status {status}; its last message above says why"
            )
        return RESTART_SECONDS * (2.0 ** (self.failed_starts - 1) - 1)

    def stop(self) -> None:
        """SIGTERM, and after a while SIGKILL to its whole group."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Supervisor:
    """The processes of one Skylight: `with Supervisor(...) as supervisor: supervisor.watch(stop)`."""

    def __init__(
        self, settings: Settings, environ: Mapping[str, str], host: str, port: int, insecure: bool = False
    ) -> None:
        self.settings = settings
        self.environ = {**TUNING, **environ}
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.broker: Child | None = None
        if not settings.redis_url:
            # Not under SKYLIGHT_HOME, whose path may be too long for a socket.
            self._temporary = socket_folder(SOCKET)
            socket = Path(self._temporary.name) / SOCKET
            command = [
                sys.executable,
                "-m",
                "skylight.backend.process.broker",
                str(settings.home / "broker"),
                str(socket),
            ]
            self.broker = Child("broker", command, self.environ, BROKER_STARTUP_SECONDS)
            self.environ["REDIS_URL"] = socket_url(socket)
        follow = ["--follow", str(os.getpid())]
        options = ["--host", host, "--port", str(port), *(["--insecure"] if insecure else [])]
        web = Child("web", [*PROGRAM, "web", *options, *follow], self.environ)
        workers = [
            Child(f"worker {i + 1}", [*PROGRAM, "worker", *follow], self.environ) for i in range(settings.workers)
        ]
        self.children = [*workers, web]

    def __enter__(self) -> Self:
        try:
            if self.broker:
                self.broker.start()
                self._wait_for_broker()
                write(broker_address_file(self.settings), self.environ["REDIS_URL"].encode())  # for `skylight doctor`
            for child in self.children:
                child.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait_for_broker(self) -> None:
        assert self.broker is not None
        connection = redis.Redis.from_url(self.environ["REDIS_URL"])
        deadline = time.monotonic() + BROKER_SECONDS
        while time.monotonic() < deadline:
            if self.broker.exit_status() is not None:
                raise Unavailable("the embedded broker did not start; the line above says why")
            try:
                connection.ping()
                return
            except redis.RedisError:
                time.sleep(0.05)
        raise Unavailable(f"the embedded broker did not answer within {BROKER_SECONDS:.0f} s")

    def watch(self, stop: threading.Event) -> None:
        """Restart every child that ends, until `stop` is set. Raises Unavailable if one cannot be started any more.

        A broker is restarted with what its file holds, and the others connect to it anew. Until it answers, clicks work
        and events wait on disk. Its own log is in broker/valkey.log.
        """
        while not stop.wait(RESTART_SECONDS):
            for child in [*([self.broker] if self.broker else []), *self.children]:
                child.restart_if_ended()

    def stop(self) -> None:
        """End all children, the broker last."""
        stopping = [threading.Thread(target=child.stop) for child in self.children]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
        if self.broker:
            self.broker.stop()
        if self._temporary:
            self._temporary.cleanup()

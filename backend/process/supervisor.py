"""`skylight serve`: the broker, the workers and the web server as child processes, each started again if it ends."""

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
SETTLED_SECONDS = 60.0  # a child that ends sooner after its start could not be started; PyTorch alone takes some
BROKER_SETTLED_SECONDS = 10.0
MOST_STARTS = 6  # in a row that failed, half a minute with the pauses between them; then Skylight ends
# By these a child is ended from outside, the last by a system without memory, too: that says nothing against it.
KILLS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
MOST_PAUSES = 2  # doublings of the pause after those
PROGRAM = [sys.executable, "-m", "skylight.backend.cli.main"]  # what runs as web server and worker
# Read by PyTorch and NumPy when they are imported.
THREADS = {
    # Two processes that compute at once spin for the cores that the other holds, by default for long: a training step
    # beside another process took 6.3 s; it took 1.6 s with a short spin, 2.2 s with none.
    "GOMP_SPINCOUNT": "10000",
    # NumPy's products are small, and its threads would hold the cores that PyTorch's and ONNX Runtime's ask for next: a
    # click with a second look takes 28 ms so, 50 with both of two cores for each.
    "OPENBLAS_NUM_THREADS": "1",
}
TUNING = THREADS | {
    # glibc's malloc gives each of many threads a heap of its own, and rarely gives back what one has taken.
    "MALLOC_ARENA_MAX": "2",
    # What a click frees is kept for the next one: the system's pages come one by one, 11,000 of them for a click on an
    # image that is not in memory, which took 45 of its 136 ms on a machine where that is slow (10 of 92 since).
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # the most that glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(2**27),
}

log = logging.getLogger(__name__)


def broker_note(settings: Settings) -> Path:
    """The file that says where the embedded broker of the running `skylight serve` is; stale after its end."""
    return settings.home / "broker" / "address"


@dataclass
class Child:
    """One child process in a process group of its own, so that Ctrl-C reaches it only through its parent."""

    name: str
    command: list[str]
    environ: Mapping[str, str]
    settled: float = SETTLED_SECONDS  # s after its start from which it counts as started
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    started: float = field(default=0.0, repr=False)  # as `time.monotonic()` counts
    failed: int = 0  # starts in a row
    due: float | None = field(default=None, repr=False)  # when it is started again; None while it runs

    def start(self) -> None:
        """Start it, or start it again; whatever is left of its group is killed first."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process = subprocess.Popen(self.command, env=dict(self.environ), process_group=0)
        self.started, self.due = time.monotonic(), None

    def ended(self) -> int | None:
        """Its exit status, None while it runs."""
        return self.process.poll() if self.process else 0

    def look_after(self) -> None:
        """Start it again if it has ended: at once, or after a pause that doubles while it ends soon after its start.

        Raises Unavailable if it cannot be started.
        """
        if (status := self.ended()) is None:
            return
        if self.due is None:
            pause = self._pause(status)
            self.due = time.monotonic() + pause
            log.error("%s ended with status %s and is started again in %.0f s", self.name, status, pause)
        if time.monotonic() >= self.due:
            self.start()

    def _pause(self, status: int) -> float:
        """How long to wait before the next start, s. Raises Unavailable after `MOST_STARTS` that failed."""
        self.failed = self.failed + 1 if time.monotonic() - self.started < self.settled else 1
        if -status in KILLS:
            self.failed = min(self.failed, 1 + MOST_PAUSES)
        elif self.failed >= MOST_STARTS:
            raise Unavailable(
                f"{self.name} cannot be started: it ended {self.failed} times in a row within {self.settled:.0f} s, at "
                f"last with status {status}; its last message above says why"
            )
        return RESTART_SECONDS * (2.0 ** (self.failed - 1) - 1)

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
    """Runs a Skylight: `with Supervisor(...) as it: it.watch(stop)`."""

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
            self.broker = Child("broker", command, self.environ, BROKER_SETTLED_SECONDS)
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
                self._await_broker()
                write(broker_note(self.settings), self.environ["REDIS_URL"].encode())  # for `skylight doctor`
            for child in self.children:
                child.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _await_broker(self) -> None:
        assert self.broker is not None
        connection = redis.Redis.from_url(self.environ["REDIS_URL"])
        until = time.monotonic() + BROKER_SECONDS
        while time.monotonic() < until:
            if self.broker.ended() is not None:
                raise Unavailable("the embedded broker did not start; the line above says why")
            try:
                connection.ping()
                return
            except redis.RedisError:
                time.sleep(0.05)
        raise Unavailable(f"the embedded broker did not answer within {BROKER_SECONDS:.0f} s")

    def watch(self, stop: threading.Event) -> None:
        """Until `stop` is set, start again whatever ends. Raises Unavailable if one cannot be started any more.

        A broker that ends is started with what its file holds, and the others connect to it anew. Until it answers,
        clicks work and events wait on disk. Its own log is in broker/valkey.log.
        """
        while not stop.wait(RESTART_SECONDS):
            for child in [*([self.broker] if self.broker else []), *self.children]:
                child.look_after()

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

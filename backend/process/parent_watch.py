"""A child process that ends when its parent does, however that ended."""

import os
import signal
import threading
import time

CHECK_SECONDS = 1.0


def terminate_with_parent(parent: int) -> None:
    """From now on, ask this process to end (SIGTERM) as soon as `parent` is no longer its parent process."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(CHECK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()

"""`make bench`: all timings of Skylight beside the parts of other programs that a package provides; one table.

`python -m tests.bench clicks codecs` runs some parts. Rows go to build/bench.json, and a plot of those
with a goal to build/bench.png.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis
import torch

from skylight.backend.process.supervisor import TUNING
from tests.bench import batches, clicks, codecs, crowd, encoders, training
from tests.bench.plot import plot
from tests.bench.timing import BUILD, Table
from tests.support.fixtures import answers
from tests.support.label_studio_double import wait_until

PARTS: dict[str, Callable[[Table, str], None]] = {
    "clicks": clicks.run,
    "encoders": encoders.run,
    "codecs": codecs.run,
    "training": training.run,
    "crowd": crowd.run,
    "batches": batches.run,
}


@contextmanager
def broker() -> Iterator[str]:
    """A Valkey server's address."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "skylight.backend.process.broker", folder, f"{folder}/s"]
        with subprocess.Popen(command) as process:
            try:
                with redis.Redis(unix_socket_path=f"{folder}/s") as connection:
                    wait_until(lambda: answers(connection))
                yield f"unix://{folder}/s"
            finally:
                process.terminate()


def main() -> None:
    """Run the parts named, or all, in an environment as `skylight serve` gives it to what it starts."""
    if TUNING.items() - os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | TUNING)
    names = sys.argv[1:] or list(PARTS)
    if unknown := set(names) - set(PARTS):
        sys.exit(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    table = Table()
    with broker() as url:
        for name in names:
            print(f"{name} ({torch.get_num_threads()} threads)")
            PARTS[name](table, url)
            plot(table.write(BUILD / "bench.json"), BUILD / "bench.png")


if __name__ == "__main__":
    main()

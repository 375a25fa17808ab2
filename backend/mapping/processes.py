"""Processes of this machine that map images, each with a SAM and a decoder of its own, one image after the other.

`concurrent.futures` would give up all processes when one dies; here its image fails, and another takes its place.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from skylight.backend.errors import Unavailable
from skylight.backend.mapping.inputs import Input
from skylight.backend.process.parent_watch import terminate_with_parent

END_SECONDS = 30.0  # that a process which has closed its pipe may take to exit: it unloads PyTorch first
POLL_SECONDS = 0.2  # between two reports of progress

Record = dict[str, Any]  # of a mapped image, as `pipeline.map_image` returns it
Outcome = tuple[Record | None, str]  # an image's record, or why it could not be mapped
MapImage = Callable[[Input, Callable[[float], None]], Outcome]  # the callback hears the share that is done
Numbered = tuple[int, Input]
Result = tuple[int, Record | None, str]  # an image's number and outcome


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(
    open_mapper: Callable[[], MapImage],
    images: Sequence[Numbered],
    jobs: int,
    progress: Callable[[float, str], None],
) -> Iterator[Result]:
    """Map numbered images by `jobs` processes; yields each one's result as it is done.

    `open_mapper` is pickled and called once in each process. An image fails if its process dies. Closed early, the
    generator kills the processes. `progress` as of `MapRun.run`. Raises Unavailable if a process cannot even start.
    """
    threads = max(cores() // jobs, 1)
    processes = [_MapperProcess(open_mapper, threads) for _ in range(jobs)]
    waiting, done = iter(images), 0
    try:
        while done < len(images):
            for ready in wait([process.pipe for process in processes], POLL_SECONDS):
                k = next(k for k, process in enumerate(processes) if process.pipe is ready)
                result = processes[k].receive()
                if processes[k].is_closed:
                    processes[k] = _MapperProcess(open_mapper, threads)
                elif (image := next(waiting, None)) is not None:
                    processes[k].send(image)
                if result is not None:
                    done += 1
                    yield result
            at_work = [(process.share.value, process.image[1].name) for process in processes if process.image]
            progress(done + sum(share for share, _ in at_work), ", ".join(name for _, name in at_work))
    finally:
        for process in processes:
            process.close()


class _MapperProcess:
    """A process that maps one image at a time. It announces that it has started, then sends each outcome."""

    def __init__(self, open_mapper: Callable[[], MapImage], threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would have torch's locks without their threads
        self.pipe, child_pipe = context.Pipe()
        self.share = context.RawValue("d", 0.0)  # of its image that is done
        self.image: Numbered | None = None
        arguments = open_mapper, threads, child_pipe, self.share
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        child_pipe.close()

    def send(self, image: Numbered) -> None:
        """Have it map the next image."""
        self.image = image
        self.share.value = 0.0
        with suppress(OSError):  # it has died: `receive` says so
            self.pipe.send(image[1])

    def receive(self) -> Result | None:
        """Return its image's result; None if it has only started. Raises Unavailable if it died before that."""
        image, self.image = self.image, None
        try:
            outcome = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(END_SECONDS)  # so that it has an exit code of its own
            self.close()
            ended = f"ended with {self.process.exitcode}; it may have taken too much memory: try fewer --jobs"
            if image is None:
                raise Unavailable(f"a process that was to map pictures {ended}") from None
            return image[0], None, f"the process that mapped it {ended}"
        return None if image is None else (image[0], *outcome)

    @property
    def is_closed(self) -> bool:
        """Whether it has ended."""
        return self.pipe.closed

    def close(self) -> None:
        """Kill it, even in the middle of an image."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(open_mapper: Callable[[], MapImage], threads: int, pipe: Connection, share: Any) -> None:
    """What the process runs: send None once it has started, then the outcome of each image that it receives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all of them; the first process ends the others
    terminate_with_parent(os.getppid())
    torch.set_num_threads(min(threads, torch.get_num_threads()))
    map_image = open_mapper()

    def progress(done: float) -> None:
        share.value = done

    with suppress(EOFError, OSError):  # the other end is closed
        pipe.send(None)
        while True:
            pipe.send(map_image(pipe.recv(), progress))

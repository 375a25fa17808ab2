"""Processes of this machine that map pictures, each with a SAM and a decoder of its own, one picture after the other.

`concurrent.futures` would give up all processes when one dies; here its picture fails, and another takes its place.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from skylight.backend.errors import Unavailable
from skylight.backend.mapping.inputs import Input
from skylight.backend.process.parent_watch import terminate_with_parent
from skylight.backend.service import Service
from skylight.model.mapping.pipeline import Options

if TYPE_CHECKING:
    from skylight.backend.mapping.mapping import Done

END_SECONDS = 5.0  # that a process which has let go of its pipe has to end
POLL_SECONDS = 0.2  # between two looks at how far they are


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Again:
    """What another process makes the same mapping of."""

    open_service: Callable[[], Service]
    project: str
    number: int
    options: Options


class Mapper:
    """A process that maps pictures."""

    def __init__(self, again: Again, threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would have torch's locks without their threads
        self.pipe, theirs = context.Pipe()
        self.share = context.RawValue("d", 0.0)  # of its picture that is done
        self.now: tuple[int, Input] | None = None
        arguments = again, threads, theirs, self.share
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def give(self, now: tuple[int, Input]) -> None:
        """Its next picture."""
        self.now = now
        self.share.value = 0.0
        with suppress(OSError):  # it has died: `answer` says so
            self.pipe.send(now[1])

    def answer(self) -> "Done | None":
        """What became of its picture; None of one that has begun. Raises Unavailable if it died before that."""
        now, self.now = self.now, None
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(END_SECONDS)  # so that it has an exit code of its own
            self.close()
            ended = f"ended with {self.process.exitcode}; it may have taken too much memory: try fewer --jobs"
            if now is None:
                raise Unavailable(f"a process that was to map pictures {ended}") from None
            return now[0], None, f"the process that mapped it {ended}"
        return None if now is None else (now[0], *answer)

    @property
    def is_closed(self) -> bool:
        """Whether it has ended."""
        return self.pipe.closed

    def close(self) -> None:
        """End it, in the middle of a picture if it is at one."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run(
    again: Again, left: Sequence[tuple[int, Input]], several: int, progress: Callable[[float, str], None]
) -> Iterator["Done"]:
    """Map numbered pictures by so many processes; yields what became of each, as it is done.

    A picture fails if its process dies. Ended early (closed), the processes are killed. `progress` as of `Mapping.run`.
    Raises Unavailable if a process cannot even begin.
    """
    threads = max(cores() // several, 1)
    mappers = [Mapper(again, threads) for _ in range(several)]
    waiting, done = iter(left), 0
    try:
        while done < len(left):
            for ready in wait([each.pipe for each in mappers], POLL_SECONDS):
                k = next(k for k, each in enumerate(mappers) if each.pipe is ready)
                answer = mappers[k].answer()
                if mappers[k].is_closed:
                    mappers[k] = Mapper(again, threads)
                elif (following := next(waiting, None)) is not None:
                    mappers[k].give(following)
                if answer is not None:
                    done += 1
                    yield answer
            at_work = [(each.share.value, each.now[1].name) for each in mappers if each.now]
            progress(done + sum(share for share, _ in at_work), ", ".join(name for _, name in at_work))
    finally:
        for each in mappers:
            each.close()


def _work(again: Again, threads: int, pipe: Connection, share: Any) -> None:
    """What the process does: it says that it has begun, then what became of each picture that it is given."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all of them; the first process ends the others
    terminate_with_parent(os.getppid())
    import torch

    from skylight.backend.learning.version_lookup import trained
    from skylight.backend.mapping.mapping import Mapping

    torch.set_num_threads(min(threads, torch.get_num_threads()))
    service = again.open_service()
    version = trained(service, again.project, again.number)
    mapping = Mapping(version, service.embedder.segmenter, again.options)

    def heard(done: float) -> None:
        share.value = done

    with suppress(EOFError, OSError):  # nobody listens any more
        pipe.send(None)
        while True:
            pipe.send(mapping.one(pipe.recv(), heard))

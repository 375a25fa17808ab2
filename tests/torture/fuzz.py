"""A million and more inputs that nobody would send: none may crash a parser or the service, hang, or fill the memory.

Each target runs in a process of its own, whose memory is limited; seeds are numbers from 0 on, so a crash that is
printed can be repeated: `python -m tests.torture.fuzz "RLE" 4711`.
"""

import multiprocessing
import resource
import sys
import time
import traceback
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from tests.support import fuzzing, raw_http
from tests.torture.report import Report

MEMORY = 2**30  # bytes that a target may take more than it had before the first input
SLOWEST_S = 1.0  # of one input
WAIT_S = 1500  # for all of a target's inputs
SHOWN = 5  # crashes that are printed of each target


class Found(NamedTuple):
    """What a target's inputs did."""

    crashes: list[str]
    slowest_s: float
    memory: int  # bytes at the peak beyond those of before the first input


def run(report: Report) -> None:
    """All targets, and the service itself."""
    total = 0
    for name, (_, count) in fuzzing.TARGETS.items():
        found = _apart(name, count)
        total += count
        for crash in found.crashes[:SHOWN]:
            print(f"  {name}: {crash}")
        report.fault(f"fuzzed: {name}", count, len(found.crashes))
        report.figure(f"fuzzed: {name}: slowest", found.slowest_s, "s", most=SLOWEST_S)
        report.figure(f"fuzzed: {name}: memory", found.memory / 2**20, "MB", most=MEMORY / 2**20)
    total += raw_http.torture(report)
    report.figure("fuzzed: inputs in all", total, "", least=1_000_000)


def _apart(name: str, count: int) -> Found:
    """A target's inputs in another process. One that ends, or is not done in time, counts as a crash."""
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=_feed, args=(name, count, theirs))
    process.start()
    theirs.close()
    try:
        found: Found = ours.recv() if ours.poll(WAIT_S) else Found([f"not done within {WAIT_S} s"], WAIT_S, 0)
    except EOFError:
        process.join()
        found = Found([f"the process ended with {process.exitcode}"], 0, 0)
    process.kill()
    process.join()
    return found


def _feed(name: str, count: int, answer: Connection) -> None:
    target, _ = fuzzing.TARGETS[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))
    crashes, slowest = [], 0.0
    for seed in range(count):
        rng = np.random.default_rng(seed)
        began = time.perf_counter()
        try:
            target(rng)
        except Exception as error:  # noqa: BLE001 (a crash is what is looked for)
            at = traceback.extract_tb(error.__traceback__)[-1]
            crashes.append(f"seed {seed}: {type(error).__name__} at {at.filename}:{at.lineno}: {str(error)[:200]}")
        slowest = max(slowest, time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer.send(Found(crashes, slowest, 1024 * (peak - before)))


if __name__ == "__main__":
    fuzzing.TARGETS[sys.argv[1]][0](np.random.default_rng(int(sys.argv[2])))

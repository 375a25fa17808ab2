"""Embeddings a second by one and by two workers, each a process with one thread, as on a machine of two cores."""

import multiprocessing
import time

import torch

from skylight.model.datasets import synthetic_scenes
from skylight.model.sam import loading

SECONDS = 12.0  # of each measurement
SIDE = 1024


def rate(workers: int, name: str = "tiny") -> float:
    """Images a second by so many processes."""
    context = multiprocessing.get_context("spawn")
    start, counts = context.Barrier(workers + 1), context.Queue()
    processes = [context.Process(target=_work, args=(name, start, counts)) for _ in range(workers)]
    for process in processes:
        process.start()
    start.wait()
    found = sum(counts.get() for _ in processes)
    for process in processes:
        process.join()
    return float(found)


def _work(name: str, start: "multiprocessing.synchronize.Barrier", counts: "multiprocessing.Queue[float]") -> None:
    torch.set_num_threads(1)
    segmenter = loading.load(name, None, "cpu")
    picture = synthetic_scenes.scene(1, SIDE).image
    segmenter.embed(picture)
    start.wait()
    began, count = time.monotonic(), 0
    while time.monotonic() - began < SECONDS:
        segmenter.embed(picture)
        count += 1
    counts.put(count / (time.monotonic() - began))

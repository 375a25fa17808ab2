"""The running workers, by the heartbeat that each sends every few seconds. All parts of Skylight count them by this."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from skylight.backend.queue.keys import Kind
from skylight.backend.queue.queue import Queue

ALIVE_SECONDS = 45  # without a heartbeat, of which one comes every 5 s: then a worker counts as dead


@dataclass(frozen=True)
class WorkerState:
    """A running worker."""

    process: int  # its id on `host`
    host: str
    state: str  # as RQ names it: "busy", "idle"
    kinds: tuple[Kind, ...]  # of jobs that it takes
    age: float  # s since its last heartbeat, by this machine's clock

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, {self.state}, heard of {self.age:.0f} s ago"


def running(queue: Queue) -> list[WorkerState]:
    """The running workers, by host and process, in two round trips. Raises redis.RedisError."""
    with queue.redis.pipeline(transaction=False) as pipe:
        for rq_queue in queue.queues.values():
            pipe.smembers(WORKERS_BY_QUEUE_KEY % rq_queue.name)
        members = pipe.execute()
        kinds: dict[bytes, list[Kind]] = {}
        for kind, keys in zip(queue.queues, members, strict=True):
            for key in keys:
                kinds.setdefault(key, []).append(kind)
        for key in kinds:
            pipe.hgetall(key)
            pipe.ttl(key)
        answers = pipe.execute()
    states = (
        _state(fields, remaining, tuple(of_worker))
        for of_worker, fields, remaining in zip(kinds.values(), answers[::2], answers[1::2], strict=True)
    )
    return sorted((state for state in states if state is not None), key=lambda state: (state.host, state.process))


def _state(fields: Mapping[bytes, bytes], remaining: int, kinds: tuple[Kind, ...]) -> WorkerState | None:
    """A worker from its hash in Redis; None if it has ended. `remaining`: s until the hash expires, -1 for never."""
    values = {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
    if not values.get("pid") or not values.get("last_heartbeat") or values.get("death"):
        return None
    process, host = int(values["pid"]), values.get("hostname", "")
    if host == socket.gethostname() and not _has_process(process):
        return None
    age = max((datetime.now(UTC) - datetime.fromisoformat(values["last_heartbeat"])).total_seconds(), 0.0)
    # A heartbeat has its hash expire, which no clock but Redis's own decides; RQ itself lets one live for an hour.
    if not 0 <= remaining <= ALIVE_SECONDS and age > ALIVE_SECONDS:
        return None
    return WorkerState(process, host, values.get("state", "starting"), kinds, age)


def _has_process(process: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True

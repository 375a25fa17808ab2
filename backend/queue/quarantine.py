"""Annotations that could not be made samples: listed, and tried again, without holding up any other.

One that fails twice by its own fault is quarantined: it is tried again when it changes, when somebody asks for it, or
under a configuration under which it has not failed yet, since the configuration may have been at fault.
Where the fault may be elsewhere (the image could not be fetched, the worker died) it is tried again by itself, with
growing pauses. An annotation is noted before it is read, so that one by which the process dies is known too.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import redis

from skylight.backend.queue.connection import pop
from skylight.backend.queue.keys import key

TRIES = 2  # failures by an annotation's own fault, after which it is quarantined
DEATHS = 6  # of the worker, after which chance is ruled out: with the pauses below, half an hour
CONFIGURATIONS = 20  # that are remembered; workers may have different settings, and each tries it
PAUSES = (0.0, 60.0, 300.0, 900.0, 3600.0)  # s before the next try where the fault may be elsewhere


class State(NamedTuple):
    """A state of an annotation, by what a later one differs in."""

    updated_at: str
    ground_truth: bool
    reviewed: bool


@dataclass(frozen=True)
class FailedAnnotation:
    """An annotation that could not be made a sample."""

    annotation: int
    task: int
    state: State
    reason: str
    tries: int  # that failed
    deaths: int  # of the worker, among them
    at: float  # of the last, as `time.time()` counts
    again: float | None  # when it is tried again by itself; None: when it or the configuration changes, or when asked
    event: dict[str, Any] | None = None  # that brought it, where Label Studio cannot be asked for it again
    configurations: tuple[str, ...] = ()  # digests of those under which this state has failed, the newest last

    @property
    def quarantined(self) -> bool:
        """Whether it is not tried again by itself."""
        return self.again is None


class Quarantine:
    """The failed annotations of all projects, in Redis. All methods raise redis.RedisError."""

    def __init__(
        self,
        connection: redis.Redis,
        clock: Callable[[], float] = time.time,
        configuration: Callable[[str], str] = lambda project: "",
    ) -> None:
        """`configuration`: gives a digest of all that may be at fault beside an annotation of a project."""
        self.redis = connection
        self.clock = clock
        self.configuration = configuration

    def of(self, project: str) -> list[FailedAnnotation]:
        """A project's failed annotations, the newest first."""
        values: Any = self.redis.hvals(key(project, "aside"))
        return sorted(map(_read, values), key=lambda failed: -failed.at)

    def get(self, project: str, annotation: int) -> FailedAnnotation | None:
        """A failed annotation, None if it has not failed."""
        value: Any = self.redis.hget(key(project, "aside"), str(annotation))
        return _read(value) if value else None

    def holds(self, project: str, annotation: int, state: State) -> bool:
        """Whether this state of an annotation has failed and is not to be tried now."""
        failed = self.get(project, annotation)
        return failed is not None and failed.state == state and not self._is_due(failed, self.configuration(project))

    def record_failure(
        self, project: str, event: dict[str, Any], reason: str, own: bool, death: bool = False, keep: bool = False
    ) -> FailedAnnotation:
        """Note that an annotation's event could not be used; `own`: by its own fault. `keep` the event for a retry."""
        state, earlier = state_of(event), self.get(project, event["id"])
        configuration = self.configuration(project)
        configurations = earlier.configurations if earlier and earlier.state == state else ()
        counted = earlier if configuration in configurations else None  # failures of this state and configuration
        tries, deaths = (counted.tries if counted else 0) + 1, (counted.deaths if counted else 0) + death
        given_up = (own and tries >= TRIES) or deaths >= DEATHS
        pause = PAUSES[min(tries, len(PAUSES)) - 1]
        failed = FailedAnnotation(
            event["id"],
            event["task"],
            state,
            reason[:1000],
            tries,
            deaths,
            self.clock(),
            None if given_up else self.clock() + pause,
            event if keep else None,
            (*(one for one in configurations if one != configuration), configuration)[-CONFIGURATIONS:],
        )
        self._write(project, failed)
        return failed

    def keep_event(self, project: str, event: dict[str, Any]) -> None:
        """Keep the event of an annotation that has failed, for the next try."""
        failed = self.get(project, event["id"])
        if failed and failed.event is None:
            self._write(project, replace(failed, event=event))

    def remove(self, project: str, *annotations: int) -> None:
        """Remove annotations that were used, or are gone."""
        if annotations:
            self.redis.hdel(key(project, "aside"), *map(str, annotations))

    def remove_tasks(self, project: str, tasks: set[int]) -> None:
        """Remove all annotations of some tasks."""
        self.remove(project, *(failed.annotation for failed in self.of(project) if failed.task in tasks))

    def due(self, project: str) -> list[FailedAnnotation]:
        """The annotations to be tried now."""
        if not (all_failed := self.of(project)):
            return []
        configuration = self.configuration(project)
        return [failed for failed in all_failed if self._is_due(failed, configuration)]

    def retry_all(self, project: str) -> int:
        """Have all tried again now; gives how many."""
        all_failed = self.of(project)
        for failed in all_failed:
            self._write(project, replace(failed, again=self.clock(), tries=0, deaths=0))
        return len(all_failed)

    def mark_begun(self, project: str, event: dict[str, Any]) -> None:
        """Note that an event is about to be used: should the process die of it, the next one knows by which."""
        self.redis.set(key(project, "handled"), json.dumps({**event, "result": [], "shown": None, "label_config": ""}))

    def mark_ended(self, project: str) -> None:
        """Note that the event was used, or that its failure was recorded."""
        self.redis.delete(key(project, "handled"))

    def take_unfinished(self, project: str) -> dict[str, Any] | None:
        """The event that a process was using when it died."""
        value = pop(self.redis, key(project, "handled"))
        return json.loads(value) if value else None

    def _write(self, project: str, failed: FailedAnnotation) -> None:
        self.redis.hset(key(project, "aside"), str(failed.annotation), json.dumps(asdict(failed)))

    def _is_due(self, failed: FailedAnnotation, configuration: str) -> bool:
        return configuration not in failed.configurations or (failed.again is not None and failed.again <= self.clock())


def state_of(event: dict[str, Any]) -> State:
    """The state of an annotation that an event brings."""
    return State(event["updated_at"], bool(event.get("ground_truth")), bool(event.get("reviewed")))


def _read(value: bytes | str) -> FailedAnnotation:
    fields = json.loads(value)
    configurations = tuple(fields.get("configurations", ()))  # which came later
    return FailedAnnotation(**{**fields, "state": State(*fields["state"]), "configurations": configurations})

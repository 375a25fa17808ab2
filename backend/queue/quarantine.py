"""Annotations that cannot be learned from as they are: set aside, so that they hold up nothing, and listed.

One that fails for its own sake twice is quarantined: it is tried again when it changes, when somebody asks for it, or
under a configuration under which it has not failed yet, since the configuration may have been at fault.
Where the fault may be elsewhere (the image could not be fetched, the worker ended while at it) it is tried again by
itself, later and later. What is begun is noted before, so that an annotation that ends the process is known too.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import redis

from skylight.backend.queue.queue import key, take

TRIES = 2  # failures for an annotation's own sake, after which it is quarantined
DEATHS = 6  # of the worker, after which nobody believes in chance: with the pauses below, half an hour
CONFIGURATIONS = 20  # that are remembered; workers may have different settings, and each tries it
PAUSES = (0.0, 60.0, 300.0, 900.0, 3600.0)  # s before the next try of what may be somebody else's fault


class State(NamedTuple):
    """A state of an annotation: what a later one differs in."""

    updated_at: str
    ground_truth: bool
    reviewed: bool


@dataclass(frozen=True)
class Aside:
    """An annotation that was set aside."""

    annotation: int
    task: int
    state: State
    reason: str
    tries: int  # that failed
    deaths: int  # of the worker, among them
    at: float  # of the last, as `time.time()` counts
    again: float | None  # when it is tried again by itself; None: when it or the configuration changes, or when asked
    event: dict[str, Any] | None = None  # what came of it, where Label Studio cannot be asked
    configurations: tuple[str, ...] = ()  # digests of those under which this state has failed, the newest last

    @property
    def quarantined(self) -> bool:
        """Whether it is not tried again by itself."""
        return self.again is None


class Asides:
    """The annotations of all projects that are set aside, in Redis. All methods raise redis.RedisError."""

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

    def of(self, project: str) -> list[Aside]:
        """All, the newest first."""
        found: Any = self.redis.hvals(key(project, "aside"))
        return sorted(map(_read, found), key=lambda each: -each.at)

    def get(self, project: str, annotation: int) -> Aside | None:
        """One of them."""
        found: Any = self.redis.hget(key(project, "aside"), str(annotation))
        return _read(found) if found else None

    def waits(self, project: str, annotation: int, state: State) -> bool:
        """Whether this state of an annotation is set aside and not to be tried now."""
        found = self.get(project, annotation)
        return found is not None and found.state == state and not self._is_due(found, self.configuration(project))

    def fail(
        self, project: str, event: dict[str, Any], reason: str, own: bool, death: bool = False, keep: bool = False
    ) -> Aside:
        """An annotation's event could not be used; `own`: for its own sake. `keep` the event for the next try."""
        state, found = state_of(event), self.get(project, event["id"])
        configuration, same = self.configuration(project), found if found and found.state == state else None
        others = [each for each in same.configurations if each != configuration] if same else []
        earlier = same if same and configuration in same.configurations else None
        tries, deaths = (earlier.tries if earlier else 0) + 1, (earlier.deaths if earlier else 0) + death
        given_up = (own and tries >= TRIES) or deaths >= DEATHS
        pause = PAUSES[min(tries, len(PAUSES)) - 1]
        again = None if given_up else self.clock() + pause
        kept = event if keep else None
        made = Aside(
            event["id"],
            event["task"],
            state,
            reason[:1000],
            tries,
            deaths,
            self.clock(),
            again,
            kept,
            (*others, configuration)[-CONFIGURATIONS:],
        )
        self.redis.hset(key(project, "aside"), str(made.annotation), json.dumps(asdict(made)))
        return made

    def keep(self, project: str, event: dict[str, Any]) -> None:
        """Keep the event of an annotation that is set aside, for the next try."""
        found = self.get(project, event["id"])
        if found and found.event is None:
            made = {**asdict(found), "event": event}
            self.redis.hset(key(project, "aside"), str(found.annotation), json.dumps(made))

    def drop(self, project: str, *annotations: int) -> None:
        """Forget annotations: they were used, or are gone."""
        if annotations:
            self.redis.hdel(key(project, "aside"), *map(str, annotations))

    def drop_tasks(self, project: str, tasks: set[int]) -> None:
        """Forget all annotations of some tasks."""
        self.drop(project, *(each.annotation for each in self.of(project) if each.task in tasks))

    def due(self, project: str) -> list[Aside]:
        """Those to be tried now."""
        if not (found := self.of(project)):
            return []
        configuration = self.configuration(project)
        return [each for each in found if self._is_due(each, configuration)]

    def ask(self, project: str) -> int:
        """Have all tried again now; gives how many."""
        found = self.of(project)
        for each in found:
            made = {**asdict(each), "again": self.clock(), "tries": 0, "deaths": 0}
            self.redis.hset(key(project, "aside"), str(each.annotation), json.dumps(made))
        return len(found)

    def begin(self, project: str, event: dict[str, Any]) -> None:
        """An event is about to be used: should the process end with it, the next one knows by which."""
        self.redis.set(key(project, "handled"), json.dumps({**event, "result": [], "shown": None, "label_config": ""}))

    def end(self, project: str) -> None:
        """It was used, or has failed in a way that can be told."""
        self.redis.delete(key(project, "handled"))

    def left_behind(self, project: str) -> dict[str, Any] | None:
        """The event that a process was using when it ended."""
        found = take(self.redis, key(project, "handled"))
        return json.loads(found) if found else None

    def _is_due(self, each: Aside, configuration: str) -> bool:
        return configuration not in each.configurations or (each.again is not None and each.again <= self.clock())


def state_of(event: dict[str, Any]) -> State:
    """The state of an annotation that an event brings."""
    return State(event["updated_at"], bool(event.get("ground_truth")), bool(event.get("reviewed")))


def _read(value: bytes | str) -> Aside:
    found = json.loads(value)
    configurations = tuple(found.get("configurations", ()))  # which came later
    return Aside(**{**found, "state": State(*found["state"]), "configurations": configurations})

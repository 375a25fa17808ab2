"""Failures that last: one record for each subject of a project, in Redis, until it succeeds again.

For people to look at (the page, `skylight status`, `doctor`); no job waits for it or is decided by it.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import redis

from skylight.backend.queue.keys import key

KEPT_SECONDS = 7 * 24 * 3600  # a failure that was not recorded again for so long is over

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A failure: of what, since when, how often, why, and what to do."""

    what: str  # a kind of job, "samples", "damaged", "version", "embeddings"; what Label Studio refused
    reason: str
    step: str
    count: int
    since: float  # as `time.time()` counts
    at: float  # the last time


class Failures:
    """The failures of all projects. While Redis is away none is recorded and none is known: the log has them."""

    def __init__(self, connection: redis.Redis, clock: Callable[[], float] = time.time) -> None:
        self.redis = connection
        self.clock = clock

    def record(self, project: str, what: str, reason: str, step: str = "") -> None:
        """Record that something failed, perhaps again."""
        try:
            earlier = self._read(self.redis.hget(_key(project), what))
            count, since = (earlier.count + 1, earlier.since) if earlier else (1, self.clock())
            failure = Failure(what, reason[:1000], step, count, since, self.clock())
            self.redis.hset(_key(project), what, json.dumps(asdict(failure)))
        except redis.RedisError as error:
            log.error("project %s: %s failed: %s (not noted: %s)", project, what, reason, error)

    def clear(self, project: str, *what: str) -> None:
        """Record that something succeeded."""
        try:
            self.redis.hdel(_key(project), *what)
        except redis.RedisError as error:
            log.warning("project %s: it could not be noted that it went well: %s", project, error)

    def of(self, project: str) -> list[Failure]:
        """A project's failures, the newest first; none while Redis is away, which is reported elsewhere."""
        try:
            values: Any = self.redis.hvals(_key(project))
        except redis.RedisError:
            return []
        failures = [failure for value in values if (failure := self._read(value))]
        return sorted(failures, key=lambda failure: -failure.at)

    def _read(self, value: Any) -> Failure | None:
        failure = Failure(**json.loads(value)) if value else None
        return failure if failure and self.clock() - failure.at < KEPT_SECONDS else None


def _key(project: str) -> str:
    return key(project, "failures")

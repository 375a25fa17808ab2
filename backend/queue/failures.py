"""What went wrong and still is: one small record for each thing of a project, in Redis, until it goes well again.

For people to look at (the page, `skylight status`, `doctor`); no job waits for it or is decided by it.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import redis

from skylight.backend.queue.queue import key

KEPT_SECONDS = 7 * 24 * 3600  # what nobody has said again for so long is over

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """One thing that fails: since when, how often, why, and what to do."""

    what: str  # a kind of job, "samples", "damaged", "version", "embeddings"; what Label Studio refused
    reason: str
    step: str
    count: int
    since: float  # as `time.time()` counts
    at: float  # the last time


class Failures:
    """The failures of all projects. While Redis is away none is noted and none is known: the log has them."""

    def __init__(self, connection: redis.Redis, clock: Callable[[], float] = time.time) -> None:
        self.redis = connection
        self.clock = clock

    def note(self, project: str, what: str, reason: str, step: str = "") -> None:
        """Something failed, perhaps again."""
        try:
            earlier = self._read(self.redis.hget(_place(project), what))
            count, since = (earlier.count + 1, earlier.since) if earlier else (1, self.clock())
            made = Failure(what, reason[:1000], step, count, since, self.clock())
            self.redis.hset(_place(project), what, json.dumps(asdict(made)))
        except redis.RedisError as error:
            log.error("project %s: %s failed: %s (not noted: %s)", project, what, reason, error)

    def clear(self, project: str, *what: str) -> None:
        """It went well."""
        try:
            self.redis.hdel(_place(project), *what)
        except redis.RedisError as error:
            log.warning("project %s: it could not be noted that it went well: %s", project, error)

    def of(self, project: str) -> list[Failure]:
        """What fails now, the newest first; nothing while Redis is away, which is said elsewhere."""
        try:
            found: Any = self.redis.hvals(_place(project))
        except redis.RedisError:
            return []
        known = [failure for value in found if (failure := self._read(value))]
        return sorted(known, key=lambda failure: -failure.at)

    def _read(self, value: Any) -> Failure | None:
        found = Failure(**json.loads(value)) if value else None
        return found if found and self.clock() - found.at < KEPT_SECONDS else None


def _place(project: str) -> str:
    return key(project, "failures")

"""Counts of failed trainings, so that one that fails again and again is not begun until something changes."""

import hashlib
import json
from typing import Any

import redis

from skylight.backend.queue.keys import key

FAILURES = 2  # trainings that raised an error, after which the same one is not begun again by itself
DEATHS = 5  # trainings that ended with their worker, which may have been stopped from outside


class TrainingAttempts:
    """The trainings of one project on one set of inputs, begun since the last that succeeded."""

    def __init__(self, connection: redis.Redis, project: str, inputs: dict[str, Any]) -> None:
        self.redis = connection
        self.key = key(project, "attempts")
        text = json.dumps(inputs, sort_keys=True).encode()
        self.digest = hashlib.sha256(text).hexdigest()[:16]
        value: Any = self.redis.get(self.key)
        stored: dict[str, Any] = json.loads(value) if value else {}
        same = stored.get("of") == self.digest
        self.begun, self.failed = (int(stored[name]) if same else 0 for name in ("begun", "failed"))

    @property
    def reason_to_stop(self) -> str:
        """Why the training is not begun again by itself, "" if it is."""
        if self.failed >= FAILURES:
            return f"it has failed {self.failed} times with the same annotations"
        if self.begun - self.failed >= DEATHS:
            return f"its worker has ended {self.begun - self.failed} times during it: out of memory, perhaps"
        return ""

    def record_begin(self) -> None:
        """Note that a training is about to begin."""
        self.begun += 1
        self._write()

    def record_failure(self) -> None:
        """Note that it raised an error."""
        self.failed += 1
        self._write()

    def record_success(self) -> None:
        """Note that it succeeded."""
        self.redis.delete(self.key)

    def _write(self) -> None:
        self.redis.set(self.key, json.dumps({"of": self.digest, "begun": self.begun, "failed": self.failed}))

"""How often a training with the same ingredients was begun in vain: what fails again and again waits for a change."""

import hashlib
import json
from typing import Any

import redis

from skylight.backend.queue.queue import key

FAILED = 2  # trainings that raised an error, after which the same one is not begun again by itself
ENDED = 5  # that ended with their worker, which may have been stopped from outside


class Attempts:
    """The trainings of one project with one set of ingredients, begun since the last that succeeded."""

    def __init__(self, connection: redis.Redis, project: str, ingredients: dict[str, Any]) -> None:
        self.redis = connection
        self.where = key(project, "attempts")
        text = json.dumps(ingredients, sort_keys=True).encode()
        self.of = hashlib.sha256(text).hexdigest()[:16]
        kept: Any = self.redis.get(self.where)
        found: dict[str, Any] = json.loads(kept) if kept else {}
        same = found.get("of") == self.of
        self.begun, self.failed = (int(found[name]) if same else 0 for name in ("begun", "failed"))

    @property
    def hopeless(self) -> str:
        """Why it is not begun again by itself, "" if it is."""
        if self.failed >= FAILED:
            return f"it has failed {self.failed} times with the same annotations"
        if self.begun - self.failed >= ENDED:
            return f"its worker has ended {self.begun - self.failed} times during it: out of memory, perhaps"
        return ""

    def begin(self) -> None:
        """It is about to begin."""
        self.begun += 1
        self._keep()

    def fail(self) -> None:
        """It raised an error."""
        self.failed += 1
        self._keep()

    def succeed(self) -> None:
        """It went well."""
        self.redis.delete(self.where)

    def _keep(self) -> None:
        self.redis.set(self.where, json.dumps({"of": self.of, "begun": self.begun, "failed": self.failed}))

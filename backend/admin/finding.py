"""What `skylight doctor` says of one thing."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at: how it stands and, unless all is well, what to do next."""

    what: str  # the thing, as "Redis" or "project 3 'pits': webhook"
    state: State
    detail: str
    next_step: str = ""

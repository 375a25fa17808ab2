"""Findings and changes: what `skylight doctor` finds, and what it or `skylight connect` puts right."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """The state of one thing and, unless all is well, what to do next."""

    what: str  # the thing, as "Redis" or "project 3 'pits': webhook"
    state: State
    detail: str
    next_step: str = ""


@dataclass(frozen=True)
class Change:
    """One thing that is as it has to be now, and whether it was changed for that."""

    what: str
    made: bool

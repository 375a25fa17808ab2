"""The names of everything in Redis: Skylight's keys, and the kinds of its jobs."""

from typing import Any, Literal

Kind = Literal["ingest", "train", "preannotate", "embed"]
KINDS: tuple[Kind, ...] = ("ingest", "train", "preannotate", "embed")  # a worker takes them in this order

PROJECTS = "skylight:projects"  # set of the projects that ever wrote
GONE = "skylight:gone"  # hash: projects that Label Studio has no more, and how it is known
RECONCILED = "skylight:reconciled"  # exists while it is too early to have all projects compared again


def key(project: str, noun: str) -> str:
    """The Redis key of one thing of one project. All keys of Skylight are made here."""
    return f"skylight:{project}:{noun}"


def job_id(project: str, kind: Kind, generation: Any = "") -> str:
    """The id of a job; without a generation the beginning of all of that kind."""
    return f"{kind}-{project.replace('.', '-')}-{generation}"

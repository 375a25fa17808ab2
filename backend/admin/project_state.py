"""The state of a project, gathered once for everything that shows it: /status, `skylight status` and the page."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis

from skylight.backend.errors import DamagedFile
from skylight.backend.learning.agreement import VersionSummary, summarize
from skylight.backend.limits import MACHINE
from skylight.backend.queue.failures import Failure
from skylight.backend.queue.progress import JobState, job_states
from skylight.backend.queue.quarantine import FailedAnnotation
from skylight.backend.service import Service
from skylight.backend.store.samples import SampleRecord
from skylight.model.images.normalization import Normalization

SETTLED_SECONDS = 2.0  # a folder changed less long ago may change again without a newer time stamp
CARD_FIELDS = ("version", "created_at", "training_images", "validation", "seconds", "verdict")  # that /status lists


@dataclass(frozen=True)
class VersionState:
    """One version of a project."""

    summary: VersionSummary
    card: Mapping[str, Any]  # `CARD_FIELDS` of its card, None where the card lacks one


@dataclass(frozen=True)
class QueueState:
    """What Redis knows of a project."""

    inbox: int  # events that wait
    up_to_date: bool  # whether everything accepted has been learned from
    jobs: Sequence[JobState]
    failures: Sequence[Failure]  # the project's, the newest first, then those of the machine
    failed_annotations: Sequence[FailedAnnotation]  # annotations that cannot be learned from as they are
    gone: str  # how it is known that Label Studio has the project no more, "" if it has


@dataclass(frozen=True)
class ProjectState:
    """One project: what the store knows of it and, unless Redis is away, what the queue knows."""

    project: str
    model_version: str  # that is served, as Label Studio names it
    normalization: Normalization
    samples: Sequence[SampleRecord]
    versions: Sequence[VersionState]  # by rising number
    queue: QueueState | None
    redis_error: redis.RedisError | None  # why `queue` is None

    @property
    def tasks(self) -> int:
        """How many tasks the samples are of."""
        return len({record.task for record in self.samples})

    @property
    def away(self) -> str:
        """Why the queue's state is not known, "" if it is."""
        return redis_away(self.redis_error) if self.redis_error else ""


class RecordCache:
    """Samples and versions of every project, each read again only if it may have changed: the page asks often."""

    def __init__(self, service: Service, clock: Callable[[], float] = time.time) -> None:
        self.service = service
        self.clock = clock
        self._lock = threading.Lock()
        self._samples: dict[str, tuple[int, list[SampleRecord]]] = {}  # with the folder's time stamp, ns
        self._versions: dict[tuple[str, int], VersionState] = {}  # immutable

    def samples(self, project: str) -> list[SampleRecord]:
        """All samples by rising annotation id."""
        try:
            changed = self.service.store.changed_at(project)
        except OSError:
            return []
        with self._lock:
            cached = self._samples.get(project)
        if cached and cached[0] == changed:
            return cached[1]
        records = self.service.store.samples(project)
        if self.clock() - changed / 1e9 > SETTLED_SECONDS:
            with self._lock:
                self._samples[project] = changed, records
        return records

    def versions(self, project: str) -> list[VersionState]:
        """All versions by rising number, but for those whose card is damaged."""
        versions = []
        for number in self.service.versions.numbers(project):
            with suppress(DamagedFile, FileNotFoundError):
                versions.append(self._version(project, number))
        return versions

    def _version(self, project: str, number: int) -> VersionState:
        with self._lock:
            version = self._versions.get((project, number))
        if version is None:
            card = self.service.versions.card(project, number)
            version = VersionState(summarize(card), {name: card.get(name) for name in CARD_FIELDS})
            with self._lock:
                self._versions[project, number] = version
        return version


def project_state(service: Service, project: str, records: RecordCache | None = None) -> ProjectState:
    """Gather a project's state. Without `records` its samples and versions are read anew."""
    records = records or RecordCache(service)
    queue, error = None, None
    try:
        queue = _queue_state(service, project)
    except redis.RedisError as caught:
        error = caught
    return ProjectState(
        project=project,
        model_version=service.version_name(project),
        normalization=service.normalizations.of(project),
        samples=records.samples(project),
        versions=records.versions(project),
        queue=queue,
        redis_error=error,
    )


def redis_away(error: redis.RedisError) -> str:
    """What it means that Redis does not answer."""
    return f"Redis does not answer ({type(error).__name__}); clicks work, training waits for it"


def _queue_state(service: Service, project: str) -> QueueState:
    queue = service.queue
    inbox = queue.inbox_length(project)
    return QueueState(
        inbox=inbox,
        up_to_date=not inbox and queue.trained(project) >= queue.dirty(project),
        jobs=job_states(queue, project),
        failures=service.failures.of(project) + service.failures.of(MACHINE),
        failed_annotations=service.quarantine.of(project),
        gone=queue.gone().get(project, ""),
    )

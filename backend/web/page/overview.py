"""What the page says of a project: gathered from the store, the versions' cards, the queue and Label Studio."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import redis

from skylight.backend.errors import SetAside, SkylightError
from skylight.backend.learning.agreement import (
    RECENT,
    UNCHANGED,
    Agreement,
    Version,
    agreements,
    learning_curve,
    summary,
)
from skylight.backend.learning.coverage import Readiness
from skylight.backend.limits import MACHINE
from skylight.backend.queue.counters import Backlog, backlog
from skylight.backend.queue.failures import Failure
from skylight.backend.queue.progress import JobState, job_states
from skylight.backend.queue.quarantine import Aside
from skylight.backend.queue.workers import running
from skylight.backend.service import Service
from skylight.backend.store.samples import SampleRecord
from skylight.backend.web.page.charts import Chart
from skylight.backend.web.page.curves import agreement_chart, curve_chart
from skylight.model.images.normalization import OWN

SETTLED_SECONDS = 2.0  # a folder changed less long ago may change again without a newer time stamp


@dataclass(frozen=True)
class Correction:
    """How far the newest accepted annotations lay from the pre-annotations shown."""

    recent: float  # mean IoU of the last `of`
    of: int
    unchanged: int  # of all `count`
    count: int
    since: datetime
    until: datetime


@dataclass(frozen=True)
class ProjectView:
    """One project as the page shows it."""

    key: str
    number: str  # its id in Label Studio
    title: str
    link: str  # to the project in Label Studio, "" if its address is not known
    labels: tuple[str, ...]
    problem: str  # why it cannot be served, "" if it can
    served: str  # the model version, as Label Studio names it
    current: int
    before: int
    annotations: int
    tasks: int
    inbox: int
    jobs: Sequence[JobState]
    away: str  # why the queue's state is not known, "" if it is
    workers: int
    backlog: Sequence[Backlog]
    up_to_date: bool
    needed: int  # annotated tasks before the first training
    versions: Sequence[Version]  # the newest first
    curve: Chart | None
    agreement: Chart | None
    correction: Correction | None
    readiness: Readiness | None
    failures: Sequence[Failure] = ()  # what goes wrong now, the newest first
    asides: Sequence[Aside] = ()  # annotations that cannot be learned from as they are
    rasters: str = ""  # how they are seen, "" if each goes by its own
    gone: str = ""  # how it is known that Label Studio has it no more, "" if it has

    @property
    def now(self) -> Version | None:
        """The version that is served."""
        return next((version for version in self.versions if version.number == self.current), None)

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self.inbox) or any(job.running or job.queued for job in self.jobs)


@dataclass(frozen=True)
class QueueState:
    """What the queue says of a project."""

    inbox: int = 0
    jobs: Sequence[JobState] = ()
    workers: int = 0
    backlog: Sequence[Backlog] = ()  # of all projects
    up_to_date: bool = False
    away: str = ""
    asides: Sequence[Aside] = ()
    gone: str = ""


class Records:
    """Samples and versions of every project, each read again only if it may have changed: a page asks often."""

    def __init__(self, service: Service, clock: Callable[[], float] = time.time) -> None:
        self.service = service
        self.clock = clock
        self._lock = threading.Lock()
        self._samples: dict[str, tuple[int, list[SampleRecord]]] = {}
        self._versions: dict[tuple[str, int], Version] = {}  # immutable

    def samples(self, project: str) -> list[SampleRecord]:
        """All samples by rising annotation id."""
        try:
            changed = self.service.store.changed_at(project)
        except OSError:
            return []
        with self._lock:
            kept = self._samples.get(project)
        if kept and kept[0] == changed:
            return kept[1]
        records = self.service.store.samples(project)
        if self.clock() - changed / 1e9 > SETTLED_SECONDS:
            with self._lock:
                self._samples[project] = changed, records
        return records

    def versions(self, project: str) -> list[Version]:
        """All versions, the newest first."""
        found = []
        for number in reversed(self.service.versions.numbers(project)):
            with suppress(SetAside, FileNotFoundError):
                found.append(self._version(project, number))
        return found

    def _version(self, project: str, number: int) -> Version:
        with self._lock:
            kept = self._versions.get((project, number))
        if kept is None:
            kept = summary(self.service.versions.card(project, number))
            with self._lock:
                self._versions[project, number] = kept
        return kept


def project_view(records: Records, project: str, known: Readiness | None) -> ProjectView:
    """Everything about one project; Redis and Label Studio may be away."""
    service, samples, versions = records.service, records.samples(project), records.versions(project)
    labels, problem = configured(service, project)
    number = project.partition(".")[0]
    queue = queue_state(service, project)
    address = service.settings.label_studio_url
    found, how = agreements(samples), service.normalisations.of(project)
    return ProjectView(
        key=project,
        number=number,
        title=(known.title if known else "") or f"Project {number}",
        link=f"{address}/projects/{number}" if address else "",
        labels=labels,
        problem=problem,
        served=service.version_name(project),
        current=service.versions.current(project),
        before=service.versions.before(project),
        annotations=len(samples),
        tasks=len({record.task for record in samples}),
        inbox=queue.inbox,
        jobs=queue.jobs,
        away=queue.away,
        workers=queue.workers,
        backlog=queue.backlog,
        up_to_date=queue.up_to_date,
        needed=service.settings.min_annotations,
        versions=versions,
        curve=curve_chart(learning_curve(versions)),
        agreement=agreement_chart(found),
        correction=correction(found),
        readiness=known,
        failures=service.failures.of(project) + service.failures.of(MACHINE),
        asides=queue.asides,
        rasters="" if how == OWN else str(how),
        gone=queue.gone,
    )


def configured(service: Service, project: str) -> tuple[tuple[str, ...], str]:
    """The project's labels, and why it cannot be served, "" if it can."""
    config = service.store.config(project)
    if not config:
        return (), "its labeling configuration has not come yet; open the project in Label Studio"
    try:
        return service.labeling(config).labels, ""
    except SkylightError as error:
        return (), str(error)


def queue_state(service: Service, project: str) -> QueueState:
    """What waits and what runs; that it is not known while Redis is away."""
    queue = service.queue
    try:
        inbox = queue.inbox_length(project)
        return QueueState(
            inbox=inbox,
            jobs=job_states(queue, project),
            workers=len(running(queue)),
            backlog=backlog(queue),
            up_to_date=not inbox and queue.trained(project) >= queue.dirty(project),
            asides=service.asides.of(project),
            gone=queue.gone().get(project, ""),
        )
    except redis.RedisError as error:
        return QueueState(away=f"Redis does not answer ({type(error).__name__}); clicks work, training waits for it")


def correction(found: Sequence[Agreement]) -> Correction | None:
    """Agreement in numbers; None before the first."""
    if not found:
        return None
    last = [one.iou for one in found[-RECENT:]]
    unchanged = sum(one.iou >= UNCHANGED for one in found)
    return Correction(sum(last) / len(last), len(last), unchanged, len(found), found[0].at, found[-1].at)

"""What the page says of a project: its state, and what else the page draws or links to."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import redis

from skylight.backend.admin.project_state import ProjectState, RecordCache, project_state, redis_away
from skylight.backend.errors import SkylightError
from skylight.backend.learning.agreement import RECENT, UNCHANGED, Agreement, VersionSummary, agreements, learning_curve
from skylight.backend.learning.coverage import Readiness
from skylight.backend.queue.counters import Backlog, backlog
from skylight.backend.queue.failures import Failure
from skylight.backend.queue.progress import JobState
from skylight.backend.queue.quarantine import FailedAnnotation
from skylight.backend.queue.workers import running
from skylight.backend.service import Service
from skylight.backend.web.page.charts import Chart, agreement_chart, learning_chart
from skylight.model.images.normalization import PER_IMAGE


@dataclass(frozen=True)
class AgreementSummary:
    """Agreement of accepted annotations with the pre-annotations shown."""

    recent: float  # mean IoU of the last `of`
    of: int
    unchanged: int  # of all `count`, accepted as they were
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
    versions: Sequence[VersionSummary]  # the newest first
    learning_chart: Chart | None
    agreement_chart: Chart | None
    agreement: AgreementSummary | None
    readiness: Readiness | None
    failures: Sequence[Failure] = ()  # what goes wrong now, the newest first
    failed_annotations: Sequence[FailedAnnotation] = ()  # annotations that cannot be learned from as they are
    rasters: str = ""  # how they are seen, "" if each goes by its own
    gone: str = ""  # how it is known that Label Studio has it no more, "" if it has

    @property
    def now(self) -> VersionSummary | None:
        """The version that is served."""
        return next((version for version in self.versions if version.number == self.current), None)

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self.inbox) or any(job.running or job.queued for job in self.jobs)


def project_view(service: Service, project: str, records: RecordCache, readiness: Readiness | None) -> ProjectView:
    """Everything about one project; Redis and Label Studio may be away."""
    state = project_state(service, project, records)
    queue = state.queue
    workers, waiting, away = _all_projects(service, state)
    labels, problem = served_labels(service, project)
    number = project.partition(".")[0]
    address = service.settings.label_studio_url
    versions = [version.summary for version in reversed(state.versions)]
    agreed = agreements(state.samples)
    return ProjectView(
        key=project,
        number=number,
        title=(readiness.title if readiness else "") or f"Project {number}",
        link=f"{address}/projects/{number}" if address else "",
        labels=labels,
        problem=problem,
        served=state.model_version,
        current=service.versions.current(project),
        before=service.versions.before(project),
        annotations=len(state.samples),
        tasks=state.tasks,
        inbox=queue.inbox if queue else 0,
        jobs=queue.jobs if queue else (),
        away=away,
        workers=workers,
        backlog=waiting,
        up_to_date=queue is not None and queue.up_to_date,
        needed=service.settings.min_annotations,
        versions=versions,
        learning_chart=learning_chart(learning_curve(versions)),
        agreement_chart=agreement_chart(agreed),
        agreement=agreement_summary(agreed),
        readiness=readiness,
        failures=queue.failures if queue else (),
        failed_annotations=queue.failed_annotations if queue else (),
        rasters="" if state.normalization == PER_IMAGE else str(state.normalization),
        gone=queue.gone if queue else "",
    )


def _all_projects(service: Service, state: ProjectState) -> tuple[int, Sequence[Backlog], str]:
    """The number of workers, the jobs that wait for them, and why these are not known, "" if they are."""
    if state.away:
        return 0, (), state.away
    try:
        return len(running(service.queue)), backlog(service.queue), ""
    except redis.RedisError as error:
        return 0, (), redis_away(error)


def served_labels(service: Service, project: str) -> tuple[tuple[str, ...], str]:
    """The project's labels, none if it cannot be served, and why it cannot, "" if it can."""
    config = service.store.config(project)
    if not config:
        return (), "its labeling configuration has not come yet; open the project in Label Studio"
    try:
        return service.labeling(config).labels, ""
    except SkylightError as error:
        return (), str(error)


def agreement_summary(agreed: Sequence[Agreement]) -> AgreementSummary | None:
    """Agreement in numbers; None before the first."""
    if not agreed:
        return None
    last = [agreement.iou for agreement in agreed[-RECENT:]]
    unchanged = sum(agreement.iou >= UNCHANGED for agreement in agreed)
    return AgreementSummary(sum(last) / len(last), len(last), unchanged, len(agreed), agreed[0].at, agreed[-1].at)

"""Embedding a project's images, so that no click waits for the encoder: by a worker, or by a command."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from skylight.backend.errors import DATA_ERRORS, LabelStudioError, MediaError, SkylightError, Unavailable
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.labelstudio.events import project_key
from skylight.backend.labelstudio.image_urls import image_urls
from skylight.backend.labelstudio.label_config import Labeling
from skylight.backend.labelstudio.task_listing import LIGHT_PAGE, TaskSummary
from skylight.backend.learning.coverage import readiness_test
from skylight.backend.queue.progress import reporter
from skylight.backend.queue.time_slice import SLICE_SECONDS, TimeSlice
from skylight.backend.service import Service
from skylight.backend.store.disk_space import DISK_FAIL, GIGABYTE, free_bytes
from skylight.backend.store.normalization import ENOUGH
from skylight.backend.trace import record_error
from skylight.model.images.decoding import ImageError
from skylight.model.images.normalization import Normalization

REFUSED = "embedding"  # what a failure by Label Studio is called
NEXT = 5  # open tasks after the one just opened that are embedded first

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskImage:
    """An image by its address, and the first task that shows it."""

    task: int
    url: str


@dataclass
class EmbeddingProgress:
    """Counts of images that are embedded, were, or could not be."""

    total: int
    there: int = 0  # were embedded already
    embedded: int = 0
    failed: list[tuple[int, str]] = field(default_factory=list)  # task, and why
    quantiles: list[NDArray[np.float64]] = field(default_factory=list)  # of those stretched by their own range
    began: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Images that nothing is left to be done for."""
        return self.there + self.embedded + len(self.failed)

    @property
    def rate(self) -> float:
        """Images embedded per second."""
        return self.embedded / max(time.monotonic() - self.began, 1e-9)


def format_rate(rate: float) -> str:
    """Images per second, as people read it."""
    return f"{rate:.1f} images/s" if rate >= 1 else f"{rate:.2f} images/s"


def task_images(tasks: Iterable[TaskSummary], labeling: Labeling) -> list[TaskImage]:
    """All images of some tasks that can be clicked on, each once."""
    found: dict[str, TaskImage] = {}
    for task in tasks:
        for url in image_urls({"id": task.id, "data": task.data}, labeling):
            found.setdefault(url, TaskImage(task.id, url))
    return list(found.values())


def embed_each(
    service: Service, client: LabelStudio, project: str, images: Iterable[TaskImage], tally: EmbeddingProgress
) -> Iterator[tuple[TaskImage, str]]:
    """Embed a project's images, each counted in `tally`; yields each with "", or with why it could not be.

    One by one, on a GPU as many at once as it takes.

    After some of more than 8 bits the project's normalisation is settled, and the others are seen by it. Raises
    LabelStudioError if Label Studio is down, rather than to blame the pictures, and Unavailable if the disk is full.
    """
    ready = readiness_test(service, project, samples=False)

    def embed(image: TaskImage) -> str | None:
        """None if another process came first."""
        return None if ready(image.url) else _embed(service, client, project, image, tally)

    for image, reason in _at_once(service.embedder.segmenter.batch, embed, images):
        if reason is None:
            tally.there += 1
        elif reason:
            tally.failed.append((image.task, reason))
        else:
            tally.embedded += 1
        if len(tally.quantiles) >= ENOUGH:
            service.normalizations.settle(project, tally.quantiles)
            tally.quantiles.clear()
            ready = readiness_test(service, project, samples=False)
        yield image, reason or ""


def _at_once(
    many: int, embed: Callable[[TaskImage], str | None], images: Iterable[TaskImage]
) -> Iterator[tuple[TaskImage, str | None]]:
    """Each image with what `embed` says of it, that of `many` in as many threads."""
    if many == 1:
        yield from ((image, embed(image)) for image in images)
        return
    left = iter(images)
    with ThreadPoolExecutor(many) as pool:
        while chunk := list(islice(left, many)):
            # In the job's own context, or what fails would not be noted of it.
            futures = [pool.submit(copy_context().run, embed, image) for image in chunk]
            yield from ((image, future.result()) for image, future in zip(chunk, futures, strict=True))


def _embed(service: Service, client: LabelStudio, project: str, image: TaskImage, tally: EmbeddingProgress) -> str:
    """Embed an image; gives why it could not be, "" if it is."""
    if (free := free_bytes(service.settings.home)) < DISK_FAIL:
        raise Unavailable(f"only {free / GIGABYTE:.1f} GB are free for {service.settings.home}; make room")
    try:
        _, embedding = service.embedder_for(project).embedding(image.url)
        if embedding.quantiles is not None:
            tally.quantiles.append(embedding.quantiles)
        return ""
    except MediaError as error:
        client.version()
        record_error(error)
        return str(error)
    except (SkylightError, ImageError) as error:
        record_error(error)
        return str(error)
    except DATA_ERRORS as error:
        log.exception("task %s: an error that Skylight did not foresee", image.task)
        record_error(error)
        return f"{type(error).__name__}: {error}"


def precompute(service: Service, number: int) -> Iterator[EmbeddingProgress]:
    """Embed all images of Label Studio's project `number` here and now; yields how far it is after each, and at first.

    It goes from the last task to the first: a worker that is at it comes from the other end, and they meet. Needs no
    Redis. Raises LabelStudioError, ConfigError, and Unavailable without Label Studio's address and key.
    """
    client = service.labelstudio
    if client is None:
        raise Unavailable("set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
    response = client.project(number)
    project = project_key(response)
    images = task_images(client.tasks(number), service.labeling(str(response["label_config"])))
    how: Normalization | None = None
    while how != service.normalizations.of(project):  # settled on the way, it asks for the first ones once more
        how = service.normalizations.of(project)
        ready = readiness_test(service, project)
        todo = [image for image in images if not ready(image.url)]
        tally = EmbeddingProgress(len(images), there=len(images) - len(todo))
        yield tally
        for _ in embed_each(service, client, project, reversed(todo), tally):
            yield tally
        service.normalizations.settle(project, tally.quantiles)


def embed_project(service: Service, project: str) -> bool:
    """Embed a project's images as requested, those of the tasks after the ones opened last first.

    Stops when something more urgent is queued, or after a while; gives whether anything is left. What is embedded is
    known by its file, so it goes on from there. If Label Studio does not answer, the log, the page and the doctor say
    so, and it is tried again after a while.
    """
    client = service.labelstudio
    if client is None:
        return False
    number = int(project.partition(".")[0])
    try:
        response = client.project(number)
        if project_key(response) != project:
            raise LabelStudioError(f"Label Studio's project {number} is another one now")
        left = _EmbeddingRound(service, client, project, service.labeling(str(response["label_config"]))).run()
        service.failures.clear(project, REFUSED)
        return left
    except LabelStudioError as error:
        log.warning("project %s: its images are not embedded: %s", project, error)
        service.retries.record_refusal(project, "embed", REFUSED, error)
    except SkylightError as error:
        log.warning("project %s: its images are not embedded: %s", project, error)
        record_error(error)
    service.prefetch_requests.forget_opened(project)  # by the time of the next try other tasks are open
    return False


class _EmbeddingRound:
    """One job's share of embedding a project's images."""

    def __init__(self, service: Service, client: LabelStudio, project: str, labeling: Labeling) -> None:
        self.service = service
        self.client = client
        self.project = project
        self.labeling = labeling
        self.time_slice = TimeSlice(service.queue, "embed", longest=SLICE_SECONDS)

    @property
    def number(self) -> int:
        """The project's id in Label Studio."""
        return int(self.project.partition(".")[0])

    def run(self) -> bool:
        """As `embed_project`."""
        queue = self.service.queue
        wanted = self.service.prefetch_requests.newest(self.project)
        if self._interrupted():
            return True
        if not wanted:
            return False
        images = task_images(self.client.tasks(self.number), self.labeling)
        ready = readiness_test(self.service, self.project)
        missing = {image.url: image for image in images if not ready(image.url)}
        todo = [missing[url] for url in self.service.prefetch_requests.without_failed(self.project, missing)]
        how = self.service.normalizations.of(self.project)
        tally = EmbeddingProgress(len(images), there=len(images) - len(todo))  # or have failed before
        report = reporter(queue, self.project, "embed")
        report(tally.done, tally.total, 0.0)
        self.time_slice.start_work()
        for _ in self._embed(todo, tally):
            report(tally.done, tally.total, tally.rate)
            if self._interrupted():
                return True
        self.service.prefetch_requests.mark_done(self.project, wanted)
        if self.service.normalizations.settle(self.project, tally.quantiles) != how:
            self.service.prefetch_requests.request_all(
                self.project
            )  # the first ones once more, by what they have settled
        self._log(tally)
        return False

    def _interrupted(self) -> bool:
        """Embed the next tasks' images, if requested; gives whether the round has to end for something more urgent."""
        return self._must_end() or self._embed_next_tasks()

    def _must_end(self) -> bool:
        self.service.check_stop()
        return self.time_slice.is_over or self.service.queue.has_waiting("ingest", "train", "preannotate")

    def _embed_next_tasks(self) -> bool:
        """Embed what comes after the tasks opened last; gives whether something more urgent came between."""
        while (opened := self.service.prefetch_requests.last_opened(self.project)) is not None:
            page = islice(self.client.tasks(self.number, after=opened), LIGHT_PAGE)
            following = islice((task for task in page if not task.annotations and not task.skipped), NEXT)
            for _ in self._embed(task_images(following, self.labeling), EmbeddingProgress(0)):
                if self._must_end():
                    return True
            self.service.prefetch_requests.mark_next_done(self.project, opened)
        return False

    def _embed(self, images: Iterable[TaskImage], tally: EmbeddingProgress) -> Iterator[TaskImage]:
        for image, reason in embed_each(self.service, self.client, self.project, images, tally):
            if reason:
                log.warning("project %s task %s: its image is not embedded: %s", self.project, image.task, reason)
                self.service.prefetch_requests.note_failure(self.project, image.url)
            yield image

    def _log(self, tally: EmbeddingProgress) -> None:
        if tally.embedded or tally.failed:
            log.info(
                "project %s: %d images embedded, %s; %d were, or had failed before; %d failed",
                self.project,
                tally.embedded,
                format_rate(tally.rate),
                tally.there,
                len(tally.failed),
            )
